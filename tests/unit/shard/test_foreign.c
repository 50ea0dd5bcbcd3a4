/* HDF5 files of others: real ones where they are, and made ones for every layout, type and mistake. The reference is
 * libhdf5. */
#include "shards.h"
#include "lzf.h"
#include "shard/h5.h"
#include "shard/layout.h"

static ebb_reader_t *open_reader(const char *path, const char *dataset, ebb_dataset_t **ds_p)
{
    ebb_reader_t *reader;
    assert_ok(ebb_dataset_open(path, dataset, ds_p));
    assert_ok(ebb_reader_create(*ds_p, 0, &reader));
    return reader;
}

static void close_reader(ebb_reader_t *reader, ebb_dataset_t *ds)
{
    ebb_reader_destroy(reader);
    ebb_dataset_close(ds);
}

/* A whole dataset as doubles, by libhdf5. */
static double *reference(const char *path, const char *name, int64_t *n_p)
{
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT), h5 = H5Dopen2(file, name, H5P_DEFAULT),
          space = H5Dget_space(h5);
    *n_p = H5Sget_simple_extent_npoints(space);
    double *value = malloc((size_t)*n_p * 8 + 8);
    assert_true(H5Dread(h5, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, value) >= 0);
    H5Sclose(space);
    H5Dclose(h5);
    H5Fclose(file);
    return value;
}

static void check_dense(const char *path, const char *dataset, const char *name, int64_t step)
{
    ebb_dataset_t *ds;
    int64_t n;
    double *want = reference(path, name, &n);
    ebb_reader_t *reader = open_reader(path, dataset, &ds);
    const ebb_dataset_info_t *info = ebb_dataset_info(ds);
    assert_int_equal(info->rows * info->cols, n);
    float *x = malloc((size_t)(step * info->cols) * 4);
    for (int64_t row = 0; row < info->rows; row += step) {
        int64_t m = info->rows - row < step ? info->rows - row : step;
        assert_ok(ebb_reader_dense(reader, row, m, x));
        for (int64_t i = 0; i < m * info->cols; i++)
            if (x[i] != (float)want[row * info->cols + i])
                fail_msg("%s row %lld element %lld: %g, wanted %g", path, (long long)row, (long long)i, x[i],
                         want[row * info->cols + i]);
    }
    free(x);
    free(want);
    close_reader(reader, ds);
}

static void check_sparse(const char *path, const char *dataset, const char *group, int64_t step)
{
    char name[3][100];
    ebb_dataset_t *ds;
    int64_t n, rows;
    for (int i = 0; i < 3; i++)
        snprintf(name[i], 100, "%s/%s", group, (const char *[]){"data", "indices", "indptr"}[i]);
    double *data = reference(path, name[0], &n), *indices = reference(path, name[1], &n),
           *indptr = reference(path, name[2], &rows);
    ebb_reader_t *reader = open_reader(path, dataset, &ds);
    assert_int_equal(ebb_dataset_info(ds)->rows, rows - 1);
    assert_int_equal(ebb_dataset_info(ds)->nnz, n);
    int32_t *col = malloc((size_t)n * 4 + 4);
    float *val = malloc((size_t)n * 4 + 4);
    int64_t *ptr = malloc((size_t)rows * 8);
    for (int64_t row = 0; row < rows - 1; row += step) {
        int64_t m = rows - 1 - row < step ? rows - 1 - row : step, base = (int64_t)indptr[row];
        assert_ok(ebb_reader_rowptr(reader, row, m, base, ptr));
        assert_ok(ebb_reader_csr(reader, row, m, col, val));
        assert_true(ptr[m] == (int64_t)indptr[row + m]);
        for (int64_t i = 0; i < ptr[m] - base; i++) {
            assert_true(col[i] == (int32_t)indices[base + i]);
            assert_true(val[i] == (float)data[base + i]);
        }
    }
    free(col);
    free(val);
    free(ptr);
    free(data);
    free(indices);
    free(indptr);
    close_reader(reader, ds);
}

