/* Checkpoints on one rank: what is saved is what is loaded; damage is detected; an interrupted save leaves the old
 * file. */
#include "support.h"
#include "fake_state.h"
#include "checkpoint/internal.h"
#include "base/alloc.h"
#include "base/file.h"
#include "base/hash.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>

typedef struct fixture {
    char *dir;
    ebb_comm_t *comm;
    ebb_checkpoint_state_t state;
} fixture_t;

static int setup(void **p)
{
    fixture_t *f = calloc(1, sizeof *f);
    f->dir = test_mkdir();
    assert_ok(ebb_comm_self(&f->comm));
    fake_create(f->comm, 2, &f->state);
    ebb_log_set_level(EBB_LOG_ERROR);
    *p = f;
    return 0;
}

static int teardown(void **p)
{
    fixture_t *f = *p;
    fake_destroy(&f->state);
    ebb_comm_destroy(f->comm);
    test_rmdir(f->dir);
    free(f);
    ebb_ckpt_piece_floats = 2 << 20;
    return 0;
}

static ebb_checkpoint_meta_t some_meta(int64_t step)
{
    return (ebb_checkpoint_meta_t){.step = step,
                                   .cursor = {.seed = UINT64_MAX - 5, .epoch = 3, .step = 77, .data_hash = {1, 2, 250}},
                                   .lanes = 24,
                                   .config = "{\"a\":1}",
                                   .progress = "",
                                   .dataset = "{\"name\":\"na\xc3\xafve\"}"};
}

static void save(fixture_t *f, int salt, int64_t step, char *path, size_t size)
{
    ebb_checkpoint_meta_t meta = some_meta(step);
    fake_visit(&f->state, salt, true);
    assert_ok(ebb_checkpoint_path(f->dir, step, path, size));
    assert_ok(ebb_checkpoint_save(&f->state, path, &meta));
}

static void what_is_saved_is_loaded(void **p)
{
    fixture_t *f = *p;
    char path[4096], w[65], o[65];
    ebb_checkpoint_meta_t meta;
    for (int64_t piece = 7; piece < 1 << 20; piece *= 29) {
        ebb_ckpt_piece_floats = piece;
        save(f, 1, 1000, path, sizeof path);
        assert_ok(ebb_checkpoint_hash(&f->state, w, o));
        fake_visit(&f->state, 2, true);
        assert_ok(ebb_checkpoint_load(&f->state, path, &meta));
        assert_int_equal(fake_visit(&f->state, 1, false), 0);
        ebb_checkpoint_meta_t want = some_meta(1000);
        assert_int_equal(meta.step, 1000);
        assert_int_equal(meta.lanes, 24);
        assert_memory_equal(&meta.cursor, &want.cursor, sizeof meta.cursor);
        assert_string_equal(meta.config, want.config);
        assert_string_equal(meta.progress, "");
        assert_string_equal(meta.dataset, want.dataset);
        assert_string_equal(meta.weights_sha256, w);
        assert_string_equal(meta.optimizer_sha256, o);
        ebb_checkpoint_meta_free(&meta);
        assert_ok(ebb_checkpoint_verify(path));
    }
}

static void equal_state_gives_equal_hashes_and_bytes_and_other_state_does_not(void **p)
{
    fixture_t *f = *p;
    char path[4096], first[65], second[65], w[65], o[65], w2[65], o2[65];
    save(f, 1, 5, path, sizeof path);
    assert_ok(ebb_sha256_file(path, first));
    assert_ok(ebb_checkpoint_hash(&f->state, w, o));
    ebb_ckpt_piece_floats = 640;
    save(f, 1, 5, path, sizeof path);
    assert_ok(ebb_sha256_file(path, second));
    assert_string_equal(first, second);
    f->state.optim->table[1][0][2999] += 1;
    assert_ok(ebb_checkpoint_hash(&f->state, w2, o2));
    assert_string_equal(w, w2);
    assert_string_not_equal(o, o2);
    f->state.weights->dense[16] += 1;
    assert_ok(ebb_checkpoint_hash(&f->state, w2, o2));
    assert_string_not_equal(w, w2);
}

