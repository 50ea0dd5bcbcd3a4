/* ebb verify: every check there is, on every byte of a data set. */
#include "commands.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/threads.h"

#include <ebb/shard.h>

#include <stdio.h>
#include <stdlib.h>

typedef struct verify_options {
    bool json;
    int64_t threads;
} verify_options_t;

/* Where faults are printed. */
typedef struct printer {
    const char *path;
    bool json, several;
} printer_t;

static const ebb_option_t options[] = {
    {"json", 0, EBB_OPT_FLAG, offsetof(verify_options_t, json), NULL, NULL, 0, 0, NULL,
     "print one JSON object per fault"},
    {"threads", 'j', EBB_OPT_I64, offsetof(verify_options_t, threads), "0", "threads", 0, 512, NULL,
     "shards checked at once; 0: as many as there are cores"},
    {0},
};

static void print_json(const char *path, const ebb_fault_t *fault)
{
    json_t *object =
        json_pack("{s:s, s:i, s:s?, s:I, s:I, s:s}", "path", path, "shard", fault->shard, "dataset", fault->dataset,
                  "chunk", (json_int_t)fault->chunk, "row", (json_int_t)fault->row, "message", fault->message);
    char *text = object ? ebb_json_dump(object) : NULL;
    json_decref(object);
    puts(text ? text : "{}");
    free(text);
}

static void print_line(const ebb_fault_t *fault)
{
    if (fault->shard >= 0)
        printf("shard %d: ", fault->shard);
    else
        printf("manifest: ");
    if (fault->dataset)
        printf("%s: ", fault->dataset);
    if (fault->chunk >= 0)
        printf("chunk %lld: ", (long long)fault->chunk);
    if (fault->row >= 0)
        printf("row %lld: ", (long long)fault->row);
    printf("%s\n", fault->message);
}

static void report(void *user, const ebb_fault_t *fault)
{
    const printer_t *p = user;
    if (p->json) {
        print_json(p->path, fault);
        return;
    }
    if (p->several)
        printf("%s: ", p->path);
    print_line(fault);
}

static ebb_status_t verify(const verify_options_t *o, const printer_t *p)
{
    char took[32];
    int64_t start = ebb_now_ns();
    EBB_TRY(ebb_dataset_verify(p->path, o->threads > 0 ? (int)o->threads : ebb_cores(), report, (void *)p));
    if (!o->json)
        printf("%s: no faults (%s)\n", p->path,
               ebb_format_duration((double)(ebb_now_ns() - start) * 1e-9, took, sizeof took));
    return EBB_OK;
}

/* Each of several is looked at, whatever is wrong with those before. */
static ebb_status_t run(void *target, int n_operands, char **operands)
{
    const verify_options_t *o = target;
    ebb_status_t status = EBB_OK;
    int bad = 0;
    if (n_operands == 1)
        return verify(o, &(printer_t){.path = operands[0], .json = o->json});
    for (int i = 0; i < n_operands; i++) {
        ebb_status_t found = verify(o, &(printer_t){.path = operands[i], .json = o->json, .several = true});
        if (found == EBB_OK)
            continue;
        fprintf(stderr, "ebb: error: %s\n", ebb_error()->message);
        ebb_error_clear();
        status = found;
        bad++;
    }
    return bad ? EBB_FAIL(status, "verify: %d of %d are not sound", bad, n_operands) : EBB_OK;
}

static const ebb_example_t examples[] = {
    {"Check a data set after copying it", "ebb verify data/sections/train"},
    {"All parts of a split", "ebb verify data/sections/*"},
    {0},
};

const ebb_command_t cmd_verify = {
    .name = "verify",
    .help = "Check every byte and every number of a data set",
    .operands = "PATH...",
    .about =
        "Checks the manifest against the shards, every checksum, every index, row pointers, that values are finite\n"
        "and that labels are classes. Each fault is printed with its shard, dataset, chunk and row. Exit status 65\n"
        "if there was any.\n",
    .min_operands = 1,
    .max_operands = ANY_OPERANDS,
    .options = options,
    .options_bytes = sizeof(verify_options_t),
    .examples = examples,
    .run = run,
};
