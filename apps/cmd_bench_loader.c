/* ebb bench loader: the loader on a data set beside the machine's limits, as tables or as JSON. */
#include "commands.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/progress.h"

#include <ebb/bench.h>
#include <ebb/compute.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_THREAD_COUNTS = 64 };

typedef struct bench_options {
    bool json;
    char *dataset, *threads;
    int orders, caches, values;
    int64_t batch, lanes, memory, passes, block_rows, window_blocks, steps, seed;
} bench_options_t;

static const char *const order_names[] = {"shuffled", "sequential", "both", NULL};
static const char *const cache_names[] = {"warm", "cold", "both", NULL};
static const char *const value_names[] = {"float", "stored", NULL};

static const ebb_option_t options[] = {
    {.name = "json",
     .type = EBB_OPT_FLAG,
     .offset = offsetof(bench_options_t, json),
     .help = "print JSON: the setting, limits and loader, times of one pass in seconds"},
    {OPTION_DATASET(bench_options_t, "In a foreign HDF5 file: path of X, and after a colon of the targets"),
     .unit = "path"},
    {.name = "threads",
     .letter = 't',
     .type = EBB_OPT_STRING,
     .offset = offsetof(bench_options_t, threads),
     .unit = "list",
     .help = "numbers of threads to measure, as in 1,2,4; without it 1, 2, 4 ... and all cores"},
    {.name = "order",
     .type = EBB_OPT_CHOICE,
     .offset = offsetof(bench_options_t, orders),
     .def = "both",
     .choices = order_names,
     .help = "order of the rows"},
    {.name = "cache",
     .type = EBB_OPT_CHOICE,
     .offset = offsetof(bench_options_t, caches),
     .def = "both",
     .choices = cache_names,
     .help = "with the files in the page cache, or dropped from it before each pass"},
    {.name = "values",
     .type = EBB_OPT_CHOICE,
     .offset = offsetof(bench_options_t, values),
     .def = "float",
     .choices = value_names,
     .help = "types of a batch: int32 columns and float32 values, or both as the shards hold them"},
    {.name = "repeats",
     .letter = 'n',
     .type = EBB_OPT_I64,
     .offset = offsetof(bench_options_t, passes),
     .def = "5",
     .unit = "passes",
     .min = 1,
     .max = 100,
     .help = "passes that are timed"},
    {.name = "steps",
     .type = EBB_OPT_I64,
     .offset = offsetof(bench_options_t, steps),
     .def = "0",
     .unit = "batches",
     .min = 0,
     .max = INFINITY,
     .help = "batches of a pass; 0: an epoch"},
    {.name = "batch",
     .letter = 'b',
     .type = EBB_OPT_I64,
     .offset = offsetof(bench_options_t, batch),
     .def = "4096",
     .unit = "rows",
     .min = 1,
     .max = INFINITY,
     .help = "rows of a batch, at most those of the data set"},
    {.name = "lanes",
     .type = EBB_OPT_I64,
     .offset = offsetof(bench_options_t, lanes),
     .def = "24",
     .unit = "lanes",
     .min = 1,
     .max = 65536,
     .help = "lanes of the order"},
    {.name = "memory",
     .letter = 'm',
     .type = EBB_OPT_BYTES,
     .offset = offsetof(bench_options_t, memory),
     .def = "0",
     .unit = "bytes",
     .min = 0,
     .max = INFINITY,
     .help = "memory of the loader; 0: 1 GiB, or less, so that each epoch decodes all again"},
    {.name = "block-rows",
     .type = EBB_OPT_I64,
     .offset = offsetof(bench_options_t, block_rows),
     .def = "0",
     .unit = "rows",
     .min = 0,
     .max = INFINITY,
     .help = "rows of a block of the order; 0: the loader's choice"},
    {.name = "window-blocks",
     .type = EBB_OPT_I64,
     .offset = offsetof(bench_options_t, window_blocks),
     .def = "0",
     .unit = "blocks",
     .min = 0,
     .max = 1e9,
     .help = "blocks among which a lane's rows are shuffled; 0: the loader's choice"},
    {.name = "seed",
     .type = EBB_OPT_I64,
     .offset = offsetof(bench_options_t, seed),
     .def = "1",
     .min = 0,
     .max = INFINITY,
     .help = "seed of the order"},
    {0},
};

/* Where results go: lines as they come, or JSON at the end. */
typedef struct show {
    const bench_options_t *options;
    ebb_bench_loader_setting_t setting;
    char cpu[256];
    json_t *limits, *loader;
} show_t;

/* ---- table ---- */

static void describe_cpu(char *text, size_t size)
{
    ebb_backend_t *backend = NULL;
    snprintf(text, size, "an unknown processor");
    if (ebb_backend_open("cpu", 0, &backend) != EBB_OK || backend->ops->describe(backend->dev, text, size) != EBB_OK)
        ebb_error_clear();
    ebb_backend_close(backend);
}

