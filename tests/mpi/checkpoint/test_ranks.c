/* A checkpoint does not know how many ranks wrote it: what n ranks save, any other number loads, and hashes and bytes
 * are equal to those of one rank. */
#include "support.h"
#include "fake_state.h"
#include "checkpoint/internal.h"
#include "base/file.h"
#include "base/hash.h"

#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

static ebb_comm_t *world;

/* The run's folder, the same on all ranks. */
static void shared_dir(char dir[4096])
{
    char *made = ebb_comm_rank(world) == 0 ? test_mkdir() : NULL;
    memset(dir, 0, 4096);
    if (made)
        snprintf(dir, 4096, "%s", made);
    free(made);
    assert_ok(ebb_comm_bcast(world, dir, 4096, 0));
}

static void remove_dir(char dir[4096])
{
    assert_ok(ebb_comm_barrier(world));
    if (ebb_comm_rank(world) == 0)
        test_rmdir(strdup(dir));
}

/* Nothing else is left in a folder, when all have come here. */
static void assert_only(const char *dir, const char *a, const char *b)
{
    assert_ok(ebb_comm_barrier(world));
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 && !(a && strcmp(e->d_name, a) == 0) &&
            !(b && strcmp(e->d_name, b) == 0))
            fail_msg("%s holds %s", dir, e->d_name);
    closedir(d);
    assert_ok(ebb_comm_barrier(world));
}

/* Hash and file of one rank with the same state, made by rank 0 alone. */
static void alone(const char *path, char weights[65], char optimizer[65], bool load)
{
    ebb_comm_t *self;
    ebb_checkpoint_state_t one;
    ebb_checkpoint_meta_t meta = {.step = 7, .lanes = 24, .config = "{}", .progress = "{}", .dataset = "{}"};
    if (ebb_comm_rank(world) != 0)
        return;
    assert_ok(ebb_comm_self(&self));
    fake_create(self, 2, &one);
    if (load) {
        assert_ok(ebb_checkpoint_load(&one, path, &meta));
        assert_int_equal(fake_visit(&one, 3, false), 0);
        ebb_checkpoint_meta_free(&meta);
    } else {
        fake_visit(&one, 3, true);
        assert_ok(ebb_checkpoint_save(&one, path, &meta));
    }
    assert_ok(ebb_checkpoint_hash(&one, weights, optimizer));
    fake_destroy(&one);
    ebb_comm_destroy(self);
}

static void any_number_of_ranks_saves_and_loads_the_same_file(void **p)
{
    char dir[4096], path[5000], path1[5000], w[65], o[65], w1[65], o1[65], file[65], file1[65];
    ebb_checkpoint_state_t state;
    int64_t pieces[] = {100, 5 * 64, 1300, 2 << 20};
    fake_create(world, 2, &state);
    shared_dir(dir);
    snprintf(path, sizeof path, "%s/ranks.h5", dir);
    snprintf(path1, sizeof path1, "%s/alone.h5", dir);
    for (int i = 0; i < 4; i++) {
        ebb_checkpoint_meta_t meta = {.step = 7, .lanes = 24, .config = "{}", .progress = "{}", .dataset = "{}"};
        ebb_ckpt_piece_floats = pieces[i];
        fake_visit(&state, 3, true);
        assert_ok(ebb_checkpoint_save(&state, path, &meta));
        assert_ok(ebb_checkpoint_hash(&state, w, o));
        assert_string_equal(meta.weights_sha256, w);
        assert_string_equal(meta.optimizer_sha256, o);
        alone(path1, w1, o1, false);
        if (ebb_comm_rank(world) == 0) {
            assert_string_equal(w, w1);
            assert_string_equal(o, o1);
            assert_ok(ebb_sha256_file(path, file));
            assert_ok(ebb_sha256_file(path1, file1));
            assert_string_equal(file, file1);
        }
        alone(path, w1, o1, true);
        fake_visit(&state, 4, true);
        assert_ok(ebb_checkpoint_load(&state, path1, &meta));
        assert_int_equal(fake_visit(&state, 3, false), 0);
        assert_int_equal(meta.step, 7);
        assert_string_equal(meta.config, "{}");
        ebb_checkpoint_meta_free(&meta);
    }
    remove_dir(dir);
    fake_destroy(&state);
}

