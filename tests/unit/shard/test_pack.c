/* The packer and its importers against expectations made by hand, any number of threads against one, and bad input. */
#include "pack.h"
#include "shard/import/number.h"

#include <hdf5.h>
#include <math.h>

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

/* Pack text (n bytes; 0: a string) as DIR/source into DIR/dest. */
static ebb_status_t pack_bytes(const void *text, size_t n, ebb_pack_options_t options)
{
    const char *source = in_dir(dir, "source");
    write_file(source, text, n ? n : strlen(text));
    options.force = true;
    return ebb_pack(self, 1, &source, in_dir(dir, "dest"), &options);
}

/* The data set as LIBSVM-like lines with zero-based columns, into a static text. */
static const char *dump(const char *name)
{
    static char text[8192];
    ebb_dataset_t *ds;
    ebb_reader_t *reader;
    int64_t rowptr[64];
    int32_t col[1024], label[64];
    float val[1024], y[64], weight[64];
    size_t n = 0;
    assert_ok(ebb_dataset_open(in_dir(dir, name), NULL, &ds));
    const ebb_dataset_info_t *info = ebb_dataset_info(ds);
    assert_ok(ebb_reader_create(ds, 0, &reader));
    assert_true(info->rows <= 63);
    if (info->sparse) {
        assert_ok(ebb_reader_rowptr(reader, 0, info->rows, 0, rowptr));
        assert_ok(ebb_reader_csr(reader, 0, info->rows, col, val));
    } else {
        assert_ok(ebb_reader_dense(reader, 0, info->rows, val));
    }
    assert_ok(ebb_reader_targets(reader, 0, info->rows, info->target == EBB_TARGET_CLASS ? label : NULL,
                                 info->target == EBB_TARGET_REAL ? y : NULL, weight));
    for (int64_t r = 0; r < info->rows; r++) {
        if (info->target == EBB_TARGET_CLASS)
            n += (size_t)snprintf(text + n, sizeof text - n, "%s", info->class_names[label[r]]);
        if (info->target == EBB_TARGET_REAL)
            n += (size_t)snprintf(text + n, sizeof text - n, "%g", (double)y[r]);
        if (info->weighted)
            n += (size_t)snprintf(text + n, sizeof text - n, "*%g", (double)weight[r]);
        for (int64_t i = info->sparse ? rowptr[r] : r * info->cols;
             i < (info->sparse ? rowptr[r + 1] : (r + 1) * info->cols); i++)
            n += info->sparse ? (size_t)snprintf(text + n, sizeof text - n, " %d:%g", col[i], (double)val[i])
                              : (size_t)snprintf(text + n, sizeof text - n, " %g", (double)val[i]);
        n += (size_t)snprintf(text + n, sizeof text - n, "\n");
    }
    ebb_reader_destroy(reader);
    ebb_dataset_close(ds);
    return text;
}

static void expect_nearest(const char *text)
{
    const char *p = text, *q = text;
    double d;
    float f;
    assert_true(ebb_number_f64(&p, &d) && ebb_number_f32(&q, &f));
    assert_true(*p == '\n' && *q == '\n');
    assert_true(d == strtod(text, NULL));
    assert_true(f == strtof(text, NULL));
}

/* Integers in the middle between two doubles or floats and their neighbours, as they are and over powers of ten. */
static void numbers_near_a_middle_are_rounded_once(void **state)
{
    char text[64];
    uint64_t seed = 7;
    for (int i = 0; i < 100000; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        int bits = i % 2 ? 54 : 25, left = (int)(seed & 7) % (64 - bits);
        uint64_t m = (seed >> (64 - bits) | 1ull << (bits - 1) | 1) << left;
        m += (uint64_t)(i / 2 % 3) - 1;
        snprintf(text, sizeof text, "%llu\n", (unsigned long long)m);
        expect_nearest(text);
        snprintf(text, sizeof text, "-%llue%d\n", (unsigned long long)(seed >> (seed & 15)), i % 64 - 32);
        expect_nearest(text);
    }
}