/* The digests are documented in FORMAT.md: recompute one from that text alone. */
static void weights_sha256_is_that_of_names_shapes_and_values(void **p)
{
    fixture_t *f = *p;
    char path[4096], hex[65], w[65], o[65];
    ebb_sha256_t *sha;
    save(f, 1, 5, path, sizeof path);
    assert_ok(ebb_checkpoint_hash(&f->state, w, o));
    assert_ok(ebb_sha256_create(&sha));
    for (int i = 0; i < fake_layout.n_params; i++) {
        int64_t shape[2] = {fake_params[i].rows, fake_params[i].cols};
        float *values = fake_param(&fake_layout, f->state.weights, i);
        ebb_sha256_update(sha, fake_params[i].name, strlen(fake_params[i].name) + 1);
        ebb_sha256_update(sha, shape, 16);
        ebb_sha256_update(sha, values, (size_t)(shape[0] * shape[1]) * 4);
    }
    ebb_sha256_final(sha, hex);
    ebb_sha256_destroy(sha);
    assert_string_equal(hex, w);
}

static void a_known_digest_of_the_weights_gives_the_same_file(void **p)
{
    fixture_t *f = *p;
    char path[2][4096], *bytes[2];
    size_t n[2];
    ebb_checkpoint_state_t model = f->state;
    model.optim = NULL;
    ebb_checkpoint_meta_t meta = some_meta(2);
    for (int i = 0; i < 2; i++) {
        char known[65];
        snprintf(path[i], sizeof path[i], "%s/model%d.h5", f->dir, i);
        memcpy(known, meta.weights_sha256, 65);
        model.weights_sha256 = i == 1 ? known : NULL;
        assert_ok(ebb_checkpoint_save(&model, path[i], &meta));
        assert_ok(ebb_checkpoint_verify(path[i]));
        assert_ok(ebb_file_read_all(path[i], &bytes[i], &n[i]));
    }
    assert_int_equal(n[0], n[1]);
    assert_memory_equal(bytes[0], bytes[1], n[0]);
    ebb_free(bytes[0]);
    ebb_free(bytes[1]);
}

static void a_model_has_no_state_and_training_does_not_go_on_from_it(void **p)
{
    fixture_t *f = *p;
    char path[4096];
    ebb_checkpoint_meta_t meta = some_meta(9);
    ebb_checkpoint_state_t model = f->state;
    model.optim = NULL;
    fake_visit(&f->state, 4, true);
    snprintf(path, sizeof path, "%s/model.h5", f->dir);
    assert_ok(ebb_checkpoint_save(&model, path, &meta));
    assert_string_equal(meta.optimizer_sha256, "");
    fake_visit(&f->state, 5, true);
    assert_ok(ebb_checkpoint_load(&model, path, &meta));
    assert_int_equal(fake_visit(&model, 4, false), 0);
    ebb_checkpoint_meta_free(&meta);
    assert_fails(ebb_checkpoint_load(&f->state, path, &meta), EBB_EDATA, "without optimiser state");
    save(f, 6, 10, path, sizeof path);
    assert_ok(ebb_checkpoint_load(&model, path, &meta)); /* the other way is fine */
    ebb_checkpoint_meta_free(&meta);
}