/* Ask at every step, all ranks together. */
static void wait_as_training_does(ebb_saver_t *saver)
{
    for (bool over = false; !over;) {
        int64_t ended = ebb_saver_ended(saver);
        assert_ok(ebb_comm_allreduce(world, &ended, 1, EBB_COMM_I64, EBB_SUM));
        if (ended > 0 && ended == ebb_saver_voices(saver))
            assert_ok(ebb_saver_go_on(saver, &over));
    }
}

static void a_snapshot_gives_the_same_file(bool split)
{
    char dir[4096], path[5000], path1[5000], w1[65], o1[65], file[65], file1[65];
    ebb_checkpoint_state_t state;
    ebb_saver_t *saver;
    ebb_saved_t saved;
    ebb_checkpoint_meta_t meta = {.step = 7, .lanes = 24, .config = "{}", .progress = "{}", .dataset = "{}"};
    fake_create(world, 2, &state);
    shared_dir(dir);
    snprintf(path, sizeof path, "%s/step-000000007.h5", dir);
    snprintf(path1, sizeof path1, "%s/alone.h5", dir);
    assert_ok(ebb_saver_create(world, &fake_layout, 2, &saver));
    for (int round = 0; round < 3; round++) {
        ebb_ckpt_piece_floats = round == 1 ? 320 : 1 << 18;
        ebb_saver_split_bytes = split ? 0 : INT64_MAX;
        fake_visit(&state, 3, true);
        assert_ok(ebb_saver_begin(saver, &state, path, 1, &meta));
        assert_true(ebb_saver_pending(saver));
        assert_int_equal(ebb_saver_voices(saver), split ? ebb_comm_size(world) : 1);
        fake_visit(&state, 4, true);
        assert_true(split || ebb_comm_rank(world) == 0 || !ebb_saver_ended(saver));
        if (round != 1)
            wait_as_training_does(saver);
        assert_ok(ebb_saver_end(saver, &saved));
        assert_string_equal(saved.path, path);
        alone(path1, w1, o1, false);
        if (ebb_comm_rank(world) == 0) {
            assert_string_equal(saved.weights_sha256, w1);
            assert_string_equal(saved.optimizer_sha256, o1);
            assert_ok(ebb_sha256_file(path, file));
            assert_ok(ebb_sha256_file(path1, file1));
            assert_string_equal(file, file1);
        }
    }
    snprintf(path, sizeof path, "%s/alone.h5/step-000000007.h5", dir);
    assert_ok(ebb_saver_begin(saver, &state, path, 1, &meta));
    assert_fails(ebb_saver_end(saver, &saved), EBB_EIO, "alone.h5");
    assert_string_equal(saved.path, path);
    assert_only(dir, "alone.h5", "step-000000007.h5");
    ebb_saver_destroy(saver);
    remove_dir(dir);
    fake_destroy(&state);
}

static void a_snapshot_of_any_number_of_ranks_gives_the_same_file(void **p)
{
    a_snapshot_gives_the_same_file(false);
}

static void a_file_that_several_ranks_write_is_the_same_file(void **p)
{
    if (ebb_comm_size(world) > 1)
        a_snapshot_gives_the_same_file(true);
}