static void numbers_are_rounded_once(void **state)
{
    char text[64];
    uint64_t seed = 1;
    for (int i = 0; i < 200000; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        int digits = 1 + (int)(seed >> 60);
        snprintf(text, sizeof text, "%s%.*fe%d\n", seed & 1 ? "-" : "", digits, (double)(seed >> 11) * 0x1p-20,
                 (int)(seed >> 40 & 63) - 40);
        expect_nearest(text);
    }
    /* just above the middle of two floats: by way of a double it would round to even, downwards */
    const char *middle = "1.00000005960464477540\n", *big = "16777217.0000000001\n";
    float f;
    assert_true(ebb_number_f32(&middle, &f) && f == 0x1.000002p0f);
    assert_true(ebb_number_f32(&big, &f) && f == 16777218.0f);
}

static void svmlight_is_read_with_comments_and_any_order(void **state)
{
    assert_ok(pack_bytes("+1 3:1 1:2.5 # x\n\n# none\n-1 qid:4 2:3", 0, (ebb_pack_options_t){0}));
    assert_string_equal(dump("dest"), "+1 0:2.5 2:1\n-1 1:3\n");
    assert_ok(pack_bytes("1 0:1\n2 1:2\n3\n", 0, (ebb_pack_options_t){0}));
    assert_string_equal(dump("dest"), "1 0:1\n2 1:2\n3\n");
    assert_ok(pack_bytes("0.5 1:1\n2 2:2\r\n", 0, (ebb_pack_options_t){.cols = 7}));
    assert_string_equal(dump("dest"), "0.5 0:1\n2 1:2\n");
    assert_ok(pack_bytes("u1 5 2\nu2 7\n", 0, (ebb_pack_options_t){.from = "items"}));
    assert_string_equal(dump("dest"), " 2:1 5:1\n 7:1\n");
}

static void bad_svmlight_names_line_and_column(void **state)
{
    ebb_pack_options_t o = {.from = "svmlight"};
    assert_fails(pack_bytes("1 1:1\n1 x\n", 0, o), EBB_EDATA, "line 2, column 3: expected index:value");
    assert_fails(pack_bytes("1 1:nan\n", 0, o), EBB_EDATA, "line 1, column 3");
    assert_fails(pack_bytes("1 1:1e39\n", 0, o), EBB_EDATA, "line 1, column 3");
    assert_fails(pack_bytes("1,2 1:1\n", 0, o), EBB_EDATA, "several labels");
    assert_fails(pack_bytes("yes 1:1\n", 0, o), EBB_EDATA, "label is not a number");
    assert_fails(pack_bytes("1 4294967297:1\n", 0, o), EBB_EDATA, "2^31");
    assert_fails(pack_bytes("1 1:1\n1 7:1 3:1 7:1\n", 0, o), EBB_EDATA, "line 2: index 7 occurs twice");
    assert_fails(pack_bytes("\n", 0, o), EBB_EDATA, "no row");
    assert_fails(pack_bytes("1 1:1\n", 0, (ebb_pack_options_t){.from = "svmlite"}), EBB_EUSAGE, "svmlight");
    o.one_based = true;
    assert_fails(pack_bytes("1 0:1\n", 0, o), EBB_EDATA, "index 0 in a one-based file");
    assert_fails(pack_bytes("1 9:1\n", 0, (ebb_pack_options_t){.cols = 3}), EBB_EDATA, "beyond the 3 columns");
    assert_int_equal(count_entries(dir), 1); /* the source, and no debris */
}

static void missing_empty_and_foreign_files_are_told_apart(void **state)
{
    const char *nothing = in_dir(dir, "nothing"), *folder = dir;
    assert_fails(ebb_pack(self, 1, &nothing, in_dir(dir, "dest"), NULL), EBB_ENOINPUT, "nothing");
    assert_fails(ebb_pack(self, 1, &folder, in_dir(dir, "dest"), NULL), EBB_ENOINPUT, "not a regular file");
    write_file(nothing, "", 0);
    assert_fails(ebb_pack(self, 1, &nothing, in_dir(dir, "dest"), NULL), EBB_EDATA, "empty");
    assert_fails(pack_bytes("MZ\0\1\2\3 what is this", 20, (ebb_pack_options_t){0}), EBB_EDATA, "--from");
    assert_fails(pack_bytes("\x1f\x8b\x08\0\0\0\0\0\0\3\x33\x54", 12, (ebb_pack_options_t){.from = "svmlight"}),
                 EBB_EDATA, "truncated gzip");
}

