/* Injected faults: every one is detected, with the place named, or harmless, proved by equal output.
 *
 * usage: faults_loader [COUNT [FIRST_SEED]]
 *
 * A small data set of three shards is loaded whole, shuffled, under one fault per seed: a flipped bit anywhere in a
 * shard, in a chunk table or in the manifest; a truncated file; two chunks swapped, or one written over another; a read
 * that fails, comes back short or is interrupted. The loader then either fails (with a message that names the damaged
 * file and, for a chunk's fault, its dataset, chunk and row) or delivers what it delivers without the fault: the hash
 * of the data set's description and of every batch is the same. This program's own pread stands before the C library's.
 */
#include "shards.h"
#include "base/alloc.h"
#include "base/file.h"
#include "shard/layout.h"
#include <ebb/loader.h>

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#define XXH_STATIC_LINKING_ONLY /* the state as a plain object */
#include <xxhash.h>

enum { SHARDS = 3, ROWS = 1500, COLS = 3000, KINDS = 9, SUBJECTS = 4, COUNT = 1000 };

static const char *const kind_names[KINDS] = {"bit of a shard",      "bit of a chunk", "bit of a chunk table",
                                              "bit of the manifest", "truncation",     "swapped chunks",
                                              "copied chunk",        "failing read",   "short reads"};

/* ---- the file layer ---- */

static atomic_int reads_left = -1; /* reads until one fails; negative: none does */
static atomic_bool reads_short;
static atomic_uint reads;

ssize_t pread(int fd, void *buf, size_t bytes, off_t offset)
{
    if (reads_left >= 0 && atomic_fetch_sub(&reads_left, 1) == 0) {
        errno = EIO;
        return -1;
    }
    if (reads_short && bytes > 1) {
        uint64_t h = ebb_mix64(atomic_fetch_add(&reads, 1));
        if (h % 7 == 0) {
            errno = EINTR;
            return -1;
        }
        bytes = 1 + (size_t)(h % bytes);
    }
    return (ssize_t)syscall(SYS_pread64, fd, buf, bytes, offset);
}

/* ---- loading ---- */

static void add_info(XXH3_state_t *h, const ebb_dataset_info_t *info)
{
    XXH3_64bits_update(h, info->name, strlen(info->name));
    int64_t n[] = {info->rows,   info->cols,        info->nnz,     info->sparse,  info->value_type,
                   info->target, info->target_cols, info->classes, info->weighted};
    XXH3_64bits_update(h, n, sizeof n);
    for (int64_t k = 0; k < info->classes; k++) {
        XXH3_64bits_update(h, info->class_names[k], strlen(info->class_names[k]));
        XXH3_64bits_update(h, &info->class_rows[k], sizeof info->class_rows[k]);
    }
}

static void add_batch(XXH3_state_t *h, const ebb_dataset_info_t *info, const ebb_batch_t *b)
{
    size_t n = (size_t)b->rows, nnz = (size_t)b->nnz;
    XXH3_64bits_update(h, b->row, n * sizeof *b->row);
    XXH3_64bits_update(h, b->label, n * sizeof *b->label);
    XXH3_64bits_update(h, b->weight, n * sizeof *b->weight);
    if (!info->sparse) {
        XXH3_64bits_update(h, b->x, n * (size_t)info->cols * sizeof *b->x);
        return;
    }
    XXH3_64bits_update(h, b->rowptr, (n + 1) * sizeof *b->rowptr);
    XXH3_64bits_update(h, b->col, nnz * sizeof *b->col);
    XXH3_64bits_update(h, b->val, nnz * sizeof *b->val);
}

static ebb_status_t load_batches(const ebb_dataset_t *ds, bool fixed_blocks, XXH3_state_t *h)
{
    ebb_loader_options_t options = {.order = {.lanes = 5, .batch = 100, .window_blocks = 3, .seed = 9, .shuffle = true},
                                    .threads = 2};
    const ebb_row_blocks_t *chunks = ebb_dataset_info(ds)->blocks;
    options.order.block_rows = 32;
    if (!fixed_blocks && chunks) { /* else small data sets have fixed ones */
        options.order.blocks = chunks;
        options.order.block_rows = chunks->max_rows;
    }
    ebb_loader_t *loader;
    const ebb_batch_t *batch;
    ebb_status_t status;
    EBB_TRY(ebb_loader_create(ds, &options, &loader));
    while ((status = ebb_loader_acquire(loader, &batch)) == EBB_OK) {
        add_batch(h, ebb_dataset_info(ds), batch);
        ebb_loader_release(loader, batch);
    }
    ebb_loader_destroy(loader);
    return status == EBB_END ? EBB_OK : status;
}

