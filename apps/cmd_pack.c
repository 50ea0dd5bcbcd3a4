/* ebb pack: source files to a sharded data set. */
#include "commands.h"

#include <ebb/comm.h>
#include <ebb/shard.h>

#include <math.h>
#include <signal.h>
#include <string.h>

typedef struct pack_options {
    char *from, *split, *name, *columns, *delimiter, *target, *trim_target, *task, *dataset, *like;
    int64_t split_seed, cols, skip_lines, hash_bits, shard_bytes, memory_bytes, level, threads;
    bool one_based, zero_based, no_header, dense, sparse, force, quiet;
} pack_options_t;

#define AT(field) offsetof(pack_options_t, field)

static const ebb_option_t options[] = {
    {"from", 'f', EBB_OPT_STRING, AT(from), NULL, NULL, 0, 0, NULL,
     "format of the sources: svmlight, items, csv, tsv, idx, npy, hdf5, h5ad, 10x or deb822; guessed from the content "
     "if not given"},
    {"split", 's', EBB_OPT_STRING, AT(split), NULL, NULL, 0, 0, NULL,
     "split rows at random into data sets below DEST, as in train=0.9,valid=0.1; the same rows fall to the same part "
     "whenever seed and sources are the same"},
    {"split-seed", 0, EBB_OPT_I64, AT(split_seed), "1", NULL, 0, 0, NULL, "seed of --split"},
    {"like", 'l', EBB_OPT_STRING, AT(like), NULL, NULL, 0, 0, NULL,
     "take columns, classes and encodings of this data set, so that test data fits a model trained on it"},
    {"cols", 0, EBB_OPT_I64, AT(cols), NULL, "columns", 0, 2147483647, NULL,
     "number of columns, where it must be more than the data shows"},
    {"columns", 'c', EBB_OPT_STRING, AT(columns), NULL, NULL, 0, 0, NULL,
     "CSV: what columns are, as NAME:KIND,...; kinds are numeric (also numeric:log1p, numeric:standard, "
     "numeric:bins=N), categorical, text, target, "
     "weight and ignore; * names the rest"},
    {"target", 't', EBB_OPT_STRING, AT(target), NULL, NULL, 0, 0, NULL,
     "where the targets are: the column of a CSV file, the file beside an IDX or .npy file, the path inside an HDF5 "
     "file"},
    {"task", 0, EBB_OPT_STRING, AT(task), NULL, NULL, 0, 0, NULL,
     "take targets as class or real; guessed if not given: text and few different integers are classes"},
    {"no-header", 0, EBB_OPT_FLAG, AT(no_header), NULL, NULL, 0, 0, NULL,
     "CSV: the first line is data; columns are named 1, 2, ..."},
    {"delimiter", 'd', EBB_OPT_STRING, AT(delimiter), NULL, NULL, 0, 0, NULL,
     "CSV: the character between cells, or tab; guessed if not given"},
    {"skip-lines", 0, EBB_OPT_I64, AT(skip_lines), "0", "lines", 0, 1000000, NULL,
     "text: leave out this many lines at the beginning of each source, before the header if there is one"},
    {"trim-target", 0, EBB_OPT_STRING, AT(trim_target), NULL, NULL, 0, 0, NULL,
     "CSV: take these characters off the end of targets; with . \"<=50K.\" is the class \"<=50K\""},
    {"hash-bits", 0, EBB_OPT_I64, AT(hash_bits), NULL, "bits", 0, 30, NULL,
     "columns for a hashed field: 2 to this power; if not given, 18 for text, and 18 for all categorical fields "
     "together but at least 12 for each"},
    {"one-based", 0, EBB_OPT_FLAG, AT(one_based), NULL, NULL, 0, 0, NULL,
     "svmlight: indices begin at 1 (assumed unless an index 0 occurs)"},
    {"zero-based", 0, EBB_OPT_FLAG, AT(zero_based), NULL, NULL, 0, 0, NULL, "svmlight: indices begin at 0"},
    {"dataset", 0, EBB_OPT_STRING, AT(dataset), NULL, NULL, 0, 0, NULL, "HDF5: path of the group or dataset to pack"},
    {"dense", 0, EBB_OPT_FLAG, AT(dense), NULL, NULL, 0, 0, NULL, "store every value, whatever the source does"},
    {"sparse", 0, EBB_OPT_FLAG, AT(sparse), NULL, NULL, 0, 0, NULL, "store non-zeros only, whatever the source does"},
    {"name", 'n', EBB_OPT_STRING, AT(name), NULL, NULL, 0, 0, NULL, "name of the data set; that of DEST if not given"},
    {"shard-bytes", 0, EBB_OPT_BYTES, AT(shard_bytes), "256M", "bytes", 1, INFINITY, NULL,
     "size of a shard before compression"},
    {"memory", 'm', EBB_OPT_BYTES, AT(memory_bytes), "512M", "bytes", 1, INFINITY, NULL,
     "bound on the buffers of each rank; at least 2 MiB a thread"},
    {"level", 0, EBB_OPT_I64, AT(level), "9", NULL, 1, 19, NULL, "zstd level"},
    {"threads", 'j', EBB_OPT_I64, AT(threads), "0", "threads", 0, 512, NULL,
     "threads of each rank; 0: its share of the cores"},
    {"force", 0, EBB_OPT_FLAG, AT(force), NULL, NULL, 0, 0, NULL, "replace an existing data set"},
    {"quiet", 'q', EBB_OPT_FLAG, AT(quiet), NULL, NULL, 0, 0, NULL, "show no progress and no summary"},
    {0},
};

