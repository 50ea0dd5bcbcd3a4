/* Damage of every kind is found and named; a flipped bit never changes what is read. */
#include "shards.h"
#include "base/alloc.h"
#include "base/file.h"
#include "base/hash.h"
#include "shard/layout.h"

#include <fcntl.h>
#include <zstd.h>

typedef struct seen {
    int n;
    bool matched;
    const char *dataset, *message; /* what to look for */
    int64_t row;
} seen_t;

static void take_fault(void *user, const ebb_fault_t *fault)
{
    seen_t *seen = user;
    seen->n++;
    assert_true(fault->message[0] != 0);
    if (!seen->message || !strstr(fault->message, seen->message))
        return;
    bool same = seen->dataset ? fault->dataset && strcmp(fault->dataset, seen->dataset) == 0 : !fault->dataset;
    seen->matched |= same && (seen->row < 0 || seen->row == fault->row);
}

static void expect_fault(const char *dir, const char *dataset, int64_t row, const char *message)
{
    seen_t seen = {.dataset = dataset, .message = message, .row = row};
    ebb_status_t status = ebb_dataset_verify(dir, 2, take_fault, &seen);
    if (status != EBB_ECORRUPT || !seen.matched)
        fail_msg("verify gave %s and %d faults, none with \"%s\"", ebb_status_name(status), seen.n, message);
    ebb_error_clear();
}

static void shard_path(const char *dir, int shard, char path[5000])
{
    snprintf(path, 5000, "%s/shard-%05d.h5", dir, shard);
}

static void whole_data_sets_have_no_faults(void **state)
{
    for (int i = 0; i < 3; i++) {
        ebb_dataset_plan_t plan = made_plan(i != 1, i == 2 ? EBB_U8 : EBB_F32, 2500, 300);
        plan.shard_rows = 999;
        plan.weighted = i > 0;
        char *dir = test_mkdir();
        make_dataset(dir, &plan, 1, 1000);
        seen_t seen = {0};
        assert_ok(ebb_dataset_verify(dir, 2, take_fault, &seen));
        assert_int_equal(seen.n, 0);
        test_rmdir(dir);
    }
}

typedef struct contents {
    int64_t *rowptr;
    int32_t *col, *label;
    float *val;
    int64_t nnz;
} contents_t;

static ebb_status_t read_all(const char *dir, contents_t *out)
{
    ebb_dataset_t *ds;
    ebb_reader_t *reader = NULL;
    EBB_TRY(ebb_dataset_open(dir, NULL, &ds));
    int64_t rows = ebb_dataset_info(ds)->rows;
    ebb_status_t status = ebb_reader_create(ds, 1, &reader);
    if (status == EBB_OK)
        status = ebb_reader_rowptr(reader, 0, rows, 0, out->rowptr);
    if (status == EBB_OK)
        status = ebb_reader_csr(reader, 0, rows, out->col, out->val);
    if (status == EBB_OK)
        status = ebb_reader_targets(reader, 0, rows, out->label, NULL, NULL);
    if (status == EBB_OK)
        out->nnz = out->rowptr[rows];
    ebb_reader_destroy(reader);
    ebb_dataset_close(ds);
    return status;
}

static contents_t new_contents(void)
{
    return (contents_t){calloc(200, 8), calloc(20000, 4), calloc(200, 4), calloc(20000, 4), 0};
}

static void free_contents(contents_t *c)
{
    free(c->rowptr);
    free(c->col);
    free(c->label);
    free(c->val);
}

static void flip(const char *path, int64_t byte, int bit)
{
    uint8_t b;
    int fd;
    assert_ok(ebb_file_open(path, O_RDWR, 0, &fd));
    assert_ok(ebb_file_pread(fd, path, &b, 1, byte));
    b ^= (uint8_t)(1 << bit);
    assert_ok(ebb_file_pwrite(fd, path, &b, 1, byte));
    close(fd);
}

static void a_flipped_bit_is_found_and_never_read(void **state)
{
    ebb_dataset_plan_t plan = made_plan(true, EBB_I16, 100, 300);
    char *dir = test_mkdir(), path[5000];
    contents_t good = new_contents(), bad = new_contents();
    int unread = 0;
    make_dataset(dir, &plan, 1, 100);
    shard_path(dir, 0, path);
    assert_ok(read_all(dir, &good));
    int64_t bytes = ebb_file_size(path);
    for (int i = 0; i < 150; i++) {
        uint64_t h = made_hash((uint64_t)i, 99);
        flip(path, (int64_t)(h % (uint64_t)bytes), (int)(h >> 40 & 7));
        if (i % 5 == 0)
            expect_fault(dir, NULL, -1, "SHA-256");
        ebb_status_t status = read_all(dir, &bad);
        if (status == EBB_OK) { /* metadata that readers do not use */
            assert_int_equal(bad.nnz, good.nnz);
            assert_memory_equal(bad.col, good.col, (size_t)good.nnz * 4);
            assert_memory_equal(bad.val, good.val, (size_t)good.nnz * 4);
            assert_memory_equal(bad.label, good.label, 400);
        } else {
            assert_int_equal(status, EBB_ECORRUPT);
            assert_non_null(strstr(ebb_error()->message, "shard-00000.h5"));
            unread++;
        }
        ebb_error_clear();
        flip(path, (int64_t)(h % (uint64_t)bytes), (int)(h >> 40 & 7));
    }
    assert_true(unread > 10);
    assert_ok(ebb_dataset_verify(dir, 1, NULL, NULL));
    free_contents(&good);
    free_contents(&bad);
    test_rmdir(dir);
}