static void csv_columns_become_fields(void **state)
{
    static const char text[] = "n,z,kind,w,y\n1,?,\"a \"\"b\"\"\",2,yes\n-2.5,4,,1,no\n0,5,\"a\nb\",0.5,yes\n";
    ebb_pack_options_t o = {.columns = "w:weight,kind:categorical,*:numeric", .target = "y", .hash_bits = 1};
    ebb_dataset_t *ds;
    assert_ok(pack_bytes(text, 0, o));
    assert_ok(ebb_dataset_open(in_dir(dir, "dest"), NULL, &ds));
    const ebb_dataset_info_t *info = ebb_dataset_info(ds);
    assert_int_equal(info->cols, 1 + 2 + 3);
    assert_int_equal(info->n_fields, 3);
    assert_string_equal(info->fields[1].name, "z");
    assert_int_equal(info->fields[1].end, 3);
    assert_true(info->fields[2].categorical);
    assert_true(info->weighted);
    assert_string_equal(info->class_names[0], "no");
    ebb_dataset_close(ds);
    const char *rows = dump("dest");
    assert_non_null(strstr(rows, "yes*2 0:1 2:1 "));
    assert_non_null(strstr(rows, "no*1 0:-2.5 1:4 5:1\n"));
    assert_non_null(strstr(rows, "yes*0.5 1:5 "));
}

static void numeric_transforms_are_learned_from_all_rows(void **state)
{
    static const char text[] = "a;b;c;y\n1;10;0;0.5\n2;10;1;1.5\n3;10;3;2.5\n4;50;7;3.5\n";
    ebb_pack_options_t o = {.columns = "a:numeric:standard,b:numeric:bins=2,c:numeric:log1p"};
    assert_ok(pack_bytes(text, 0, o));
    assert_string_equal(dump("dest"),
                        "0.5 0:-1.34164 1:1\n1.5 0:-0.447214 1:1 3:0.693147\n2.5 0:0.447214 1:1 3:1.38629\n"
                        "3.5 0:1.34164 2:1 3:2.07944\n");
    assert_int_equal(rename(in_dir(dir, "dest"), in_dir(dir, "first")), 0);
    o = (ebb_pack_options_t){.like = in_dir(dir, "first")};
    assert_ok(pack_bytes("a;b;c;y\n2.5;99;0;7\n", 0, o));
    assert_string_equal(dump("dest"), "7 2:1\n");
}

static void guessed_numbers_are_standardised_but_indicators_stay(void **state)
{
    assert_ok(pack_bytes("a,flag,y\n1,0,0.5\n2,1,1.5\n3,0,2.5\n4,1,3.5\n", 0, (ebb_pack_options_t){0}));
    assert_string_equal(dump("dest"), "0.5 0:-1.34164\n1.5 0:-0.447214 1:1\n2.5 0:0.447214\n3.5 0:1.34164 1:1\n");
}

static void bad_csv_names_line_and_cure(void **state)
{
    ebb_pack_options_t o = {.from = "csv"};
    assert_fails(pack_bytes("a,b\n1,2\n1,2,3\n", 0, o), EBB_EDATA, "line 3: 3 cells, but there are 2 columns");
    assert_fails(pack_bytes("a,b\n1,\"2\n3,4\n", 0, o), EBB_EDATA, "never closed");
    assert_fails(pack_bytes("1,2\n1,2\n", 0, o), EBB_EDATA, "--no-header");
    assert_fails(pack_bytes("a,a\n1,2\n", 0, o), EBB_EDATA, "two columns");
    o.columns = "a:numeric,b:numeric";
    assert_fails(pack_bytes("a,b\n1,2\n1,x\n", 0, o), EBB_EDATA, "line 3: column \"b\": \"x\" is not a finite number");
    o.columns = "hieght:numeric";
    assert_fails(pack_bytes("age,height\n1,2\n", 0, o), EBB_EUSAGE, "no column \"hieght\"; did you mean \"height\"");
    o.columns = "a:numerik";
    assert_fails(pack_bytes("a,b\n1,2\n", 0, o), EBB_EUSAGE, "did you mean \"numeric\"");
}