static const ebb_example_t examples[] = {
    {"LIBSVM text, compressed or not", "ebb pack news20.bz2 data/news20 --split train=0.9,valid=0.1"},
    {"a table with typed columns",
     "ebb pack visits.csv data/visits --columns age:numeric:bins=20,*:categorical --target clicked"},
    {"its test part, encoded alike", "ebb pack test.csv data/test --like data/visits"},
    {"no header, a remark in the first line, labels with a full stop at the end",
     "ebb pack adult.test data/adult-test --like data/adult --skip-lines 1 --trim-target ."},
    {"MNIST's files, labels beside the images",
     "ebb pack train-images-idx3-ubyte.gz data/mnist --target train-labels-idx1-ubyte.gz"},
    {"arrays of NumPy", "ebb pack x.npy data/x --target y.npy"},
    {"AnnData, one of its matrices, by rows or by columns",
     "ebb pack cells.h5ad data/cells --dataset raw/X --target obs/cell_type"},
    {"over 8 ranks; the bytes are the same", "mpirun -n 8 ebb pack counts.h5ad data/cells --target obs/cell_type"},
    {0},
};

static volatile int stop;

static void on_signal(int number)
{
    stop = 1;
}

static void catch_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
}

static ebb_status_t delimiter_of(const char *text, char *delimiter_p)
{
    if (!text)
        return EBB_OK;
    if (strcmp(text, "tab") == 0 || strcmp(text, "\\t") == 0)
        text = "\t";
    if (strlen(text) != 1 || strchr("\"\n\r", *text))
        return EBB_FAIL(EBB_EUSAGE, "--delimiter \"%.20s\": one character, or tab", text);
    *delimiter_p = *text;
    return EBB_OK;
}

static ebb_status_t pack(const pack_options_t *o, int n_operands, char **operands)
{
    ebb_comm_t *comm;
    ebb_pack_options_t p = {
        .from = o->from,
        .split = o->split,
        .split_seed = (uint64_t)o->split_seed,
        .name = o->name,
        .cols = o->cols,
        .one_based = o->one_based,
        .zero_based = o->zero_based,
        .columns = o->columns,
        .no_header = o->no_header,
        .skip_lines = o->skip_lines,
        .trim_target = o->trim_target,
        .hash_bits = (int)o->hash_bits,
        .target = o->target,
        .task = o->task,
        .dataset = o->dataset,
        .dense = o->dense,
        .sparse = o->sparse,
        .shard_bytes = o->shard_bytes,
        .memory_bytes = o->memory_bytes,
        .level = (int)o->level,
        .threads = (int)o->threads,
        .force = o->force,
        .progress = !o->quiet,
        .like = o->like,
        .stop = &stop,
    };
    EBB_TRY(delimiter_of(o->delimiter, &p.delimiter));
    EBB_TRY(ebb_comm_default(&comm));
    catch_signals();
    ebb_status_t status = ebb_pack(comm, n_operands - 1, (const char *const *)operands, operands[n_operands - 1], &p);
    ebb_comm_destroy(comm);
    return status;
}

static ebb_status_t run(void *o, int n_operands, char **operands)
{
    return pack(o, n_operands, operands);
}

const ebb_command_t cmd_pack = {
    .name = "pack",
    .help = "Turn source files into a data set of compressed shards",
    .operands = "SOURCE... DEST",
    .about =
        "Reads the sources twice: first to learn columns, classes and the smallest exact value type, then to write\n"
        "shards. Sources of one format are strung together; files compressed by gzip, zstd or bzip2 are read as\n"
        "they are. The same sources and options give the same bytes for any number of threads and ranks. A pack\n"
        "that fails or is stopped leaves nothing behind.\n",
    .min_operands = 2,
    .max_operands = ANY_OPERANDS,
    .options = options,
    .options_bytes = sizeof(pack_options_t),
    .examples = examples,
    .run = run,
};
