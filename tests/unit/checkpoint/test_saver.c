/* Saving in the background: the file is the one that a save in the foreground makes of the state as it was at the
 * snapshot, whatever training does meanwhile; failures are told later, and harm neither older files nor later saves. */
#include "support.h"
#include "fake_state.h"
#include "checkpoint/internal.h"
#include "base/alloc.h"
#include "base/file.h"

#include <math.h>
#include <sys/stat.h>

typedef struct fixture {
    char *dir;
    ebb_comm_t *comm;
    ebb_checkpoint_state_t state;
    ebb_saver_t *saver;
} fixture_t;

static int setup(void **p)
{
    fixture_t *f = calloc(1, sizeof *f);
    f->dir = test_mkdir();
    assert_ok(ebb_comm_self(&f->comm));
    fake_create(f->comm, 2, &f->state);
    assert_ok(ebb_saver_create(f->comm, NULL, 0, &f->saver));
    ebb_log_set_level(EBB_LOG_ERROR);
    ebb_ckpt_piece_floats = 700;
    *p = f;
    return 0;
}

static int teardown(void **p)
{
    fixture_t *f = *p;
    ebb_saver_destroy(f->saver);
    fake_destroy(&f->state);
    ebb_comm_destroy(f->comm);
    test_rmdir(f->dir);
    free(f);
    return 0;
}

static ebb_checkpoint_meta_t some_meta(int64_t step)
{
    return (ebb_checkpoint_meta_t){.step = step, .lanes = 24, .config = "{\"a\":1}", .progress = "", .dataset = "{}"};
}

static void assert_same_file(const char *a, const char *b)
{
    char *bytes[2];
    size_t n[2];
    assert_ok(ebb_file_read_all(a, &bytes[0], &n[0]));
    assert_ok(ebb_file_read_all(b, &bytes[1], &n[1]));
    assert_int_equal(n[0], n[1]);
    assert_memory_equal(bytes[0], bytes[1], n[0]);
    ebb_free(bytes[0]);
    ebb_free(bytes[1]);
}

static void the_file_is_that_of_the_snapshot_whatever_training_does_meanwhile(void **p)
{
    fixture_t *f = *p;
    char path[4200], want[4200], text[3000] = "";
    ebb_saved_t saved;
    snprintf(want, sizeof want, "%s/want.h5", f->dir);
    for (int step = 1; step <= 12; step++) {
        ebb_checkpoint_meta_t meta = some_meta(step);
        memset(text, 'x', (size_t)(step * 7919 % 2999)); /* every file has another layout */
        text[step * 7919 % 2999] = 0;
        meta.progress = text;
        fake_visit(&f->state, step, true);
        assert_ok(ebb_checkpoint_save(&f->state, want, &meta));
        assert_ok(ebb_checkpoint_path(f->dir, step, path, sizeof path));
        assert_ok(ebb_saver_begin(f->saver, &f->state, path, 3, &meta));
        assert_true(ebb_saver_pending(f->saver));
        fake_visit(&f->state, step + 1, true);
        memset(text, 'y', 20);
        if (step % 2)
            while (!ebb_saver_ended(f->saver))
                usleep(100);
        assert_ok(ebb_saver_end(f->saver, &saved));
        assert_false(ebb_saver_pending(f->saver) || ebb_saver_ended(f->saver));
        assert_int_equal(saved.step, step);
        assert_string_equal(saved.path, path);
        assert_string_equal(saved.weights_sha256, meta.weights_sha256);
        assert_string_equal(saved.optimizer_sha256, meta.optimizer_sha256);
        assert_same_file(path, want);
        assert_ok(ebb_checkpoint_verify(path));
        assert_ok(ebb_checkpoint_path(f->dir, step - 3, path, sizeof path));
        assert_false(ebb_file_exists(path));
    }
}

static void a_model_without_states_is_saved_as_well(void **p)
{
    fixture_t *f = *p;
    char path[4200], want[4200];
    ebb_saved_t saved;
    ebb_checkpoint_state_t model = f->state;
    ebb_checkpoint_meta_t meta = some_meta(4);
    model.optim = NULL;
    fake_visit(&f->state, 4, true);
    snprintf(want, sizeof want, "%s/want.h5", f->dir);
    assert_ok(ebb_checkpoint_save(&model, want, &meta));
    assert_ok(ebb_checkpoint_path(f->dir, 4, path, sizeof path));
    assert_ok(ebb_saver_begin(f->saver, &model, path, 1, &meta));
    assert_ok(ebb_saver_end(f->saver, &saved));
    assert_same_file(path, want);
}