static void arrays_are_read_in_either_order(void **state)
{
    static const char idx[] = "\0\0\x09\2\0\0\0\2\0\0\0\3\1\2\3\4\5\xff";
    char npy[128 + 24] = "\x93NUMPY\1\0\x76\0{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }";
    float columns[6] = {1, 4, 2, 5, 3, 6.5f};
    memcpy(npy + 128, columns, sizeof columns);
    assert_ok(pack_bytes(idx, 18, (ebb_pack_options_t){0}));
    assert_string_equal(dump("dest"), " 1 2 3\n 4 5 -1\n");
    assert_ok(pack_bytes(npy, sizeof npy, (ebb_pack_options_t){0}));
    assert_string_equal(dump("dest"), " 1 2 3\n 4 5 6.5\n");
    assert_ok(pack_bytes(npy, sizeof npy, (ebb_pack_options_t){.sparse = true}));
    assert_string_equal(dump("dest"), " 0:1 1:2 2:3\n 0:4 1:5 2:6.5\n");
    assert_fails(pack_bytes(idx, 17, (ebb_pack_options_t){0}), EBB_EDATA, "truncated");
    assert_fails(pack_bytes(npy, sizeof npy - 1, (ebb_pack_options_t){0}), EBB_EDATA, "truncated");
}

static void add_dataset(hid_t file, const char *name, hid_t type, int dims, const void *values)
{
    const hsize_t size[] = {3, 2};
    hid_t space = H5Screate_simple(dims, size, NULL);
    hid_t set = H5Dcreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    assert_true(set >= 0 && H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0);
    H5Dclose(set);
    H5Sclose(space);
}

