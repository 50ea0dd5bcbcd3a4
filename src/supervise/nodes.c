/* Nodes of an allocation. Slurm itself notices a dead node after minutes, and mpirun, which starts a daemon on every
 * node of the allocation, would wait for it: so each is asked to run nothing, before the ranks are started again. */
#include "supervise/nodes.h"
#include "base/alloc.h"
#include "base/child.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ANSWER_S   20.0
#define MOST_NODES 64 /* more are not asked one by one */

static ebb_status_t add(ebb_nodes_t *nodes, const char *name)
{
    EBB_TRY(ebb_grow("nodes", (void **)&nodes->node, &nodes->capacity, nodes->n + 1, sizeof *nodes->node));
    nodes->node[nodes->n] = (ebb_node_t){.slots = 1};
    snprintf(nodes->node[nodes->n++].name, sizeof nodes->node->name, "%s", name);
    return EBB_OK;
}

static ebb_status_t read_names(ebb_nodes_t *nodes, const char *list)
{
    ebb_text_t out = {0}, err = {0};
    int code;
    char *const word[] = {(char *)"scontrol", (char *)"show", (char *)"hostnames", (char *)list, NULL};
    ebb_status_t status = ebb_child_run(word, NULL, ANSWER_S, &out, &err, &code);
    char *rest = code == 0 ? out.s : NULL, *name;
    while (status == EBB_OK && rest && (name = strsep(&rest, "\n")))
        if (*name)
            status = add(nodes, name);
    ebb_text_free(&out);
    ebb_text_free(&err);
    return status;
}

/* "2(x3),1": two tasks on each of three nodes, one on the next. */
static void read_slots(ebb_nodes_t *nodes, const char *text)
{
    int64_t i = 0;
    while (text && *text && i < nodes->n) {
        char *end;
        long slots = strtol(text, &end, 10), times = 1;
        if (strncmp(end, "(x", 2) == 0)
            times = strtol(end + 2, &end, 10);
        for (; times > 0 && i < nodes->n; times--)
            nodes->node[i++].slots = slots > 0 ? (int)slots : 1;
        end += strcspn(end, ",");
        text = *end ? end + 1 : end;
    }
}

static void count_slots(ebb_nodes_t *nodes)
{
    nodes->slots = 0;
    for (int64_t i = 0; i < nodes->n; i++)
        nodes->slots += nodes->node[i].gone ? 0 : nodes->node[i].slots;
}

void ebb_nodes_find(ebb_nodes_t *nodes)
{
    const char *list = getenv("SLURM_JOB_NODELIST"), *count = getenv("SLURM_JOB_NUM_NODES");
    *nodes = (ebb_nodes_t){0};
    if (!list || !count || atoi(count) < 2)
        return;
    if (read_names(nodes, list) != EBB_OK) {
        ebb_error_clear();
        ebb_nodes_free(nodes);
    }
    read_slots(nodes, getenv("SLURM_TASKS_PER_NODE"));
    count_slots(nodes);
}

void ebb_nodes_free(ebb_nodes_t *nodes)
{
    ebb_free(nodes->node);
    *nodes = (ebb_nodes_t){0};
}

static bool answers(const char *name)
{
    ebb_text_t out = {0}, err = {0};
    int code;
    char where[80];
    snprintf(where, sizeof where, "--nodelist=%s", name);
    char *const word[] = {(char *)"srun",       (char *)"--overlap",
                          (char *)"--nodes=1",  (char *)"--ntasks=1",
                          (char *)"--mpi=none", where,
                          (char *)"true",       NULL};
    bool good = ebb_child_run(word, NULL, ANSWER_S, &out, &err, &code) == EBB_OK && code == 0;
    ebb_error_clear();
    ebb_text_free(&out);
    ebb_text_free(&err);
    return good;
}

void ebb_nodes_look(ebb_nodes_t *nodes, ebb_text_t *lost)
{
    const char *here = getenv("SLURMD_NODENAME");
    if (nodes->n == 0 || nodes->n > MOST_NODES || !here || !answers(here))
        return;
    for (int64_t i = 0; i < nodes->n; i++) {
        ebb_node_t *node = &nodes->node[i];
        if (node->gone || strcmp(node->name, here) == 0 || answers(node->name))
            continue;
        node->gone = true;
        ebb_text_add(lost, " %s", node->name);
    }
    count_slots(nodes);
}

void ebb_nodes_hosts(const ebb_nodes_t *nodes, ebb_text_t *hosts)
{
    bool any = false;
    for (int64_t i = 0; i < nodes->n; i++)
        any |= nodes->node[i].gone;
    for (int64_t i = 0; i < nodes->n && any; i++)
        if (!nodes->node[i].gone)
            ebb_text_add(hosts, "%s%s:%d", hosts->n > 0 ? "," : "", nodes->node[i].name, nodes->node[i].slots);
}