static void print_data(const ebb_bench_loader_setting_t *s)
{
    char a[3][32];
    printf("data    %s: %s rows x %s columns, %s %s\n", s->info->name,
           ebb_format_count((double)s->info->rows, a[0], sizeof a[0]),
           ebb_format_count((double)s->info->cols, a[1], sizeof a[1]),
           ebb_format_count((double)s->info->nnz, a[2], sizeof a[2]), s->info->sparse ? "non-zeros" : "values, dense");
    printf("        %s in %s chunks (%s), %s decoded\n", ebb_format_bytes((double)s->packed_bytes, a[0], sizeof a[0]),
           ebb_format_count((double)s->chunks, a[1], sizeof a[1]), s->codec,
           ebb_format_bytes((double)s->decoded_bytes, a[2], sizeof a[2]));
}

static void print_setting(const show_t *show)
{
    const ebb_bench_loader_setting_t *s = &show->setting;
    print_data(s);
    printf("order   batches of %lld rows from %d lanes, windows of %d blocks of %lld rows\n", (long long)s->order.batch,
           s->order.lanes, s->order.window_blocks, (long long)s->order.block_rows);
    if (show->options->values == 1)
        printf("values  as they are stored: %s\n", ebb_value_type_name(s->info->value_type));
    printf("on      %s\n", show->cpu);
    printf("timed   %d passes of %s each after one that is not; medians\n", s->passes,
           s->steps > 0 ? "some steps" : "an epoch");
    if (s->sampled < 1)
        printf("note    decoding alone is measured on %.1f %% of the chunks: more would fill the memory\n",
               100 * s->sampled);
    if (s->uncleared > 0.01)
        printf("note    nothing is measured cold: %.0f %% of the files stay in the kernel's page cache, or it does\n"
               "        not show this user what it holds\n",
               100 * s->uncleared);
    printf("\n%-24s %7s %9s %9s %7s %7s %7s %6s %6s %9s\n", "", "threads", "M rows/s",
           s->info->sparse ? "M nnz/s" : "M val/s", "GB/s", "spread", "decoded", "share", "stall", "memory");
}

static void name_figure(const show_t *show, const ebb_bench_figure_t *f, char *name, size_t size)
{
    const char *codec = show->setting.codec;
    if (f->what == EBB_BENCH_MEMCPY)
        snprintf(name, size, "memcpy");
    else if (f->what == EBB_BENCH_READ)
        snprintf(name, size, "file read, %s", f->cold ? "cold" : "warm");
    else if (f->what == EBB_BENCH_DECODE)
        snprintf(name, size, "%s%s alone", codec, strcmp(codec, "none") == 0 ? ": copy" : " decode");
    else if (f->what == EBB_BENCH_CHECK)
        snprintf(name, size, "checksums alone");
    else if (f->what == EBB_BENCH_LEAST)
        snprintf(name, size, "read, decode, write");
    else
        snprintf(name, size, "loader, %s, %s", f->shuffled ? "shuffled" : "sequential",
                 f->paced  ? "paced"
                 : f->kept ? "kept"
                 : f->cold ? "cold"
                           : "warm");
}

static void print_figure(const show_t *show, const ebb_bench_figure_t *f)
{
    char name[64], memory[32], share[16] = "-";
    name_figure(show, f, name, sizeof name);
    printf("%-24s %7d ", name, f->threads);
    if (f->rows > 0)
        printf("%9.3f %9.1f ", f->rows / f->seconds * 1e-6, f->nnz / f->seconds * 1e-6);
    else
        printf("%9s %9s ", "", "");
    printf("%7.2f %5.0f %%", f->bytes / f->seconds * 1e-9, 100 * (f->slowest - f->fastest) / f->seconds);
    if (f->what == EBB_BENCH_LOADER) {
        if (!f->kept && !f->paced)
            snprintf(share, sizeof share, "%.2f", f->share);
        printf(" %7.2f %6s %4.0f %% %9s", f->decoded, share, 100 * f->stall,
               ebb_format_bytes((double)f->memory_bytes, memory, sizeof memory));
    }
    printf("\n");
    fflush(stdout);
}

static void print_legend(void)
{
    printf("\nGB/s     decoded bytes; of file read stored ones\n"
           "spread   between the fastest and the slowest pass, of the median\n"
           "decoded  rows decoded for each row delivered: below 1 some stay decoded in the loader's memory,\n"
           "         in \"kept\" all of them\n"
           "share    of decoding alone as much with as many threads; cold: of file read where that is slower\n"
           "read, decode, write: each chunk read from its file, checked, decoded, and written once, as\n"
           "         wide as batches hold it: what a loader has to do at least, without a shuffle\n"
           "stall    part of the time that the consumer waited: always, since it does nothing, but in\n"
           "         \"paced\", where it holds each batch for 1.25 times what the loader needs for one\n");
}