static ebb_status_t load(const char *dir, bool fixed_blocks, uint64_t *hash_p)
{
    XXH3_state_t h;
    ebb_dataset_t *ds;
    XXH3_64bits_reset(&h);
    EBB_TRY(ebb_dataset_open(dir, NULL, &ds));
    add_info(&h, ebb_dataset_info(ds));
    ebb_status_t status = load_batches(ds, fixed_blocks, &h);
    ebb_dataset_close(ds);
    *hash_p = XXH3_64bits_digest(&h);
    return status;
}

/* ---- the data set, and what lies where ---- */

typedef struct place {
    int shard;
    int64_t offset, bytes;
} place_t;

typedef struct subject {
    char *dir;
    bool fixed_blocks;
    char path[SHARDS + 1][256]; /* the manifest last */
    char *intact[SHARDS + 1];
    size_t size[SHARDS + 1];
    place_t *chunk, table[SHARDS];
    int64_t chunks;
    uint64_t hash;
} subject_t;

static void note_places(subject_t *s)
{
    ebb_dataset_t *ds;
    assert_ok(ebb_dataset_open(s->dir, NULL, &ds));
    for (int i = 0; i < SHARDS; i++) {
        const ebb_shard_t *shard = &ds->shard[i];
        s->table[i] = (place_t){i, shard->index_offset, shard->index_bytes};
        for (int role = 0; role < EBB_ROLES; role++) {
            const ebb_array_t *a = &shard->array[role];
            int64_t n = a->present && a->chunk && role != EBB_ROLE_ROWID ? a->grid_rows * a->grid_cols : 0;
            s->chunk = realloc(s->chunk, (size_t)(s->chunks + n + 1) * sizeof *s->chunk);
            for (int64_t c = 0; c < n; c++)
                s->chunk[s->chunks++] = (place_t){i, (int64_t)a->chunk[c].offset, a->chunk[c].bytes};
        }
    }
    ebb_dataset_close(ds);
}

static subject_t make_subject(bool sparse, bool fixed_blocks)
{
    subject_t s = {.dir = test_mkdir(), .fixed_blocks = fixed_blocks};
    ebb_dataset_plan_t plan = made_plan(sparse, EBB_F32, ROWS, sparse ? COLS : 300);
    plan.shard_rows = ROWS / SHARDS;
    plan.weighted = true;
    make_dataset(s.dir, &plan, 1, 200);
    for (int i = 0; i <= SHARDS; i++) {
        if (i < SHARDS)
            snprintf(s.path[i], sizeof s.path[i], "%s/shard-%05d.h5", s.dir, i);
        else
            snprintf(s.path[i], sizeof s.path[i], "%s/manifest.json", s.dir);
        assert_ok(ebb_file_read_all(s.path[i], &s.intact[i], &s.size[i]));
    }
    note_places(&s);
    assert_ok(load(s.dir, fixed_blocks, &s.hash));
    return s;
}

static void write_file(const char *path, const char *data, size_t bytes)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, bytes, f), bytes);
    assert_int_equal(fclose(f), 0);
}

/* ---- faults ---- */

typedef struct fault {
    int kind, file; /* file: index into path, -1 when no file is changed */
    bool in_chunk;
} fault_t;

static char *copy_of(const subject_t *s, int file)
{
    char *copy = malloc(s->size[file] + 1);
    memcpy(copy, s->intact[file], s->size[file] + 1);
    return copy;
}

static void flip(const subject_t *s, int file, int64_t first, int64_t bytes, uint64_t draw)
{
    char *copy = copy_of(s, file);
    copy[first + (int64_t)(draw / 8 % (uint64_t)bytes)] ^= (char)(1 << draw % 8);
    write_file(s->path[file], copy, s->size[file]);
    free(copy);
}

/* Chunk a's bytes become chunk b's, as far as they reach; with `both`, the other way too. */
static int move_chunks(const subject_t *s, const place_t *a, const place_t *b, bool both)
{
    int64_t n = a->bytes < b->bytes ? a->bytes : b->bytes;
    char *copy = copy_of(s, a->shard);
    memcpy(copy + a->offset, s->intact[b->shard] + b->offset, (size_t)n);
    if (both && a->shard == b->shard)
        memcpy(copy + b->offset, s->intact[a->shard] + a->offset, (size_t)n);
    write_file(s->path[a->shard], copy, s->size[a->shard]);
    free(copy);
    return a->shard;
}