static void many_parameters_with_long_names_fit_the_image(void **p)
{
    enum { N = 3000 };
    fixture_t *f = *p;
    char path[4200], want[4200];
    ebb_saved_t saved;
    ebb_param_t *params = calloc(N, sizeof *params);
    ebb_layout_t layout = {.n_params = N, .params = params, .dense_floats = 16 * N};
    ebb_checkpoint_state_t model = f->state;
    ebb_weights_t weights = {.dense = calloc(16 * N, sizeof(float))};
    ebb_checkpoint_meta_t meta = some_meta(4);
    for (int i = 0; i < N; i++) {
        params[i] = (ebb_param_t){.kind = EBB_PARAM_DENSE, .rows = 1, .cols = i % 3, .offset = 16 * i};
        snprintf(params[i].name, sizeof params[i].name, "%063d", i);
    }
    model.layout = &layout;
    model.weights = &weights;
    model.optim = NULL;
    snprintf(want, sizeof want, "%s/want.h5", f->dir);
    assert_ok(ebb_checkpoint_save(&model, want, &meta));
    assert_ok(ebb_checkpoint_path(f->dir, 4, path, sizeof path));
    assert_ok(ebb_saver_begin(f->saver, &model, path, 1, &meta));
    assert_ok(ebb_saver_end(f->saver, &saved));
    assert_same_file(path, want);
    free(weights.dense);
    free(params);
}

/* Larger than what is written past the page cache at once, and no multiple of a sector. */
static void a_large_file_is_written_in_whole_sectors_and_cut(void **p)
{
    fixture_t *f = *p;
    char path[4200], want[4200];
    ebb_saved_t saved;
    enum { ROWS = 3333, COLS = 1001 };
    ebb_param_t param = {.name = "w", .kind = EBB_PARAM_DENSE, .rows = ROWS, .cols = COLS};
    ebb_layout_t layout = {.n_params = 1, .params = &param, .dense_floats = ROWS * COLS};
    ebb_weights_t weights = {.dense = calloc(ROWS * COLS, sizeof(float))};
    ebb_checkpoint_state_t model = f->state;
    ebb_checkpoint_meta_t meta = some_meta(4);
    ebb_ckpt_piece_floats = 1 << 18;
    model.layout = &layout;
    model.weights = &weights;
    model.optim = NULL;
    for (int i = 0; i < ROWS * COLS; i++)
        weights.dense[i] = (float)i * 0.5f;
    snprintf(want, sizeof want, "%s/want.h5", f->dir);
    assert_ok(ebb_checkpoint_save(&model, want, &meta));
    assert_true(ebb_file_size(want) > 8 << 20 && ebb_file_size(want) % 4096 != 0);
    for (int step = 4; step < 6; step++) {
        assert_ok(ebb_checkpoint_path(f->dir, step, path, sizeof path));
        assert_ok(ebb_saver_begin(f->saver, &model, path, 1, &meta));
        assert_ok(ebb_saver_end(f->saver, &saved));
        assert_same_file(path, want);
    }
    free(weights.dense);
}

static void a_failed_write_is_told_and_harms_neither_older_nor_later_ones(void **p)
{
    fixture_t *f = *p;
    char path[4200], blocked[4200], old[4200];
    ebb_saved_t saved;
    ebb_checkpoint_meta_t meta = some_meta(1);
    fake_visit(&f->state, 1, true);
    assert_ok(ebb_checkpoint_path(f->dir, 1, old, sizeof old));
    assert_ok(ebb_saver_begin(f->saver, &f->state, old, 2, &meta));
    assert_ok(ebb_saver_end(f->saver, &saved));
    snprintf(blocked, sizeof blocked, "%s/file", f->dir);
    assert_ok(ebb_file_replace(blocked, "x", 1));
    snprintf(path, sizeof path, "%s/file/step-000000002.h5", f->dir);
    assert_ok(ebb_saver_begin(f->saver, &f->state, path, 2, &meta));
    assert_fails(ebb_saver_end(f->saver, &saved), EBB_EIO, "/file: ");
    assert_string_equal(saved.path, path);
    assert_ok(ebb_checkpoint_verify(old));
    meta.step = 2;
    snprintf(path, sizeof path, "%s/made/again/step-000000002.h5", f->dir); /* a folder that is missing is made */
    assert_ok(ebb_saver_begin(f->saver, &f->state, path, 2, &meta));
    assert_ok(ebb_saver_end(f->saver, &saved));
    assert_ok(ebb_checkpoint_verify(path));
}

