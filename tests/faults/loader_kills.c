/* Loaders killed at any moment: over an epoch no row is lost, repeated or out of order, whatever number of ranks goes
 * on.
 *
 * usage: kills_loader [KILLS [SEED]]
 *
 * Each life starts 1 to 8 processes, a rank each, which restore the cursor last stored, load their share of the lanes,
 * and note every row they deliver in a ledger at the place that (step, lane, position) has. When all ranks are through
 * a step, the last one stores the cursor that follows it (temporary name, rename). A process is sent SIGKILL at a
 * random moment, which ends the life of all. Steps after the stored cursor are delivered again by the next life, and
 * must be the same rows. At the end of an epoch the ledger must hold the order, and every row once. */
#include "shards.h"
#include <ebb/loader.h>

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

enum { ROWS = 20011, LANES = 12, BATCH = 50, MOST_RANKS = 8, KILLS = 60, EPOCHS = 2 };

/* Memory that all processes share. */
typedef struct ledger {
    atomic_int arrived[ROWS / BATCH * 4]; /* ranks through a step, in this life */
    atomic_int failed;
    atomic_long delivered;
    int64_t row[ROWS * 2]; /* row + 1 at its place; 0: none yet */
} ledger_t;

typedef struct trial {
    char *dir, cursor_path[512];
    ebb_dataset_t *ds;
    ebb_order_t order, fixed, chunks; /* of the epoch; blocks of fixed size, and those of the data set's chunks */
    ledger_t *ledger;
    int64_t epoch, steps, first_of_lane[LANES + 1];
    int64_t *want; /* rows of the epoch, lane after lane, of one loader that nobody kills */
} trial_t;

static uint64_t seed = 1, draws;

static uint64_t draw(uint64_t n)
{
    return ebb_rng_u64(seed, EBB_RNG_TEST, draws++, 0) % n;
}

/* ---- one rank ---- */

/* A kill leaves the old cursor or the new one; no power is cut here, so nothing is synced. */
static void store_cursor(const trial_t *t, const ebb_cursor_t *cursor)
{
    char tmp[600];
    snprintf(tmp, sizeof tmp, "%s.%d", t->cursor_path, (int)getpid());
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, cursor, sizeof *cursor) != sizeof *cursor || close(fd) != 0 ||
        rename(tmp, t->cursor_path) != 0)
        t->ledger->failed = 1;
}

static void note_rows(const trial_t *t, const ebb_batch_t *b)
{
    for (int i = 0; i < b->n_lanes; i++) {
        const ebb_lane_rows_t *l = &b->lanes[i];
        int64_t *at = t->ledger->row + t->first_of_lane[l->lane] + b->step * ebb_order_lane_share(&t->order, l->lane);
        for (int64_t k = 0; k < l->n; k++) {
            int64_t row = b->row[l->first + k] + 1;
            if (at[k] != 0 && at[k] != row)
                t->ledger->failed = 2;
            at[k] = row;
        }
        t->ledger->delivered += l->n;
    }
}

/* Load lanes rank, rank + ranks, ... from the cursor to the end of the epoch, in step with the other ranks. */
static ebb_status_t be_rank(const trial_t *t, const ebb_cursor_t *from, int rank, int ranks)
{
    int32_t lanes[LANES], n = 0;
    for (int32_t l = rank; l < LANES; l += ranks)
        lanes[n++] = l;
    ebb_loader_options_t options = {
        .order = t->order, .lanes = lanes, .n_lanes = n, .threads = 1, .memory_bytes = 16 << 20};
    ebb_loader_t *loader;
    const ebb_batch_t *batch;
    ebb_cursor_t cursor;
    ebb_status_t status;
    EBB_TRY(ebb_loader_create(t->ds, &options, &loader));
    EBB_TRY(ebb_loader_restore(loader, from));
    while ((status = ebb_loader_acquire(loader, &batch)) == EBB_OK) {
        int64_t step = batch->step;
        note_rows(t, batch);
        ebb_loader_release(loader, batch);
        ebb_loader_cursor(loader, &cursor);
        if (atomic_fetch_add(&t->ledger->arrived[step], 1) == ranks - 1 && cursor.epoch == t->epoch)
            store_cursor(t, &cursor);
        /* Nobody is more than one step ahead, as in training. */
        while (step > from->step && t->ledger->arrived[step - 1] < ranks)
            sched_yield();
    }
    ebb_loader_destroy(loader);
    return status == EBB_END ? EBB_OK : status;
}