/* Larger than what goes past the page cache, and no multiple of a sector. */
static void a_large_file_that_several_ranks_write_is_the_same_file(void **p)
{
    enum { ROWS = 3333, COLS = 1001 };
    char dir[4096], path[5000], path1[5000], file[65], file1[65];
    ebb_param_t param = {.name = "w", .kind = EBB_PARAM_DENSE, .rows = ROWS, .cols = COLS};
    ebb_layout_t layout = {.n_params = 1, .params = &param, .dense_floats = ROWS * COLS};
    ebb_weights_t weights = {.dense = calloc(ROWS * COLS, sizeof(float))};
    ebb_checkpoint_state_t model = {.comm = world, .backend = &fake_backend, .layout = &layout, .weights = &weights};
    ebb_checkpoint_meta_t meta = {.step = 7, .lanes = 24, .config = "{}", .progress = "{}", .dataset = "{}"};
    ebb_saver_t *saver;
    ebb_saved_t saved;
    for (int i = 0; i < ROWS * COLS; i++)
        weights.dense[i] = (float)(i % 7919);
    ebb_ckpt_piece_floats = 1 << 18;
    ebb_saver_split_bytes = 0;
    shared_dir(dir);
    snprintf(path, sizeof path, "%s/step-000000007.h5", dir);
    snprintf(path1, sizeof path1, "%s/alone.h5", dir);
    assert_ok(ebb_checkpoint_save(&model, path1, &meta));
    assert_ok(ebb_saver_create(world, NULL, 0, &saver));
    assert_ok(ebb_saver_begin(saver, &model, path, 1, &meta));
    assert_ok(ebb_saver_end(saver, &saved));
    assert_ok(ebb_sha256_file(path, file));
    assert_ok(ebb_sha256_file(path1, file1));
    assert_string_equal(file, file1);
    ebb_saver_destroy(saver);
    remove_dir(dir);
    free(weights.dense);
}

/* A write that another rank believes in and rank 0 cannot see is no checkpoint, and leaves the older one alone. */
static void what_is_not_read_back_as_it_was_written_is_not_put_into_place(void **p)
{
    char dir[4096], path[5000], tmp[5100];
    ebb_checkpoint_state_t state;
    ebb_saver_t *saver;
    ebb_saved_t saved;
    ebb_checkpoint_meta_t meta = {.step = 7, .lanes = 24, .config = "{}", .progress = "{}", .dataset = "{}"};
    int64_t pid = getpid();
    if (ebb_comm_size(world) == 1)
        return;
    ebb_saver_split_bytes = 0;
    fake_create(world, 2, &state);
    shared_dir(dir);
    snprintf(path, sizeof path, "%s/step-000000007.h5", dir);
    assert_ok(ebb_comm_bcast(world, &pid, sizeof pid, 0));
    assert_ok(ebb_ckpt_tmp_path(path, (long)pid, tmp, sizeof tmp));
    assert_ok(ebb_saver_create(world, &fake_layout, 2, &saver));
    fake_visit(&state, 3, true);
    assert_ok(ebb_saver_begin(saver, &state, path, 1, &meta));
    while (!ebb_saver_ended(saver))
        usleep(100);
    assert_ok(ebb_comm_barrier(world));
    if (ebb_comm_rank(world) == 0)
        assert_int_equal(truncate(tmp, 0) | truncate(tmp, 100000), 0);
    assert_ok(ebb_comm_barrier(world));
    assert_fails(ebb_saver_end(saver, &saved), EBB_EIO, "what rank 1 wrote is not what is read there");
    assert_only(dir, NULL, NULL);
    assert_ok(ebb_saver_begin(saver, &state, path, 1, &meta));
    assert_ok(ebb_saver_end(saver, &saved));
    assert_ok(ebb_checkpoint_load(&state, path, &meta));
    assert_int_equal(fake_visit(&state, 3, false), 0);
    ebb_checkpoint_meta_free(&meta);
    ebb_saver_destroy(saver);
    remove_dir(dir);
    fake_destroy(&state);
}