/* ---- JSON ---- */

static json_t *figure_json(const ebb_bench_figure_t *f)
{
    json_t *o =
        json_pack("{s:i, s:i, s:f, s:f, s:f, s:f}", "threads", f->threads, "passes", f->passes, "seconds", f->seconds,
                  "fastest_seconds", f->fastest, "slowest_seconds", f->slowest, "bytes_per_s", f->bytes / f->seconds);
    if (o && f->rows > 0)
        json_object_update_new(
            o, json_pack("{s:f, s:f}", "rows_per_s", f->rows / f->seconds, "nnz_per_s", f->nnz / f->seconds));
    return o;
}

static json_t *loader_json(const ebb_bench_figure_t *f)
{
    json_t *o = figure_json(f);
    json_object_update_new(o, json_pack("{s:s, s:s, s:b, s:b, s:f, s:f, s:f, s:I}", "order",
                                        order_names[f->shuffled ? 0 : 1], "cache", cache_names[f->cold ? 1 : 0], "kept",
                                        (int)f->kept, "paced", (int)f->paced, "share", f->share, "stall", f->stall,
                                        "decoded_per_row", f->decoded, "memory_bytes", (json_int_t)f->memory_bytes));
    return o;
}

static json_t *limit_json(const ebb_bench_figure_t *f)
{
    static const char *const names[] = {"memcpy", "file read", "decode", "checksums", "read, decode, write"};
    json_t *o = figure_json(f);
    json_object_set_new(o, "what", json_string(names[f->what]));
    if (f->what == EBB_BENCH_READ)
        json_object_set_new(o, "cache", json_string(cache_names[f->cold ? 1 : 0]));
    return o;
}

static json_t *data_json(const ebb_bench_loader_setting_t *s, const char *path)
{
    const ebb_dataset_info_t *info = s->info;
    return json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:b, s:s, s:I, s:I, s:I, s:f, s:f, s:I}", "path", path, "name",
                     info->name, "hash", info->hash, "rows", (json_int_t)info->rows, "cols", (json_int_t)info->cols,
                     "nnz", (json_int_t)info->nnz, "sparse", (int)info->sparse, "codec", s->codec, "chunks",
                     (json_int_t)s->chunks, "packed_bytes", (json_int_t)s->packed_bytes, "decoded_bytes",
                     (json_int_t)s->decoded_bytes, "sampled", s->sampled, "value_sum", s->value_sum, "column_sum",
                     (json_int_t)s->column_sum);
}

static json_t *setting_json(const show_t *show)
{
    const ebb_bench_loader_setting_t *s = &show->setting;
    return json_pack("{s:I, s:i, s:I, s:i, s:I, s:I, s:I, s:i, s:f, s:s}", "batch", (json_int_t)s->order.batch, "lanes",
                     (int)s->order.lanes, "block_rows", (json_int_t)s->order.block_rows, "window_blocks",
                     (int)s->order.window_blocks, "seed", (json_int_t)s->order.seed, "memory_bytes",
                     (json_int_t)s->memory_bytes, "steps", (json_int_t)s->steps, "passes", s->passes, "uncleared",
                     s->uncleared, "values", value_names[show->options->values]);
}

static ebb_status_t print_json(const show_t *show, const char *path)
{
    char when[32];
    ebb_format_utc(ebb_wall_seconds(), when, sizeof when);
    json_t *root = json_pack("{s:s, s:s, s:s, s:s, s:o?, s:o?, s:O, s:O}", "bench", "loader", "version", ebb_version(),
                             "when", when, "cpu", show->cpu, "data", data_json(&show->setting, path), "setting",
                             setting_json(show), "limits", show->limits, "loader", show->loader);
    char *text = root ? json_dumps(root, JSON_INDENT(2)) : NULL;
    json_decref(root);
    if (!text)
        return EBB_FAIL(EBB_EDATA, "%s: a name in it is not valid UTF-8, so it cannot be shown as JSON", path);
    puts(text);
    free(text);
    return EBB_OK;
}

/* ---- what the benchmark tells ---- */

static void hear_setting(void *user, const ebb_bench_loader_setting_t *setting)
{
    show_t *show = user;
    show->setting = *setting;
    describe_cpu(show->cpu, sizeof show->cpu);
    if (show->options->json)
        return;
    ebb_progress_interrupt();
    print_setting(show);
}

static void hear_doing(void *user, const char *text)
{
    char line[160];
    snprintf(line, sizeof line, "now: %s", text);
    if (ebb_progress_is_terminal())
        ebb_progress_line(0, false, line);
}