static void damage_in_a_chunk_is_named_with_its_row(void **state)
{
    ebb_dataset_plan_t plan = made_plan(true, EBB_F32, 6000, 300);
    char *dir = test_mkdir(), path[5000];
    ebb_dataset_t *ds;
    plan.shard_rows = 5500;
    make_dataset(dir, &plan, 2, 1000);
    assert_ok(ebb_dataset_open(dir, NULL, &ds));
    int64_t offset = ds->shard[0].array[EBB_ROLE_DATA].chunk[1].offset;
    ebb_dataset_close(ds);
    shard_path(dir, 0, path);
    flip(path, offset + 100, 3);
    made_t m = make_rows(&plan, 0, 5500);
    int64_t row = 0;
    while (m.rowptr[row + 1] <= EBB_CHUNK_ELEMENTS)
        row++;
    made_free(&m);
    expect_fault(dir, "X/data", row, "checksum");
    test_rmdir(dir);
}

/* Replace chunk 0 of an array by an edited one, with all its checksums, as a broken writer would. */
static void forge(const char *dir, ebb_role_t role, void (*edit)(uint8_t *planes, int64_t n))
{
    ebb_dataset_t *ds;
    ebb_reader_t *reader;
    const void *raw;
    char path[5000];
    uint64_t *words;
    int64_t n_words;
    int fd;
    assert_ok(ebb_dataset_open(dir, NULL, &ds));
    assert_ok(ebb_reader_create(ds, 0, &reader));
    assert_ok(ebb_reader_chunk(reader, 0, role, 0, true, &raw));
    ebb_array_t *a = &ds->shard[0].array[role];
    size_t bytes = (size_t)ebb_array_chunk_bytes(a, 0);
    uint8_t *planes = malloc(bytes), *packed = malloc(ZSTD_compressBound(bytes));
    memcpy(planes, raw, bytes);
    edit(planes, (int64_t)(bytes / ebb_elem_size(a->elem)));
    size_t n = 0;
    for (int level = 19; n == 0 || (n > a->chunk[0].bytes && level > 0);
         level--) /* without a checksum some level fits */
        n = ZSTD_compress(packed, ZSTD_compressBound(bytes), planes, bytes, level);
    assert_true(n <= a->chunk[0].bytes);
    a->chunk[0].bytes = (uint32_t)n;
    a->chunk[0].xxh3 = ebb_xxh3(packed, n);
    assert_ok(ebb_index_encode(&ds->shard[0], 0, ds->info.cols, &words, &n_words));
    shard_path(dir, 0, path);
    assert_ok(ebb_file_open(path, O_RDWR, 0, &fd));
    assert_ok(ebb_file_pwrite(fd, path, packed, n, a->chunk[0].offset));
    assert_ok(ebb_file_pwrite(fd, path, words, (size_t)n_words * 8, ds->shard[0].index_offset));
    close(fd);
    free(planes);
    free(packed);
    ebb_free(words);
    ebb_reader_destroy(reader);
    ebb_dataset_close(ds);
}

static void first_column_last(uint8_t *p, int64_t n)
{
    p[0] = p[1];
    p[n] = p[n + 1];
}

static void column_beyond(uint8_t *p, int64_t n)
{
    p[n + 40] = 200;
}

static void value_nan(uint8_t *p, int64_t n)
{
    p[3 * n + 7] = 0x7f;
    p[2 * n + 7] = 0xc0;
}

static void label_out(uint8_t *p, int64_t n)
{
    p[11] = 3;
}

static void pointer_back(uint8_t *p, int64_t n)
{
    p[2 * n + 20] = 9;
}

static void label_moved(uint8_t *p, int64_t n)
{
    p[11] = (uint8_t)((p[11] + 1) % 3);
}