/* Naming the targets alone does not name the matrix. */
static void the_only_matrix_of_an_hdf5_file_needs_no_name(void **state)
{
    const char *source = in_dir(dir, "plain.h5");
    hid_t file = H5Fcreate(source, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    add_dataset(file, "numbers", H5T_NATIVE_FLOAT, 2, (const float[]){1, 2, 3, 4, 5, 6});
    add_dataset(file, "labels", H5T_NATIVE_INT, 1, (const int[]){1, 0, 1});
    assert_true(H5Fclose(file) >= 0);
    ebb_pack_options_t options = {.target = "labels", .force = true};
    assert_ok(ebb_pack(self, 1, &source, in_dir(dir, "dest"), &options));
    assert_string_equal(dump("dest"), "1 1 2\n0 3 4\n1 5 6\n");
}

static void stanzas_become_rows(void **state)
{
    static const char text[] =
        "Package: a\nSection: contrib/net\nDepends: x (>= 1), y | z\nDescription-en: Big big\n thing\n\n\n"
        "Package: b\n\nPackage: c\nSection: doc\n";
    ebb_dataset_t *ds;
    assert_ok(pack_bytes(text, 0, (ebb_pack_options_t){0}));
    assert_ok(ebb_dataset_open(in_dir(dir, "dest"), NULL, &ds));
    const ebb_dataset_info_t *info = ebb_dataset_info(ds);
    assert_int_equal(info->rows, 2); /* b has no section */
    assert_int_equal(info->nnz, 7);  /* a; x, y, z; big, thing; c */
    assert_string_equal(info->class_names[1], "net");
    ebb_dataset_close(ds);
    assert_fails(pack_bytes("Package: a\nSection: x\nnonsense\n", 0, (ebb_pack_options_t){0}), EBB_EDATA, "line 3");
}

static void any_threads_and_memory_write_the_same_bytes(void **state)
{
    const char *source = in_dir(dir, "source");
    ebb_pack_options_t o = {
        .shard_bytes = 50000, .memory_bytes = (int64_t)1 << 30, .threads = 1, .name = "x", .split = "a=0.5,b=0.25"};
    write_svmlight(source, 3000);
    assert_ok(ebb_pack(self, 1, &source, in_dir(dir, "one"), &o));
    for (int threads = 2; threads <= 3; threads++) {
        o.threads = threads;
        o.memory_bytes = (int64_t)threads << 21;
        o.force = true;
        assert_ok(ebb_pack(self, 1, &source, in_dir(dir, "more"), &o));
        assert_true(same_folders(in_dir(dir, "one"), in_dir(dir, "more")));
    }
    assert_int_equal(count_entries(dir), 3);
}

static void a_split_may_begin_with_empty_rows(void **state)
{
    ebb_pack_options_t o = {.from = "svmlight", .split = "a=0.5,b=0.5", .cols = 3};
    assert_ok(pack_bytes("1\n2\n1\n2\n1\n2\n1\n2 3:1\n", 0, o));
}

static void only_data_sets_are_replaced(void **state)
{
    const char *source = in_dir(dir, "source");
    write_file(source, "1 1:1\n", 6);
    assert_ok(ebb_pack(self, 1, &source, in_dir(dir, "dest"), NULL));
    assert_fails(ebb_pack(self, 1, &source, in_dir(dir, "dest"), NULL), EBB_EUSAGE, "--force");
    assert_int_equal(mkdir(in_dir(dir, "mine"), 0777), 0);
    write_file(in_dir(dir, "mine/letter"), "x", 1);
    ebb_pack_options_t force = {.force = true};
    assert_fails(ebb_pack(self, 1, &source, in_dir(dir, "mine"), &force), EBB_EUSAGE, "not a data set");
    assert_ok(ebb_pack(self, 1, &source, in_dir(dir, "dest/"), &force));
    volatile int stop = 1;
    force.stop = &stop;
    assert_fails(ebb_pack(self, 1, &source, in_dir(dir, "dest"), &force), EBB_ESTOPPED, "stopped");
    assert_string_equal(dump("dest"), "1 0:1\n");
    assert_int_equal(count_entries(dir), 3);
}

static void real_sources_have_the_figures_known(void **state)
{
    static const struct {
        const char *file, *from, *target;
        int64_t rows, cols, nnz, classes;
        bool no_header;
    } known[] = {
        {"a9a/a9a", NULL, NULL, 32561, 123, 451592, 2, false},
        {"dna/dna.scale", NULL, NULL, 2000, 180, 91233, 3, false},
        {"mushrooms/mushrooms", NULL, NULL, 8124, 112, 170604, 2, false},
        {"gowalla/valid.txt", "items", NULL, 29858, 40981, 91047, 0, false},
        {"criteo-sample/dev.csv", NULL, "1", 409, 0, 0, 2, true},
        {"adult/adult.data.gz", NULL, "15", 32561, 0, 0, 2, true},
        {"fashion-mnist/t10k-images-idx3-ubyte.gz", NULL, NULL, 10000, 784, 7840000, 10, false},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const char *source = test_shared(known[i].file);
        ebb_dataset_t *ds;
        skip_without(source, known[i].file);
        ebb_pack_options_t o = {.from = known[i].from,
                                .target = known[i].target,
                                .no_header = known[i].no_header,
                                .force = true,
                                .level = 1};
        assert_ok(ebb_pack(self, 1, &source, in_dir(dir, "real"), &o));
        assert_ok(ebb_dataset_open(in_dir(dir, "real"), NULL, &ds));
        const ebb_dataset_info_t *info = ebb_dataset_info(ds);
        assert_int_equal(info->rows, known[i].rows);
        assert_int_equal(info->classes, known[i].classes);
        if (known[i].nnz && (known[i].from == NULL || info->cols == known[i].cols))
            assert_int_equal(info->cols, known[i].cols);
        if (known[i].nnz)
            assert_int_equal(info->nnz, known[i].nnz);
        ebb_dataset_close(ds);
    }
}

int main(void)
{
    ebb_log_set_level(EBB_LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_rounded_once),
        cmocka_unit_test(numbers_near_a_middle_are_rounded_once),
        cmocka_unit_test_setup_teardown(svmlight_is_read_with_comments_and_any_order, setup, teardown),
        cmocka_unit_test_setup_teardown(bad_svmlight_names_line_and_column, setup, teardown),
        cmocka_unit_test_setup_teardown(missing_empty_and_foreign_files_are_told_apart, setup, teardown),
        cmocka_unit_test_setup_teardown(csv_columns_become_fields, setup, teardown),
        cmocka_unit_test_setup_teardown(numeric_transforms_are_learned_from_all_rows, setup, teardown),
        cmocka_unit_test_setup_teardown(guessed_numbers_are_standardised_but_indicators_stay, setup, teardown),
        cmocka_unit_test_setup_teardown(bad_csv_names_line_and_cure, setup, teardown),
        cmocka_unit_test_setup_teardown(arrays_are_read_in_either_order, setup, teardown),
        cmocka_unit_test_setup_teardown(stanzas_become_rows, setup, teardown),
        cmocka_unit_test_setup_teardown(the_only_matrix_of_an_hdf5_file_needs_no_name, setup, teardown),
        cmocka_unit_test_setup_teardown(any_threads_and_memory_write_the_same_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(a_split_may_begin_with_empty_rows, setup, teardown),
        cmocka_unit_test_setup_teardown(only_data_sets_are_replaced, setup, teardown),
        cmocka_unit_test_setup_teardown(real_sources_have_the_figures_known, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
