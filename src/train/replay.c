/* Graphs by key, as many as fit: rows of a lane lie in one of a few places of the ring of batches, and gradients in one
 * of a few buffers, so the same keys come again and again. */
#include "train/replay.h"
#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

enum { PLACES = 4096, MOST = PLACES / 2 };

typedef struct entry {
    ebb_replay_key_t key; /* rows 0: none */
    ebb_graph_t *graph;   /* NULL: given plainly so far */
} entry_t;

struct ebb_replay {
    const ebb_backend_t *backend;
    ebb_exec_t *exec;
    entry_t entry[PLACES];
    int entries;
    bool refused; /* this work cannot be noted */
};

ebb_status_t ebb_replay_create(const ebb_backend_t *backend, ebb_exec_t *exec, ebb_replay_t **replay_p)
{
    const char *text = getenv("EBB_CUDA_GRAPHS");
    *replay_p = NULL;
    if (!(backend->ops->caps & EBB_CAP_GRAPHS) || (text && strcmp(text, "0") == 0))
        return EBB_OK;
    EBB_TRY(EBB_NEW("graphs of passes", replay_p));
    (*replay_p)->backend = backend;
    (*replay_p)->exec = exec;
    return EBB_OK;
}

void ebb_replay_destroy(ebb_replay_t *replay)
{
    for (int i = 0; replay && i < PLACES; i++)
        replay->backend->ops->graph_free(replay->backend->dev, replay->entry[i].graph);
    ebb_free(replay);
}

static uint64_t hash(const ebb_replay_key_t *key)
{
    uint64_t word[sizeof *key / sizeof(uint64_t)], h = 0;
    memcpy(word, key, sizeof word);
    for (size_t i = 0; i < sizeof word / sizeof *word; i++)
        h = (h ^ word[i]) * 0x9E3779B97F4A7C15u, h ^= h >> 32;
    return h;
}

/* The key's entry, or the empty one where it goes. */
static entry_t *find(ebb_replay_t *replay, const ebb_replay_key_t *key)
{
    uint64_t at = hash(key) % PLACES;
    while (replay->entry[at].key.rows != 0 && memcmp(&replay->entry[at].key, key, sizeof *key) != 0)
        at = (at + 1) % PLACES;
    return &replay->entry[at];
}

/* NULL where it is refused. */
static ebb_graph_t *note(const ebb_replay_t *replay, ebb_status_t (*work)(void *user), void *user)
{
    const ebb_backend_ops_t *ops = replay->backend->ops;
    ebb_graph_t *graph = NULL;
    ebb_status_t status = ops->capture_begin(replay->exec);
    if (status == EBB_OK) {
        status = work(user);
        ebb_status_t end = ops->capture_end(replay->exec, &graph);
        status = status == EBB_OK ? end : status;
    }
    if (status == EBB_OK)
        return graph;
    ebb_error_clear(); /* what is not the noting's fault comes up again */
    ops->graph_free(replay->backend->dev, graph);
    return NULL;
}

ebb_status_t ebb_replay(ebb_replay_t *replay, const ebb_replay_key_t *key, ebb_status_t (*work)(void *user), void *user)
{
    bool done = false;
    if (!replay || replay->refused)
        return work(user);
    entry_t *e = find(replay, key);
    if (e->key.rows == 0) {
        if (replay->entries < MOST) {
            e->key = *key;
            replay->entries++;
        }
        return work(user);
    }
    if (!e->graph)
        e->graph = note(replay, work, user);
    replay->refused = !e->graph;
    if (e->graph)
        EBB_TRY(replay->backend->ops->graph_launch(replay->exec, e->graph, &done));
    if (done)
        return EBB_OK;
    replay->backend->ops->graph_free(replay->backend->dev, e->graph);
    e->graph = NULL; /* noted anew the next time */
    return work(user);
}