static void contents_that_make_no_sense_are_named(void **state)
{
    static const struct {
        ebb_role_t role;
        void (*edit)(uint8_t *, int64_t);
        const char *dataset, *message;
    } cases[] = {
        {EBB_ROLE_INDICES, first_column_last, "X/indices", "not ascending"},
        {EBB_ROLE_INDICES, column_beyond, "X/indices", "is not in 0 .. 299"},
        {EBB_ROLE_DATA, value_nan, "X/data", "not finite"},
        {EBB_ROLE_Y, label_out, "obs/y/codes", "class 3 is not in 0 .. 2"},
        {EBB_ROLE_INDPTR, pointer_back, "X/indptr", "does not ascend"},
        {EBB_ROLE_Y, label_moved, NULL, "SHA-256"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ebb_dataset_plan_t plan = made_plan(true, EBB_F32, 300, 300);
        char *dir = test_mkdir();
        plan.level = 1;
        make_dataset(dir, &plan, 1, 300);
        forge(dir, cases[i].role, cases[i].edit);
        expect_fault(dir, cases[i].dataset, cases[i].role == EBB_ROLE_Y && cases[i].dataset ? 11 : -1,
                     cases[i].message);
        test_rmdir(dir);
    }
}

static void missing_and_cut_shards_are_named(void **state)
{
    ebb_dataset_plan_t plan = made_plan(true, EBB_F32, 300, 300);
    char *dir = test_mkdir(), path[5000];
    ebb_dataset_t *ds;
    plan.shard_rows = 100;
    make_dataset(dir, &plan, 1, 300);
    shard_path(dir, 1, path);
    assert_int_equal(truncate(path, ebb_file_size(path) - 1), 0);
    assert_fails(ebb_dataset_open(dir, NULL, &ds), EBB_ECORRUPT, "truncated or replaced");
    expect_fault(dir, "uns/ebb/index", -1, "truncated or replaced");
    unlink(path);
    assert_fails(ebb_dataset_open(dir, NULL, &ds), EBB_ENOINPUT, "shard-00001.h5");
    expect_fault(dir, "uns/ebb/index", -1, "shard-00001.h5");
    shard_path(dir, 0, path);
    char other[5000], last[5000];
    shard_path(dir, 1, other);
    shard_path(dir, 2, last);
    assert_int_equal(rename(path, other), 0);
    assert_int_equal(rename(last, path), 0);
    assert_int_equal(ebb_dataset_open(dir, NULL, &ds), EBB_ECORRUPT);
    ebb_error_clear();
    test_rmdir(dir);
}

static void edit_manifest(const char *dir, const char *from, const char *to)
{
    char path[5000], *text;
    size_t bytes;
    snprintf(path, sizeof path, "%s/manifest.json", dir);
    assert_ok(ebb_file_read_all(path, &text, &bytes));
    char *at = strstr(text, from);
    assert_non_null(at);
    FILE *file = fopen(path, "w");
    fprintf(file, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    fclose(file);
    ebb_free(text);
}

static void manifests_that_lie_are_refused(void **state)
{
    static const struct {
        const char *from, *to, *message;
    } cases[] = {
        {"\"version\": 1", "\"version\": 2", "newer ebb"},
        {"\"ebb-dataset\"", "\"other\"", "not the manifest"},
        {"\"row0\": 0", "\"row0\": 1", "rows: 300 is not in"},
        {"\"rows\": 300,", "\"rows\": 301,", "shards hold 300 rows"},
        {"\"cols\": 300", "\"cols\": 0", "cols: 0 is not in"},
        {"\"cols\": 300", "\"cols\": 9000000000", "cols"},
        {"\"f32\"", "\"f99\"", "unknown \"f99\""},
        {"\"file\": \"shard", "\"file\": \"../shard", "not the name of a file"},
        {"\"index\": [", "\"index\": [-1, ", "index"},
        {"\"format\"", "format", "manifest.json"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ebb_dataset_plan_t plan = made_plan(true, EBB_F32, 300, 300);
        plan.target = EBB_TARGET_NONE;
        plan.classes = 0;
        char *dir = test_mkdir();
        ebb_dataset_t *ds;
        make_dataset(dir, &plan, 1, 300);
        edit_manifest(dir, cases[i].from, cases[i].to);
        ebb_status_t status = ebb_dataset_open(dir, NULL, &ds);
        if ((status != EBB_ECORRUPT && status != EBB_EDATA) || !strstr(ebb_error()->message, cases[i].message))
            fail_msg("case %zu: %s: %s", i, ebb_status_name(status), ebb_error()->message);
        ebb_error_clear();
        test_rmdir(dir);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_data_sets_have_no_faults),
        cmocka_unit_test(a_flipped_bit_is_found_and_never_read),
        cmocka_unit_test(damage_in_a_chunk_is_named_with_its_row),
        cmocka_unit_test(contents_that_make_no_sense_are_named),
        cmocka_unit_test(missing_and_cut_shards_are_named),
        cmocka_unit_test(manifests_that_lie_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