static void hear_figure(void *user, const ebb_bench_figure_t *f)
{
    show_t *show = user;
    if (show->options->json) {
        json_array_append_new(f->what == EBB_BENCH_LOADER ? show->loader : show->limits,
                              f->what == EBB_BENCH_LOADER ? loader_json(f) : limit_json(f));
        return;
    }
    ebb_progress_interrupt();
    print_figure(show, f);
}

/* ---- the command ---- */

/* "1,2,4" */
static ebb_status_t parse_threads(const char *text, int *count, int *n_p)
{
    *n_p = 0;
    for (const char *at = text; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        char number[24];
        int64_t value = 0;
        snprintf(number, sizeof number, "%.*s", (int)strcspn(at, ","), at);
        if (ebb_parse_i64(number, &value) != EBB_OK || value < 1 || value > 256 || *n_p == MAX_THREAD_COUNTS) {
            ebb_error_clear();
            return EBB_FAIL(EBB_EUSAGE,
                            "--threads: \"%.60s\" is not a list of at most %d numbers from 1 to 256, as in 1,2,4", text,
                            MAX_THREAD_COUNTS);
        }
        count[(*n_p)++] = (int)value;
    }
    return EBB_OK;
}

static ebb_status_t measure(show_t *show, const ebb_dataset_t *ds)
{
    const bench_options_t *o = show->options;
    int64_t rows = ebb_dataset_info(ds)->rows;
    int count[MAX_THREAD_COUNTS], n = 0;
    EBB_TRY(parse_threads(o->threads, count, &n));
    ebb_bench_loader_options_t wanted = {
        .order = {.seed = (uint64_t)o->seed, .batch = o->batch < rows ? o->batch : rows, .lanes = (int32_t)o->lanes},
        .memory_bytes = o->memory,
        .steps = o->steps,
        .passes = (int)o->passes,
        .threads = n > 0 ? count : NULL,
        .n_threads = n,
        .orders = (ebb_bench_order_t)o->orders,
        .caches = (ebb_bench_cache_t)o->caches,
        .stored = o->values == 1};
    wanted.order.block_rows = o->block_rows;
    wanted.order.window_blocks = (int32_t)o->window_blocks;
    ebb_bench_listener_t listener = {hear_setting, hear_doing, hear_figure, show};
    return ebb_bench_loader(ds, &wanted, &listener);
}

static ebb_status_t run(void *target, int n_operands, char **operands)
{
    show_t show = {.options = target};
    ebb_dataset_t *ds;
    EBB_TRY(ebb_dataset_open(operands[0], show.options->dataset, &ds));
    show.limits = json_array();
    show.loader = json_array();
    ebb_status_t status = measure(&show, ds);
    ebb_progress_interrupt();
    if (status == EBB_OK && show.options->json)
        status = print_json(&show, operands[0]);
    else if (status == EBB_OK)
        print_legend();
    json_decref(show.limits);
    json_decref(show.loader);
    ebb_dataset_close(ds);
    return status;
}

static const ebb_example_t examples[] = {
    {"How near the loader comes to decompression alone", "ebb bench loader data/cells"},
    {"Only what training does: shuffled, all cores", "ebb bench loader data/cells --order shuffled --cache warm"},
    {"For a consumer that takes bytes as bytes", "ebb bench loader data/digits --values stored"},
    {"An AnnData file as it is", "ebb bench loader cells.h5ad --dataset raw/X"},
    {"A large data set, in part", "ebb bench loader data/clicks --steps 2000 --repeats 3"},
    {0},
};

const ebb_command_t cmd_bench_loader = {
    .name = "bench loader",
    .help = "Measure the loader beside what this machine can do",
    .operands = "DIR",
    .about = "Measures in one run what this machine can do (copying memory, reading the files, decompressing\n"
             "the same chunks already in memory) and then the loader at each number of threads, shuffled and in\n"
             "storage order, with the files in the kernel's page cache (warm) and dropped from it before each\n"
             "pass (cold). DIR is a data set or an HDF5 file of others.\n"
             "\n"
             "Before anything is timed, one epoch is checked to deliver each row once. With as many threads as\n"
             "are given, one is the consumer, which decodes when it would wait; at one thread it shares its core\n"
             "with a read-ahead thread. Unless --memory says otherwise, the loader gets so little memory that\n"
             "every epoch decodes all of the data again; what keeping it brings is a line of its own. Cold passes\n"
             "begin with a new loader; caches of disks and of the hosts of virtual machines stay warm.\n",
    .min_operands = 1,
    .max_operands = 1,
    .options = options,
    .options_bytes = sizeof(bench_options_t),
    .examples = examples,
    .run = run,
};