static void other_shapes_and_optimisers_are_named(void **p)
{
    fixture_t *f = *p;
    char path[4096];
    ebb_checkpoint_meta_t meta;
    ebb_param_t params[4];
    ebb_layout_t layout = fake_layout;
    ebb_checkpoint_state_t state = f->state;
    save(f, 1, 1, path, sizeof path);
    memcpy(params, fake_params, sizeof params);
    layout.params = params;
    state.layout = &layout;
    params[3].rows = 36;
    assert_fails(ebb_checkpoint_load(&state, path, &meta), EBB_EDATA,
                 "\"2.linear.weight\" is 37 x 11, in the model 36 x 11");
    params[3].rows = 37;
    strcpy(params[1].name, "0.linear.b");
    assert_fails(ebb_checkpoint_load(&state, path, &meta), EBB_EDATA,
                 "\"0.linear.bias\" where the model has \"0.linear.b\"");
    layout.n_params = 3;
    assert_fails(ebb_checkpoint_load(&state, path, &meta), EBB_EDATA, "4 parameters, the model has 3");
    f->state.optim->states = 1;
    assert_fails(ebb_checkpoint_load(&f->state, path, &meta), EBB_EDATA,
                 "2 optimiser states, the optimiser of this run has 1");
    f->state.optim->states = 2;
    strcpy(params[1].name, "a/b");
    assert_fails(ebb_checkpoint_save(&state, path, &meta), EBB_EINVAL, "\"a/b\"");
}

static void every_flipped_bit_and_every_cut_is_detected(void **p)
{
    fixture_t *f = *p;
    char path[4096], copy[4100], *bytes;
    size_t n;
    ebb_checkpoint_meta_t meta;
    ebb_checkpoint_state_t model = f->state;
    model.optim = NULL;
    meta = some_meta(2);
    snprintf(path, sizeof path, "%s/model.h5", f->dir);
    snprintf(copy, sizeof copy, "%s/copy.h5", f->dir);
    assert_ok(ebb_checkpoint_save(&model, path, &meta));
    assert_ok(ebb_file_read_all(path, &bytes, &n));
    int fd = open(copy, O_RDWR | O_CREAT, 0600);
    assert_ok(ebb_file_pwrite(fd, copy, bytes, n, 0));
    assert_ok(ebb_checkpoint_verify(copy));
    for (size_t i = 0; i < n; i++) {
        char flipped = (char)(bytes[i] ^ 1 << i % 8);
        assert_int_equal(pwrite(fd, &flipped, 1, (off_t)i), 1);
        ebb_status_t status = ebb_checkpoint_read_meta(copy, &meta);
        if (status != EBB_ECORRUPT && status != EBB_EDATA)
            fail_msg("byte %zu of %zu: flipped bit not detected (%s)", i, n, ebb_status_name(status));
        ebb_error_clear();
        assert_int_equal(pwrite(fd, bytes + i, 1, (off_t)i), 1);
    }
    assert_ok(ebb_checkpoint_verify(copy));
    for (size_t cut = n; cut > 0; cut -= cut > 600 ? 97 : 1) {
        assert_int_equal(ftruncate(fd, (off_t)cut - 1), 0);
        ebb_status_t status = ebb_checkpoint_read_meta(copy, &meta);
        assert_true(status == EBB_ECORRUPT || status == EBB_EDATA);
        ebb_error_clear();
    }
    close(fd);
    ebb_free(bytes);
}

static void the_newest_good_one_is_found_and_old_ones_are_pruned(void **p)
{
    fixture_t *f = *p;
    char path[4096], found[4096], tmp[4200];
    assert_fails(ebb_checkpoint_newest(f->comm, f->dir, found, sizeof found), EBB_ENOINPUT, "no checkpoint");
    for (int step = 1; step <= 4; step++)
        save(f, step, step * 1000, path, sizeof path);
    assert_ok(ebb_checkpoint_newest(f->comm, f->dir, found, sizeof found));
    assert_string_equal(found, path);
    assert_int_equal(truncate(path, ebb_file_size(path) - 1), 0);
    assert_ok(ebb_checkpoint_newest(f->comm, f->dir, found, sizeof found));
    assert_non_null(strstr(found, "step-000003000.h5"));
    snprintf(tmp, sizeof tmp, "%s.tmp-4242", path);
    assert_ok(ebb_file_replace(tmp, "x", 1));
    assert_ok(ebb_checkpoint_prune(f->dir, 2));
    assert_false(ebb_file_exists(tmp));
    assert_true(ebb_file_exists(found));
    assert_ok(ebb_checkpoint_path(f->dir, 2000, path, sizeof path));
    assert_true(ebb_file_exists(path));
    assert_ok(ebb_checkpoint_path(f->dir, 1000, path, sizeof path));
    assert_false(ebb_file_exists(path));
    assert_ok(ebb_checkpoint_prune(f->dir, 0)); /* a finished run needs none */
    assert_fails(ebb_checkpoint_newest(f->comm, f->dir, found, sizeof found), EBB_ENOINPUT, "no checkpoint");
}