static void anndata_of_pbmc_reads_as_libhdf5_does(void **state)
{
    const char *path = test_shared("pbmc68k-h5ad/10x_pbmc68k_reduced.h5ad");
    skip_without(path, "pbmc68k");
    check_dense(path, NULL, "X", 97);
    check_dense(path, "X", "X", 700);
    check_sparse(path, "raw/X", "raw/X", 33);
    ebb_dataset_t *ds;
    ebb_reader_t *reader = open_reader(path, "raw/X:obs/bulk_labels", &ds);
    const ebb_dataset_info_t *info = ebb_dataset_info(ds);
    assert_int_equal(info->cols, 765);
    assert_int_equal(info->target, EBB_TARGET_CLASS);
    assert_int_equal(info->classes, 10);
    int64_t most = 0, least = 700, sum = 0;
    for (int i = 0; i < 10; i++) {
        most = info->class_rows[i] > most ? info->class_rows[i] : most;
        least = info->class_rows[i] < least ? info->class_rows[i] : least;
        sum += info->class_rows[i];
    }
    assert_int_equal(most, 240);
    assert_int_equal(least, 8);
    assert_int_equal(sum, 700);
    int32_t label[700], n;
    assert_ok(ebb_reader_targets(reader, 0, 700, label, NULL, NULL));
    for (int i = n = 0; i < 700; i++)
        n += label[i] == 3;
    assert_int_equal(n, info->class_rows[3]);
    close_reader(reader, ds);
    reader = open_reader(path, ":obs/S_score", &ds);
    assert_int_equal(ebb_dataset_info(ds)->target, EBB_TARGET_REAL);
    close_reader(reader, ds);
    assert_ok(ebb_dataset_verify(path, 2, NULL, NULL));
}

static void tenx_matrix_reads_as_cells_by_genes(void **state)
{
    const char *path = test_shared("tenx-h5/filtered_feature_bc_matrix.h5");
    ebb_dataset_t *ds;
    skip_without(path, "tenx");
    check_sparse(path, NULL, "matrix", 100);
    assert_ok(ebb_dataset_open(path, "matrix", &ds));
    assert_int_equal(ebb_dataset_info(ds)->rows, 1107);
    assert_int_equal(ebb_dataset_info(ds)->cols, 507);
    ebb_dataset_close(ds);
}

static void one_chunk_of_a_whole_matrix_reads(void **state)
{
    const char *path = test_shared("mouse-bladder-h5/mouse_bladder_cell_select_2100.h5");
    ebb_dataset_t *ds;
    skip_without(path, "mouse bladder");
    ebb_reader_t *reader = open_reader(path, "X:Y", &ds);
    const ebb_dataset_info_t *info = ebb_dataset_info(ds);
    assert_int_equal(info->classes, 16);
    assert_string_equal(info->class_names[15], "16");
    float *x = malloc((size_t)info->cols * 100 * 4), sum = 0, most = 0;
    int64_t nnz = 0;
    for (int64_t row = 0; row < info->rows; row += 100) {
        assert_ok(ebb_reader_dense(reader, row, 100, x));
        for (int64_t i = 0; i < info->cols * 100; i++) {
            nnz += x[i] != 0;
            most = x[i] > most ? x[i] : most;
            sum += x[i];
        }
    }
    assert_int_equal(nnz, 2214875);
    assert_true(most == 303);
    free(x);
    close_reader(reader, ds);
}

/* ---- made files ---- */

static hid_t make_file(const char *dir, char path[5000])
{
    snprintf(path, 5000, "%s/made.h5", dir);
    return H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
}

static hid_t plist(int dims, const hsize_t *chunk, bool shuffle, int filter)
{
    hid_t dcpl = H5Pcreate(H5P_DATASET_CREATE);
    unsigned level = 3;
    if (chunk)
        H5Pset_chunk(dcpl, dims, chunk);
    if (shuffle)
        H5Pset_shuffle(dcpl);
    if (filter == 1)
        H5Pset_deflate(dcpl, 4);
    if (filter == 2)
        H5Pset_filter(dcpl, EBB_H5_ZSTD, H5Z_FLAG_MANDATORY, 1, &level);
    if (filter == 3)
        H5Pset_fletcher32(dcpl);
    if (filter == 4) {
        const unsigned most = 1 << 20;
        lzf_register();
        H5Pset_filter(dcpl, LZF_FILTER, H5Z_FLAG_OPTIONAL, 1, &most);
    }
    return dcpl;
}

