/* A matrix stored by columns packs to the bytes of the same matrix stored by rows, whatever fits in memory at a time.
 */
#include "pack.h"
#include "shard/h5.h"

enum { ROWS = 9001, COLS = 207 };

static char *dir;
static ebb_comm_t *self;

static int setup(void **state)
{
    dir = test_mkdir();
    return ebb_comm_self(&self);
}

static int teardown(void **state)
{
    ebb_comm_destroy(self);
    test_rmdir(dir);
    return 0;
}

/* Whether there is an entry; a column and many rows have none, one column has one in every row. */
static bool entry(int row, int col, float *val)
{
    uint32_t u = (uint32_t)(row * COLS + col) * 2654435761u;
    *val = (float)(1 + u % 251) / 4;
    return col == 7 || (col != 11 && row % 5 != 3 && u >> 24 < 20);
}

typedef struct matrix {
    int32_t pointer[ROWS + COLS + 1], *index;
    float *val;
    int n;
} matrix_t;

static void fill(matrix_t *m, bool by_columns)
{
    int outer = by_columns ? COLS : ROWS, inner = by_columns ? ROWS : COLS;
    m->index = malloc(sizeof(int32_t) * ROWS * COLS);
    m->val = malloc(sizeof(float) * ROWS * COLS);
    m->n = m->pointer[0] = 0;
    for (int i = 0; i < outer; i++) {
        for (int k = 0; k < inner; k++) {
            m->index[m->n] = k;
            m->n += entry(by_columns ? k : i, by_columns ? i : k, &m->val[m->n]);
        }
        m->pointer[i + 1] = m->n;
    }
}

static void put(hid_t file, const char *name, hid_t type, hsize_t n, const void *data)
{
    hid_t space = H5Screate_simple(1, &n, NULL), dcpl = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(dcpl, 1, (hsize_t[]){n < 1000 ? n : 1000});
    H5Pset_deflate(dcpl, 4);
    hid_t h5 = H5Dcreate2(file, name, type, space, H5P_DEFAULT, dcpl, H5P_DEFAULT);
    assert_true(H5Dwrite(h5, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0);
    H5Dclose(h5);
    H5Pclose(dcpl);
    H5Sclose(space);
}

static void put_matrix(hid_t file, const char *name, bool by_columns, int32_t spoil)
{
    char member[3][64];
    matrix_t m;
    fill(&m, by_columns);
    if (spoil)
        m.index[100] = spoil;
    for (int i = 0; i < 3; i++)
        snprintf(member[i], sizeof member[i], "%s/%s", name, (const char *[]){"data", "indices", "indptr"}[i]);
    hid_t group = H5Gcreate2(file, name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    assert_ok(ebb_h5_write_encoding(group, "test", by_columns ? "csc_matrix" : "csr_matrix", "0.1.0"));
    assert_ok(ebb_h5_write_i64s(group, "test", "shape", 2, (const int64_t[]){ROWS, COLS}));
    H5Gclose(group);
    put(file, member[0], H5T_NATIVE_FLOAT, (hsize_t)m.n, m.val);
    put(file, member[1], H5T_NATIVE_INT32, (hsize_t)m.n, m.index);
    put(file, member[2], H5T_NATIVE_INT32, (hsize_t)(by_columns ? COLS : ROWS) + 1, m.pointer);
    free(m.index);
    free(m.val);
}

static void write_matrices(const char *path, int32_t spoil)
{
    int32_t y[ROWS];
    for (int i = 0; i < ROWS; i++)
        y[i] = i * 7 % 3;
    hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    put_matrix(file, "rows", false, 0);
    put_matrix(file, "columns", true, spoil);
    put(file, "label", H5T_NATIVE_INT32, ROWS, y);
    H5Fclose(file);
}

static ebb_status_t pack(const char *dataset, const char *dest, int64_t memory_bytes, int threads)
{
    const char *source = in_dir(dir, "matrix.h5");
    ebb_pack_options_t o = {.dataset = dataset,
                            .target = "label",
                            .name = "x",
                            .memory_bytes = memory_bytes,
                            .threads = threads,
                            .shard_bytes = 20000,
                            .force = true};
    return ebb_pack(self, 1, &source, in_dir(dir, dest), &o);
}

static void columns_pack_to_the_bytes_of_rows(void **state)
{
    write_matrices(in_dir(dir, "matrix.h5"), 0);
    assert_ok(pack("rows", "by-rows", 0, 2));
    assert_ok(pack("columns", "by-columns", 0, 2));
    assert_true(same_folders(in_dir(dir, "by-rows"), in_dir(dir, "by-columns")));
    assert_ok(pack("columns", "by-columns", 2 << 20, 1)); /* two windows */
    assert_true(same_folders(in_dir(dir, "by-rows"), in_dir(dir, "by-columns")));
}

static void a_row_out_of_range_or_twice_is_named(void **state)
{
    write_matrices(in_dir(dir, "matrix.h5"), ROWS);
    assert_fails(pack("columns", "dest", 0, 2), EBB_EDATA, "entry 100: row 9001 is not in 0 .. 9000");
    matrix_t m;
    fill(&m, true);
    write_matrices(in_dir(dir, "matrix.h5"), m.index[99]);
    free(m.index);
    free(m.val);
    assert_fails(pack("columns", "dest", 0, 2), EBB_EDATA, "twice");
    assert_int_equal(count_entries(dir), 1);
}

int main(void)
{
    ebb_log_set_level(EBB_LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(columns_pack_to_the_bytes_of_rows, setup, teardown),
        cmocka_unit_test_setup_teardown(a_row_out_of_range_or_twice_is_named, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