static int files_in(const char *dir)
{
    char command[4200];
    snprintf(command, sizeof command, "ls -A '%s' | wc -l", dir);
    FILE *out = popen(command, "r");
    int n = -1;
    assert_int_equal(fscanf(out, "%d", &n), 1);
    pclose(out);
    return n;
}

static void a_failed_save_leaves_nothing_behind_and_the_old_file_intact(void **p)
{
    fixture_t *f = *p;
    char path[4096];
    struct rlimit old, small = {8192, 8192};
    ebb_checkpoint_meta_t meta = some_meta(1000);
    save(f, 1, 1000, path, sizeof path);
    /* A limit on file sizes stands in for a full disk, which needs a mount. */
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small.rlim_max = old.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    ebb_status_t status = ebb_checkpoint_save(&f->state, path, &meta);
    setrlimit(RLIMIT_FSIZE, &old);
    assert_int_equal(status, EBB_EIO);
    ebb_error_clear();
    assert_int_equal(files_in(f->dir), 1);
    assert_ok(ebb_checkpoint_verify(path));
    snprintf(path, sizeof path, "%s/absent/step-000000001.h5", f->dir);
    assert_fails(ebb_checkpoint_save(&f->state, path, &meta), EBB_ENOINPUT, "absent");
    assert_int_equal(files_in(f->dir), 1);
}

/* Every size of disk that is too small, from one that holds nothing to one that lacks a page. */
static void a_full_disk_is_named_and_the_old_checkpoint_stays(void **p)
{
    fixture_t *f = *p;
    char path[4096], options[32];
    ebb_checkpoint_meta_t meta = some_meta(1000);
    bool full = true;
    for (int pages = 2; full && pages < 200; pages++) {
        snprintf(options, sizeof options, "size=%dk", pages * 4);
        if (mount("tmpfs", f->dir, "tmpfs", 0, options) != 0) {
            print_message("[  SKIPPED ] cannot mount a tmpfs here\n");
            skip();
        }
        assert_ok(ebb_checkpoint_path(f->dir, 1000, path, sizeof path));
        ebb_status_t status = ebb_checkpoint_save(&f->state, path, &meta);
        full = status != EBB_OK;
        if (full) {
            assert_fails(status, EBB_ENOSPC, "No space left on device");
            assert_int_equal(files_in(f->dir), 0);
        } else {
            assert_ok(ebb_checkpoint_verify(path));
            status = ebb_checkpoint_save(&f->state, path, &meta); /* no room for a second one beside it */
            assert_fails(status, EBB_ENOSPC, "free some space");
            assert_ok(ebb_checkpoint_verify(path));
            assert_int_equal(files_in(f->dir), 1);
        }
        assert_int_equal(umount(f->dir), 0);
    }
    assert_false(full);
}