/* ---- lives ---- */

static ebb_cursor_t stored_cursor(const trial_t *t)
{
    ebb_cursor_t cursor;
    int fd = open(t->cursor_path, O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(read(fd, &cursor, sizeof cursor), sizeof cursor);
    close(fd);
    return cursor;
}

/* Start a rank count at random, kill one of them at a random moment; true if the epoch came to its end before. */
static bool live(const trial_t *t, bool undisturbed, int64_t *kills_p)
{
    int ranks = 1 + (int)draw(MOST_RANKS), ended = 0, whole = 0;
    pid_t pid[MOST_RANKS];
    ebb_cursor_t from = stored_cursor(t);
    memset(t->ledger->arrived, 0, sizeof t->ledger->arrived);
    for (int r = 0; r < ranks; r++)
        if ((pid[r] = fork()) == 0)
            _exit(be_rank(t, &from, r, ranks) == EBB_OK ? 0 : 9);
    if (!undisturbed) {
        struct timespec pause = {.tv_nsec = (long)draw(30 * 1000 * 1000)};
        nanosleep(&pause, NULL);
        kill(pid[draw((uint64_t)ranks)], SIGKILL);
    }
    while (ended < ranks) {
        int how;
        pid_t gone = wait(&how);
        for (int r = 0; r < ranks; r++)
            if (pid[r] == gone) {
                ended++;
                whole += WIFEXITED(how) && WEXITSTATUS(how) == 0;
                if (WIFEXITED(how) && WEXITSTATUS(how) != 0)
                    t->ledger->failed = 3;
            }
        if (WIFSIGNALED(how)) { /* a rank is dead: so is the job */
            *kills_p += ended == 1;
            for (int r = 0; r < ranks; r++)
                kill(pid[r], SIGKILL);
        }
    }
    return whole == ranks;
}

/* ---- the verdict ---- */

static int judge(const trial_t *t)
{
    static const char *const reasons[] = {"", "a cursor could not be stored",
                                          "a step was delivered again with other rows", "a loader failed"};
    char *seen = calloc(ROWS, 1);
    int64_t lost = 0, repeated = 0, out_of_order = 0;
    for (int32_t l = 0; l < LANES; l++)
        for (int64_t p = 0; p < ebb_order_lane_rows(&t->order, l); p++) {
            int64_t row = t->ledger->row[t->first_of_lane[l] + p] - 1;
            if (row < 0) {
                lost++;
                continue;
            }
            repeated += seen[row]++;
            out_of_order += row != t->want[t->first_of_lane[l] + p];
        }
    free(seen);
    if (lost + repeated + out_of_order == 0 && t->ledger->failed == 0)
        return 0;
    printf("epoch %lld: %lld rows lost, %lld repeated, %lld out of order %s\n", (long long)t->epoch, (long long)lost,
           (long long)repeated, (long long)out_of_order, reasons[t->ledger->failed]);
    return 1;
}

static trial_t make_trial(void)
{
    trial_t t = {.dir = test_mkdir()};
    ebb_dataset_plan_t plan = made_plan(true, EBB_F32, ROWS, 900);
    plan.shard_rows = 7000;
    make_dataset(t.dir, &plan, 1, 1000);
    assert_ok(ebb_dataset_open(t.dir, NULL, &t.ds));
    const ebb_row_blocks_t *blocks = ebb_dataset_info(t.ds)->blocks;
    assert_non_null(blocks);
    t.fixed = (ebb_order_t){.lanes = LANES, .batch = BATCH, .block_rows = 64, .seed = seed, .shuffle = true};
    t.chunks = t.fixed;
    t.chunks.blocks = blocks;
    t.chunks.block_rows = blocks->max_rows;
    assert_ok(ebb_order_init(&t.fixed, ebb_dataset_info(t.ds)));
    assert_ok(ebb_order_init(&t.chunks, ebb_dataset_info(t.ds)));
    t.order = t.fixed;
    t.steps = ebb_order_steps(&t.order);
    for (int32_t l = 0; l < LANES; l++)
        t.first_of_lane[l + 1] = t.first_of_lane[l] + ebb_order_lane_rows(&t.order, l);
    t.want = malloc(ROWS * sizeof *t.want);
    t.ledger = mmap(NULL, sizeof *t.ledger, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(t.ledger != MAP_FAILED && t.steps <= ROWS / BATCH * 4);
    snprintf(t.cursor_path, sizeof t.cursor_path, "%s/cursor", t.dir);
    return t;
}

static void load_undisturbed(const trial_t *t)
{
    ebb_loader_options_t options = {.order = t->order, .threads = 1, .memory_bytes = 16 << 20};
    ebb_loader_t *loader;
    const ebb_batch_t *b;
    assert_ok(ebb_loader_create(t->ds, &options, &loader));
    assert_ok(ebb_loader_seek(loader, t->epoch, 0));
    while (ebb_loader_acquire(loader, &b) == EBB_OK) {
        for (int32_t l = 0; l < b->n_lanes; l++)
            memcpy(t->want + t->first_of_lane[l] + b->step * ebb_order_lane_share(&t->order, l),
                   b->row + b->lanes[l].first, (size_t)b->lanes[l].n * sizeof *b->row);
        ebb_loader_release(loader, b);
    }
    ebb_loader_destroy(loader);
}

static void begin_epoch(trial_t *t, int64_t epoch)
{
    ebb_loader_options_t options = {.order = t->order, .threads = 1};
    ebb_loader_t *loader;
    ebb_cursor_t cursor;
    t->epoch = epoch;
    t->order = epoch % 2 ? t->fixed : t->chunks;
    load_undisturbed(t);
    memset(t->ledger, 0, sizeof *t->ledger);
    assert_ok(ebb_loader_create(t->ds, &options, &loader));
    assert_ok(ebb_loader_seek(loader, epoch, 0));
    ebb_loader_cursor(loader, &cursor);
    ebb_loader_destroy(loader);
    store_cursor(t, &cursor);
}

int main(int argc, char **argv)
{
    int64_t want = argc > 1 ? atoll(argv[1]) : KILLS, kills = 0, lives = 0, epoch = 0, wrong = 0, again = 0;
    seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    trial_t t = make_trial();
    for (; (epoch < EPOCHS || kills < want) && wrong == 0; epoch++) {
        int64_t enough = epoch == 0 ? want / 2 : want; /* half on chunks' blocks; an epoch may end before */
        begin_epoch(&t, epoch);
        do
            lives++;
        while (!live(&t, kills >= enough, &kills));
        wrong += judge(&t);
        again += t.ledger->delivered - ROWS;
    }
    printf("%lld kills in %lld epochs of %d rows, %lld lives of 1 to %d ranks; %lld rows delivered again after the "
           "last cursor: %s\n",
           (long long)kills, (long long)epoch, ROWS, (long long)lives, MOST_RANKS, (long long)again,
           wrong ? "WRONG" : "none lost, repeated or out of order");
    ebb_dataset_close(t.ds);
    free(t.want);
    munmap(t.ledger, sizeof *t.ledger);
    test_rmdir(t.dir);
    return wrong > 0;
}