static fault_t inject(const subject_t *s, uint64_t seed)
{
    uint64_t r = ebb_mix64(seed), draw = ebb_mix64(r);
    fault_t f = {.kind = (int)(seed % KINDS), .file = (int)(r % SHARDS)};
    const place_t *a = &s->chunk[r % (uint64_t)s->chunks], *b = &s->chunk[draw % (uint64_t)s->chunks];
    switch (f.kind) {
    case 0: flip(s, f.file, 0, (int64_t)s->size[f.file], draw); break;
    case 1:
        f = (fault_t){f.kind, a->shard, true};
        flip(s, a->shard, a->offset, a->bytes, draw);
        break;
    case 2: flip(s, f.file, s->table[f.file].offset, s->table[f.file].bytes, draw); break;
    case 3:
        f.file = SHARDS;
        flip(s, f.file, 0, (int64_t)s->size[f.file], draw);
        break;
    case 4:
        f.file = (int)(r % (SHARDS + 1));
        write_file(s->path[f.file], s->intact[f.file], (size_t)(draw % s->size[f.file]));
        break;
    case 5:
    case 6: f.file = move_chunks(s, a, b, f.kind == 5); break;
    case 7:
        f.file = -1;
        reads_left = (int)(draw % 80);
        break;
    default: f.file = -1; reads_short = true;
    }
    return f;
}

static void mend(const subject_t *s, const fault_t *f)
{
    reads_left = -1;
    reads_short = false;
    if (f->file >= 0)
        write_file(s->path[f->file], s->intact[f->file], s->size[f->file]);
}

/* The damaged file's name, and for a chunk also where in the data set it lies. */
static bool names_the_place(const subject_t *s, const fault_t *f, const char *message)
{
    if (f->file < 0)
        return strstr(message, s->dir) || strstr(message, "shard-");
    if (!strstr(message, strrchr(s->path[f->file], '/') + 1))
        return false;
    return !f->in_chunk || (strstr(message, " chunk ") && strstr(message, " row"));
}

typedef struct tally {
    int64_t detected, harmless;
} tally_t;

/* 0, or 1 after telling what went wrong. */
static int try_fault(const subject_t *s, uint64_t seed, tally_t *tally)
{
    uint64_t hash = 0;
    fault_t f = inject(s, seed);
    ebb_status_t status = load(s->dir, s->fixed_blocks, &hash);
    mend(s, &f);
    char message[512];
    snprintf(message, sizeof message, "%s", status == EBB_OK ? "" : ebb_error()->message);
    ebb_error_clear();
    tally[f.kind].detected += status != EBB_OK;
    tally[f.kind].harmless += status == EBB_OK;
    if (status == EBB_OK && hash == s->hash)
        return 0;
    if (status != EBB_OK && f.kind != 8 && names_the_place(s, &f, message))
        return 0;
    printf("seed %llu, %s: %s %s\n", (unsigned long long)seed, kind_names[f.kind],
           status == EBB_OK ? "NOT DETECTED, and other rows come out"
                            : "the message does not name the place, or nothing was wrong:",
           message);
    return 1;
}

int main(int argc, char **argv)
{
    uint64_t count = argc > 1 ? strtoull(argv[1], NULL, 10) : COUNT, first = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;
    tally_t tally[KINDS] = {0};
    int64_t wrong = 0;
    subject_t subject[] = {make_subject(true, false), make_subject(false, false), make_subject(true, true),
                           make_subject(false, true)};
    for (uint64_t seed = first; seed < first + count; seed++)
        wrong += try_fault(&subject[ebb_mix64(seed ^ 77) % SUBJECTS], seed, tally);
    printf("%-22s %9s %9s\n", "fault", "detected", "harmless");
    for (int k = 0; k < KINDS; k++)
        printf("%-22s %9lld %9lld\n", kind_names[k], (long long)tally[k].detected, (long long)tally[k].harmless);
    printf("%llu faults injected, %lld neither detected by place nor harmless\n", (unsigned long long)count,
           (long long)wrong);
    for (int i = 0; i < SUBJECTS; i++) {
        for (int k = 0; k <= SHARDS; k++)
            ebb_free(subject[i].intact[k]);
        free(subject[i].chunk);
        test_rmdir(subject[i].dir);
    }
    return wrong > 0;
}