/* A disk that takes nothing of one rank, which is neither the first nor the one that tells. */
static void an_error_of_another_rank_is_every_ranks_error(void **p)
{
    char dir[4096], path[5000], who[32];
    int last = ebb_comm_size(world) - 1;
    ebb_checkpoint_state_t state;
    ebb_saver_t *saver;
    ebb_saved_t saved;
    ebb_checkpoint_meta_t meta = {.step = 7, .lanes = 24, .config = "{}", .progress = "{}", .dataset = "{}"};
    if (last == 0)
        return;
    ebb_saver_split_bytes = 0;
    fake_create(world, 2, &state);
    shared_dir(dir);
    snprintf(path, sizeof path, "%s/step-000000007.h5", dir);
    assert_ok(ebb_saver_create(world, &fake_layout, 2, &saver));
    struct rlimit old, none = {0, RLIM_INFINITY};
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    none.rlim_max = old.rlim_max;
    if (ebb_comm_rank(world) == last)
        setrlimit(RLIMIT_FSIZE, &none);
    fake_visit(&state, 3, true);
    assert_ok(ebb_saver_begin(saver, &state, path, 1, &meta));
    wait_as_training_does(saver);
    snprintf(who, sizeof who, "rank %d: ", last);
    assert_fails(ebb_saver_end(saver, &saved), EBB_EIO, who);
    setrlimit(RLIMIT_FSIZE, &old);
    assert_int_equal(saved.step, 7);
    assert_only(dir, NULL, NULL);
    ebb_saver_destroy(saver);
    remove_dir(dir);
    fake_destroy(&state);
}

/* Without a folder that all see, rank 0 writes alone. */
static void ranks_that_see_another_folder_are_found(void **p)
{
    char dir[4096], mine[4200];
    bool shared;
    shared_dir(dir);
    assert_ok(ebb_ckpt_find_sharing(world, dir, &shared));
    assert_true(shared);
    int last = ebb_comm_size(world) - 1;
    snprintf(mine, sizeof mine, "%s/%d", dir, ebb_comm_rank(world) == last ? last : 0);
    assert_ok(ebb_ckpt_find_sharing(world, mine, &shared));
    assert_int_equal(shared, last == 0);
    assert_ok(ebb_comm_barrier(world));
    snprintf(mine, sizeof mine, "%s/0", dir);
    assert_only(mine, NULL, NULL);
    remove_dir(dir);
}

static void an_error_of_rank_0_is_every_ranks_error(void **p)
{
    char dir[4096], path[5000], found[4096];
    ebb_checkpoint_state_t state;
    ebb_checkpoint_meta_t meta = {.step = 7, .lanes = 24};
    fake_create(world, 2, &state);
    shared_dir(dir);
    snprintf(path, sizeof path, "%s/absent/x.h5", dir);
    assert_fails(ebb_checkpoint_save(&state, path, &meta), EBB_ENOINPUT, "absent/x.h5");
    assert_fails(ebb_checkpoint_load(&state, path, &meta), EBB_ENOINPUT, "absent/x.h5");
    assert_fails(ebb_checkpoint_newest(world, dir, found, sizeof found), EBB_ENOINPUT, "no checkpoint");
    assert_ok(ebb_checkpoint_path(dir, 5, path, sizeof path));
    assert_ok(ebb_checkpoint_save(&state, path, &meta));
    assert_ok(ebb_checkpoint_newest(world, dir, found, sizeof found));
    assert_string_equal(found, path);
    assert_ok(ebb_comm_barrier(world));
    if (ebb_comm_rank(world) == 0)
        assert_int_equal(truncate(path, 3000), 0);
    assert_fails(ebb_checkpoint_load(&state, path, &meta), EBB_ECORRUPT, "cut off");
    remove_dir(dir);
    fake_destroy(&state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_number_of_ranks_saves_and_loads_the_same_file),
        cmocka_unit_test(a_snapshot_of_any_number_of_ranks_gives_the_same_file),
        cmocka_unit_test(a_file_that_several_ranks_write_is_the_same_file),
        cmocka_unit_test(a_large_file_that_several_ranks_write_is_the_same_file),
        cmocka_unit_test(what_is_not_read_back_as_it_was_written_is_not_put_into_place),
        cmocka_unit_test(an_error_of_rank_0_is_every_ranks_error),
        cmocka_unit_test(an_error_of_another_rank_is_every_ranks_error),
        cmocka_unit_test(ranks_that_see_another_folder_are_found),
    };
    if (ebb_comm_mpi(&world) != EBB_OK)
        return 1;
    ebb_log_set_level(EBB_LOG_ERROR);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ebb_comm_destroy(world);
    return failed;
}