static void a_state_that_is_not_finite_is_named_and_not_written(void **p)
{
    fixture_t *f = *p;
    char path[4200];
    ebb_saved_t saved;
    ebb_checkpoint_meta_t meta = some_meta(7);
    fake_visit(&f->state, 1, true);
    f->state.optim->table[1][1][211] = -INFINITY;
    assert_ok(ebb_checkpoint_path(f->dir, 7, path, sizeof path));
    assert_ok(ebb_saver_begin(f->saver, &f->state, path, 1, &meta));
    assert_fails(ebb_saver_end(f->saver, &saved), EBB_ENONFINITE,
                 "state \"v\" of 1.embedding.table are not finite after step 7");
    assert_false(ebb_file_exists(path));
    f->state.optim->table[1][1][211] = 0;
    assert_ok(ebb_saver_begin(f->saver, &f->state, path, 1, &meta));
    assert_ok(ebb_saver_end(f->saver, &saved));
}

static void every_failed_allocation_is_an_error_now_or_later_and_leaks_nothing(void **p)
{
    fixture_t *f = *p;
    char path[4200];
    bool failed = true;
    ebb_checkpoint_meta_t meta = some_meta(1);
    fake_visit(&f->state, 1, true);
    assert_ok(ebb_checkpoint_path(f->dir, 1, path, sizeof path));
    for (int64_t n = 0; failed && n < 200; n++) {
        ebb_saver_t *saver;
        ebb_saved_t saved;
        assert_ok(ebb_saver_create(f->comm, &fake_layout, 2, &saver));
        ebb_alloc_fail_after(n);
        ebb_status_t status = ebb_saver_begin(saver, &f->state, path, 1, &meta);
        assert_int_equal(ebb_saver_pending(saver), status == EBB_OK);
        if (status == EBB_OK)
            status = ebb_saver_end(saver, &saved);
        ebb_alloc_fail_after(-1);
        failed = status != EBB_OK;
        assert_true(!failed || status == EBB_ENOMEM);
        ebb_error_clear();
        ebb_saver_destroy(saver);
    }
    assert_false(failed);
    assert_ok(ebb_checkpoint_verify(path));
}

static void what_was_begun_is_completed_at_the_end_and_the_callers_error_stays(void **p)
{
    fixture_t *f = *p;
    char path[4200];
    ebb_checkpoint_meta_t meta = some_meta(3);
    ebb_saver_t *saver;
    assert_ok(ebb_saver_create(f->comm, &fake_layout, 2, &saver));
    fake_visit(&f->state, 3, true);
    assert_ok(ebb_checkpoint_path(f->dir, 3, path, sizeof path));
    assert_ok(ebb_saver_begin(saver, &f->state, path, 1, &meta));
    ebb_status_t mine = EBB_FAIL(EBB_EDATA, "the loss is not finite");
    ebb_saver_destroy(saver);
    assert_fails(mine, EBB_EDATA, "the loss is not finite");
    assert_ok(ebb_checkpoint_verify(path));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

static void a_save_takes_values_from_where_they_lie_and_refuses_what_is_not_finite(void **p)
{
    fixture_t *f = *p;
    char path[4200], want[4200];
    ebb_backend_ops_t ops = fake_ops;
    ebb_backend_t host = {&ops, NULL};
    ebb_checkpoint_state_t state = f->state;
    ebb_checkpoint_meta_t meta = some_meta(7);
    ops.caps = EBB_CAP_HOST_MEMORY;
    state.backend = &host;
    assert_true(ebb_checkpoint_in_place(&state));
    assert_false(ebb_checkpoint_in_place(&f->state));
    snprintf(want, sizeof want, "%s/want.h5", f->dir);
    snprintf(path, sizeof path, "%s/in_place.h5", f->dir);
    fake_visit(&f->state, 7, true);
    assert_ok(ebb_checkpoint_save(&f->state, want, &meta));
    assert_ok(ebb_checkpoint_save(&state, path, &meta));
    assert_same_file(path, want);
    assert_ok(ebb_checkpoint_verify(path));
    assert_int_equal(unlink(path), 0);
    f->state.optim->table[1][0][2999] = NAN;
    assert_fails(ebb_checkpoint_save(&state, path, &meta), EBB_ENONFINITE,
                 "optimiser's state \"v\" of 0.linear.weight are not finite after step 7");
    assert_int_not_equal(access(path, F_OK), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_save_takes_values_from_where_they_lie_and_refuses_what_is_not_finite),
        TEST(the_file_is_that_of_the_snapshot_whatever_training_does_meanwhile),
        TEST(a_model_without_states_is_saved_as_well),
        TEST(many_parameters_with_long_names_fit_the_image),
        TEST(a_large_file_is_written_in_whole_sectors_and_cut),
        TEST(a_failed_write_is_told_and_harms_neither_older_nor_later_ones),
        TEST(a_state_that_is_not_finite_is_named_and_not_written),
        TEST(every_failed_allocation_is_an_error_now_or_later_and_leaks_nothing),
        TEST(what_was_begun_is_completed_at_the_end_and_the_callers_error_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
