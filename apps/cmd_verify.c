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

static const ebb_option_t options[] = {
    {"json", 0, EBB_OPT_FLAG, offsetof(verify_options_t, json), NULL, NULL, 0, 0, NULL,
     "Print one JSON object per fault"},
    {"threads", 'j', EBB_OPT_I64, offsetof(verify_options_t, threads), "0", "threads", 0, 512, NULL,
     "Shards checked at once; 0: as many as there are cores"},
    {0},
};

static void print_json(const ebb_fault_t *fault)
{
    json_t *object = json_pack("{s:i, s:s?, s:I, s:I, s:s}", "shard", fault->shard, "dataset", fault->dataset, "chunk",
                               (json_int_t)fault->chunk, "row", (json_int_t)fault->row, "message", fault->message);
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
    const verify_options_t *o = user;
    if (o->json)
        print_json(fault);
    else
        print_line(fault);
}

static ebb_status_t run(void *target, int n_operands, char **operands)
{
    verify_options_t *o = target;
    char took[32];
    int64_t start = ebb_now_ns();
    EBB_TRY(ebb_dataset_verify(operands[0], o->threads > 0 ? (int)o->threads : ebb_cores(), report, o));
    if (!o->json)
        printf("%s: no faults (%s)\n", operands[0],
               ebb_format_duration((double)(ebb_now_ns() - start) * 1e-9, took, sizeof took));
    return EBB_OK;
}

static const ebb_example_t examples[] = {
    {"Check a data set after copying it", "ebb verify data/sections/train"},
    {0},
};

const ebb_command_t cmd_verify = {
    .name = "verify",
    .help = "Check every byte and every number of a data set",
    .operands = "PATH",
    .about =
        "Checks the manifest against the shards, every checksum, every index, row pointers, that values are finite\n"
        "and that labels are classes. Each fault is printed with its shard, dataset, chunk and row. Exit status 65\n"
        "if there was any.\n",
    .min_operands = 1,
    .max_operands = 1,
    .options = options,
    .options_bytes = sizeof(verify_options_t),
    .examples = examples,
    .run = run,
};