static void put(hid_t file, const char *name, hid_t type, int dims, const hsize_t *size, hid_t dcpl, hid_t memory,
                const void *data)
{
    hid_t space = H5Screate_simple(dims, size, NULL);
    hid_t h5 = H5Dcreate2(file, name, type, space, H5P_DEFAULT, dcpl, H5P_DEFAULT);
    assert_true(h5 >= 0);
    if (data)
        assert_true(H5Dwrite(h5, memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0);
    H5Dclose(h5);
    H5Sclose(space);
    if (dcpl != H5P_DEFAULT)
        H5Pclose(dcpl);
}

static void any_layout_filter_and_type_reads(void **state)
{
    char *dir = test_mkdir(), path[5000];
    enum { ROWS = 301, COLS = 57 };
    static double x[ROWS * COLS];
    hid_t types[] = {H5T_STD_U8LE,  H5T_STD_I8LE,  H5T_STD_U16LE,  H5T_STD_I16LE,  H5T_STD_I32LE, H5T_STD_U32LE,
                     H5T_STD_I64LE, H5T_STD_U64LE, H5T_IEEE_F32LE, H5T_IEEE_F64LE, H5T_STD_I32BE, H5T_IEEE_F64BE};
    const hsize_t size[2] = {ROWS, COLS}, chunks[3][2] = {{64, 57}, {50, 20}, {301, 57}};
    for (int i = 0; i < ROWS * COLS; i++)
        x[i] = (double)(made_hash((uint64_t)i, 4) % 128);
    ebb_h5_lock();
    ebb_h5_unlock(); /* registers the zstd filter */
    for (int t = 0; t < 12; t++)
        for (int layout = 0; layout < 12; layout++) {
            hid_t file = make_file(dir, path);
            bool chunked = layout > 1;
            hid_t dcpl = plist(2, chunked ? chunks[(t + layout) % 3] : NULL, layout % 2 && chunked,
                               chunked ? (layout - 2) / 2 : 0);
            if (layout == 1 && t < 2)
                H5Pset_layout(dcpl, H5D_COMPACT);
            put(file, "some", types[t], 2, size, dcpl, H5T_NATIVE_DOUBLE, x);
            H5Fclose(file);
            check_dense(path, layout % 2 ? NULL : "some", "some", 77);
        }
    test_rmdir(dir);
}

static void chunks_never_written_read_as_their_fill_value(void **state)
{
    char *dir = test_mkdir(), path[5000];
    const hsize_t size[2] = {1000, 10}, chunk[2] = {100, 10};
    for (int filled = 0; filled < 2; filled++) {
        hid_t file = make_file(dir, path), dcpl = plist(2, chunk, false, 1);
        const float seven = 7;
        if (filled)
            H5Pset_fill_value(dcpl, H5T_NATIVE_FLOAT, &seven);
        put(file, "X", H5T_IEEE_F32LE, 2, size, dcpl, 0, NULL);
        H5Fclose(file);
        check_dense(path, NULL, "X", 150);
    }
    test_rmdir(dir);
}

static void make_group(hid_t file, const char *type, bool shape, const int64_t *indptr, const int32_t *indices)
{
    const hsize_t three = 3, four = 4, two = 2;
    const float data[4] = {1, 2, 3, 4};
    const int64_t size[2] = {2, 5};
    hid_t group = H5Gcreate2(file, "X", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    assert_ok(ebb_h5_write_encoding(group, "made", type, "0.1.0"));
    if (shape)
        assert_ok(ebb_h5_write_i64s(group, "made", "shape", 2, size));
    H5Gclose(group);
    put(file, "X/data", H5T_IEEE_F32LE, 1, &four, H5P_DEFAULT, H5T_NATIVE_FLOAT, data);
    put(file, "X/indices", H5T_STD_I32LE, 1, &four, H5P_DEFAULT, H5T_NATIVE_INT32, indices);
    put(file, "X/indptr", H5T_STD_I64LE, 1, &three, H5P_DEFAULT, H5T_NATIVE_INT64, indptr);
    put(file, "y", H5T_STD_I64LE, 1, &two, H5P_DEFAULT, H5T_NATIVE_INT64, size);
}

static void mistakes_in_foreign_files_are_named(void **state)
{
    char *dir = test_mkdir(), path[5000], big[5000];
    const int64_t good[3] = {0, 1, 4}, wrong[3] = {0, 5, 4}, beyond[3] = {0, 1, 9};
    const int32_t columns[4] = {0, 1, 2, 4}, outside[4] = {0, 1, 2, 5};
    ebb_dataset_t *ds;
    int32_t col[4];
    float val[4];
    int64_t ptr[3];

    hid_t file = make_file(dir, path);
    make_group(file, "csc_matrix", true, good, columns);
    H5Fclose(file);
    assert_fails(ebb_dataset_open(path, NULL, &ds), EBB_EDATA, "ebb pack");
    bool by_columns = false;
    assert_fails(ebb_foreign_open(path, NULL, &by_columns, &ds), EBB_EDATA, "3"); /* 5 columns need 6 pointers */
    file = make_file(dir, path);
    make_group(file, "csr_matrix", false, good, columns);
    H5Fclose(file);
    assert_fails(ebb_dataset_open(path, NULL, &ds), EBB_EDATA, "shape");
    file = make_file(dir, path);
    make_group(file, "csr_matrix", true, beyond, columns);
    H5Fclose(file);
    assert_fails(ebb_dataset_open(path, NULL, &ds), EBB_EDATA, "row pointers end at 9");

    file = make_file(dir, path);
    make_group(file, "csr_matrix", true, wrong, columns);
    H5Fclose(file);
    ebb_reader_t *reader = open_reader(path, "X:y", &ds);
    assert_fails(ebb_reader_rowptr(reader, 0, 2, 0, ptr), EBB_ECORRUPT, "do not ascend");
    assert_fails(ebb_reader_csr(reader, 0, 1, col, val), EBB_ECORRUPT, "entries 0 to 5");
    close_reader(reader, ds);
    file = make_file(dir, path);
    make_group(file, "csr_matrix", true, good, outside);
    H5Fclose(file);
    reader = open_reader(path, NULL, &ds);
    assert_ok(ebb_reader_csr(reader, 0, 1, col, val));
    assert_fails(ebb_reader_csr(reader, 0, 2, col, val), EBB_ECORRUPT, "column 5 is not in 0 .. 4");
    close_reader(reader, ds);
    assert_fails(ebb_dataset_verify(path, 1, NULL, NULL), EBB_ECORRUPT, "1 fault:");
    assert_fails(ebb_dataset_open(path, "Z", &ds), EBB_EDATA, "there is X");
    assert_fails(ebb_dataset_open(path, "X:obs/none", &ds), EBB_EDATA, "no targets at obs/none");
    assert_fails(ebb_dataset_open(path, "X:X/data", &ds), EBB_EDATA, "4 targets for 2 rows");

    snprintf(big, sizeof big, "%s/text.h5", dir);
    FILE *text = fopen(big, "w");
    fputs("1 2:3\n", text);
    fclose(text);
    assert_fails(ebb_dataset_open(big, NULL, &ds), EBB_EDATA, "not an HDF5 file");
    assert_fails(ebb_dataset_open("/nowhere/at/all", NULL, &ds), EBB_ENOINPUT, "no such file");
    assert_fails(ebb_dataset_open(dir, NULL, &ds), EBB_ENOINPUT, "no manifest.json");
    test_rmdir(dir);
}

static void integers_beyond_float32_are_refused(void **state)
{
    char *dir = test_mkdir(), path[5000];
    const hsize_t size[2] = {1, 2};
    const int64_t x[2] = {1 << 24, (1 << 24) + 1};
    ebb_dataset_t *ds;
    float out[2];
    hid_t file = make_file(dir, path);
    put(file, "X", H5T_STD_I64LE, 2, size, H5P_DEFAULT, H5T_NATIVE_INT64, x);
    H5Fclose(file);
    ebb_reader_t *reader = open_reader(path, NULL, &ds);
    assert_fails(ebb_reader_dense(reader, 0, 1, out), EBB_EDATA, "beyond what f32 can hold");
    close_reader(reader, ds);
    test_rmdir(dir);
}

static void strings_and_numbers_become_classes(void **state)
{
    char *dir = test_mkdir(), path[5000];
    const hsize_t size[2] = {4, 1}, n = 4;
    const float x[4] = {1, 2, 3, 4}, halves[4] = {0.5f, 1, 1, 2}, whole[4] = {3, -1, 3, 7};
    const char *const words[4] = {"b", "a", "b", "c"};
    ebb_dataset_t *ds;
    hid_t file = make_file(dir, path), text = H5Tcopy(H5T_C_S1), fixed = H5Tcopy(H5T_C_S1);
    H5Tset_size(text, H5T_VARIABLE);
    H5Tset_size(fixed, 2);
    put(file, "X", H5T_IEEE_F32LE, 2, size, H5P_DEFAULT, H5T_NATIVE_FLOAT, x);
    put(file, "words", text, 1, &n, H5P_DEFAULT, text, words);
    put(file, "fixed", fixed, 1, &n, H5P_DEFAULT, fixed, "b\0a\0b\0c\0");
    put(file, "halves", H5T_IEEE_F32LE, 1, &n, H5P_DEFAULT, H5T_NATIVE_FLOAT, halves);
    put(file, "whole", H5T_IEEE_F64LE, 1, &n, H5P_DEFAULT, H5T_NATIVE_FLOAT, whole);
    H5Tclose(text);
    H5Tclose(fixed);
    H5Fclose(file);
    for (int i = 0; i < 3; i++) {
        int32_t label[4];
        ebb_reader_t *reader = open_reader(path, (const char *[]){":words", "X:fixed", "X:whole"}[i], &ds);
        assert_int_equal(ebb_dataset_info(ds)->classes, 3);
        assert_string_equal(ebb_dataset_info(ds)->class_names[0], i < 2 ? "a" : "-1");
        assert_ok(ebb_reader_targets(reader, 0, 4, label, NULL, NULL));
        assert_memory_equal(label, ((const int32_t[]){1, 0, 1, 2}), 16);
        close_reader(reader, ds);
    }
    float y[4];
    ebb_reader_t *reader = open_reader(path, "X:halves", &ds);
    assert_int_equal(ebb_dataset_info(ds)->target, EBB_TARGET_REAL);
    assert_ok(ebb_reader_targets(reader, 0, 4, NULL, y, NULL));
    assert_memory_equal(y, halves, 16);
    close_reader(reader, ds);
    test_rmdir(dir);
}

static void our_own_shard_opens_as_a_foreign_file(void **state)
{
    ebb_dataset_plan_t plan = made_plan(true, EBB_F16, 3000, 900);
    char *dir = test_mkdir(), path[5000];
    make_dataset(dir, &plan, 1, 1000);
    snprintf(path, sizeof path, "%s/shard-00000.h5", dir);
    check_sparse(path, NULL, "X", 501);
    ebb_dataset_t *ds;
    assert_ok(ebb_dataset_open(path, "X:obs/y", &ds));
    assert_int_equal(ebb_dataset_info(ds)->classes, 3);
    assert_string_equal(ebb_dataset_info(ds)->class_names[2], "\xce\xb3");
    ebb_dataset_close(ds);
    test_rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(anndata_of_pbmc_reads_as_libhdf5_does),
        cmocka_unit_test(tenx_matrix_reads_as_cells_by_genes),
        cmocka_unit_test(one_chunk_of_a_whole_matrix_reads),
        cmocka_unit_test(any_layout_filter_and_type_reads),
        cmocka_unit_test(chunks_never_written_read_as_their_fill_value),
        cmocka_unit_test(mistakes_in_foreign_files_are_named),
        cmocka_unit_test(integers_beyond_float32_are_refused),
        cmocka_unit_test(strings_and_numbers_become_classes),
        cmocka_unit_test(our_own_shard_opens_as_a_foreign_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