static void every_failed_allocation_is_an_error_and_leaks_nothing(void **p)
{
    fixture_t *f = *p;
    char path[4096];
    ebb_checkpoint_meta_t meta = some_meta(1);
    bool failed = true;
    save(f, 1, 1, path, sizeof path);
    for (int64_t n = 0; failed && n < 100; n++) {
        ebb_alloc_fail_after(n);
        ebb_status_t status = ebb_checkpoint_save(&f->state, path, &meta);
        ebb_alloc_fail_after(-1);
        failed = status != EBB_OK;
        assert_true(!failed || status == EBB_ENOMEM);
        ebb_error_clear();
        assert_int_equal(files_in(f->dir), 1);
    }
    assert_false(failed);
    failed = true;
    for (int64_t n = 0; failed && n < 100; n++) {
        ebb_alloc_fail_after(n);
        ebb_status_t status = ebb_checkpoint_load(&f->state, path, &meta);
        ebb_alloc_fail_after(-1);
        failed = status != EBB_OK;
        assert_true(!failed || status == EBB_ENOMEM);
        ebb_error_clear();
    }
    assert_false(failed);
    ebb_checkpoint_meta_free(&meta);
}

/* A child saves without end; killed at any moment, the newest file loads and is whole. */
static void a_kill_in_the_middle_of_saving_always_leaves_a_good_checkpoint(void **p)
{
    fixture_t *f = *p;
    char path[4096], found[4096];
    ebb_checkpoint_meta_t meta;
    save(f, 0, 0, path, sizeof path);
    for (int round = 0; round < 12; round++) {
        pid_t pid = fork();
        if (pid == 0) {
            for (int step = 1 + round * 1000;; step++) {
                meta = some_meta(step);
                fake_visit(&f->state, step, true);
                if (ebb_checkpoint_path(f->dir, step, path, sizeof path) != EBB_OK ||
                    ebb_checkpoint_save(&f->state, path, &meta) != EBB_OK || ebb_checkpoint_prune(f->dir, 2) != EBB_OK)
                    _exit(1);
            }
        }
        usleep(20000 + (useconds_t)round * 7001);
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        assert_ok(ebb_checkpoint_newest(f->comm, f->dir, found, sizeof found));
        assert_ok(ebb_checkpoint_load(&f->state, found, &meta));
        assert_int_equal(fake_visit(&f->state, (int)meta.step, false), 0);
        ebb_checkpoint_meta_free(&meta);
    }
}

/* Other tools read the file as plain HDF5. */
static void h5dump_reads_weights_states_and_meta(void **p)
{
    fixture_t *f = *p;
    char path[4096], command[8300], line[400];
    const char *want[] = {"(0,0): 19008, 19008.2, 19008.5", "(0): 1000", "{\"a\":1}", "(36,"};
    int found = 0;
    if (system("command -v h5dump >/dev/null") != 0) {
        print_message("[  SKIPPED ] no h5dump here\n");
        skip();
    }
    save(f, 1, 1000, path, sizeof path);
    snprintf(command, sizeof command,
             "h5dump -d /weights/0.linear.bias -d /optimizer/v/2.linear.weight -a /step -d /meta/config '%s'", path);
    FILE *out = popen(command, "r");
    while (fgets(line, sizeof line, out))
        for (int i = 0; i < 4; i++)
            found |= strstr(line, want[i]) ? 1 << i : 0;
    assert_int_equal(pclose(out), 0);
    assert_int_equal(found, 15);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_is_saved_is_loaded),
        TEST(equal_state_gives_equal_hashes_and_bytes_and_other_state_does_not),
        TEST(weights_sha256_is_that_of_names_shapes_and_values),
        TEST(a_known_digest_of_the_weights_gives_the_same_file),
        TEST(a_model_has_no_state_and_training_does_not_go_on_from_it),
        TEST(other_shapes_and_optimisers_are_named),
        TEST(every_flipped_bit_and_every_cut_is_detected),
        TEST(the_newest_good_one_is_found_and_old_ones_are_pruned),
        TEST(h5dump_reads_weights_states_and_meta),
        TEST(a_failed_save_leaves_nothing_behind_and_the_old_file_intact),
        TEST(a_full_disk_is_named_and_the_old_checkpoint_stays),
        TEST(every_failed_allocation_is_an_error_and_leaks_nothing),
        TEST(a_kill_in_the_middle_of_saving_always_leaves_a_good_checkpoint),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
