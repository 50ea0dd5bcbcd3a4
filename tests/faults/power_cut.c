/* Power cuts while checkpoints are written. What the writer asks of the system is recorded: files made, written, cut,
 * synced, renamed, removed; folders made and synced. Then the power is cut after each of these requests, on a disk that
 * keeps what was synced, and of the rest what chance will have: none, all, single requests, any of them in any order
 * and torn at sectors. What is left is read by the code that a resumed run uses: there must be a checkpoint, no older
 * than the newest that was said to be in place, with exactly the values of its step.
 *
 * One rank writes in the foreground or in the background, or several write one file, as threads of this process.
 *
 * That the disk is unkind enough is tested too: without fsync of files, and without that of folders, the same check
 * must find fault.
 *
 * Usage: power_cut [random cuts after each request; default 2]
 */
#include "support.h"
#include "fake_state.h"
#include "threads_comm.h"
#include "checkpoint/internal.h"
#include "base/alloc.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <stdarg.h>
#include <sys/stat.h>

enum { MOST = 4096, FDS = 1024, FILES = 64, SECTOR_BYTES = 512, NAME = 128 };

/* ---- recording ---- */

typedef enum kind { CREATE, WRITE, RESIZE, SYNC, RENAME, UNLINK, MKDIR, SYNC_DIR, DONE } kind_t;

typedef struct request {
    kind_t kind;
    int inode;                 /* files */
    char name[NAME], to[NAME]; /* below the root; SYNC_DIR: of the folder */
    int64_t at, bytes;         /* RESIZE: the length in `at`; DONE: the step there */
    char *data;
} request_t;

static request_t requests[MOST];
static int n_requests, n_inodes;
static int inode_of_fd[FDS]; /* 0: not watched */
static char folder_of_fd[FDS][NAME];
static char root[512]; /* what lies below is recorded; empty: nothing is */
static pthread_mutex_t record_lock = PTHREAD_MUTEX_INITIALIZER;

int __real_open(const char *path, int flags, ...);
ssize_t __real_pwrite(int fd, const void *data, size_t bytes, off_t at);
int __real_fallocate(int fd, int mode, off_t at, off_t bytes);
int __real_ftruncate(int fd, off_t bytes);
int __real_fsync(int fd);
int __real_rename(const char *from, const char *to);
int __real_unlink(const char *path);
int __real_mkdir(const char *path, mode_t mode);
int __real_close(int fd);
int __wrap_open(const char *path, int flags, ...);
ssize_t __wrap_pwrite(int fd, const void *data, size_t bytes, off_t at);
int __wrap_fallocate(int fd, int mode, off_t at, off_t bytes);
int __wrap_ftruncate(int fd, off_t bytes);
int __wrap_fsync(int fd);
int __wrap_rename(const char *from, const char *to);
int __wrap_unlink(const char *path);
int __wrap_mkdir(const char *path, mode_t mode);
int __wrap_close(int fd);

static const char *below(const char *path)
{
    size_t n = strlen(root);
    if (n == 0 || strncmp(path, root, n) != 0)
        return NULL;
    return path[n] == '/' ? path + n + 1 : path[n] == 0 ? "" : NULL;
}

static request_t *add(kind_t kind, const char *name)
{
    if (n_requests == MOST)
        fail_msg("more requests than expected");
    request_t *r = &requests[n_requests++];
    *r = (request_t){.kind = kind};
    snprintf(r->name, NAME, "%s", name ? name : "");
    return r;
}

/* Which inode does a name stand for now? */
static int inode_of_name(const char *name)
{
    for (int i = n_requests - 1; i >= 0; i--) {
        if (requests[i].kind == CREATE && strcmp(requests[i].name, name) == 0)
            return requests[i].inode;
        if (requests[i].kind == RENAME && strcmp(requests[i].to, name) == 0)
            return requests[i].inode;
    }
    return 0;
}

static void note_open(int fd, const char *name, bool folder, bool new)
{
    inode_of_fd[fd] = 0;
    folder_of_fd[fd][0] = 0;
    if (folder)
        snprintf(folder_of_fd[fd], NAME, "/%s", name);
    else
        inode_of_fd[fd] = new ? (add(CREATE, name)->inode = ++n_inodes) : inode_of_name(name);
}

int __wrap_open(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    int mode = flags & O_CREAT ? va_arg(args, int) : 0;
    va_end(args);
    pthread_mutex_lock(&record_lock);
    const char *name = below(path);
    bool new = flags &O_TRUNC || (flags & O_CREAT && name && !ebb_file_exists(path));
    int fd = __real_open(path, flags, mode);
    if (fd >= 0 && fd < FDS && name)
        note_open(fd, name, flags & O_DIRECTORY, new);
    pthread_mutex_unlock(&record_lock);
    return fd;
}

ssize_t __wrap_pwrite(int fd, const void *data, size_t bytes, off_t at)
{
    ssize_t n = __real_pwrite(fd, data, bytes, at);
    pthread_mutex_lock(&record_lock);
    if (n > 0 && *root && fd < FDS && inode_of_fd[fd]) {
        request_t *r = add(WRITE, NULL);
        r->inode = inode_of_fd[fd];
        r->at = at;
        r->bytes = n;
        r->data = malloc((size_t)n);
        memcpy(r->data, data, (size_t)n);
    }
    pthread_mutex_unlock(&record_lock);
    return n;
}

/* Only ever asked to keep the size, which changes nothing that can be seen. */
int __wrap_fallocate(int fd, int mode, off_t at, off_t bytes)
{
    assert_true(mode & FALLOC_FL_KEEP_SIZE);
    return __real_fallocate(fd, mode, at, bytes);
}

int __wrap_ftruncate(int fd, off_t bytes)
{
    int outcome = __real_ftruncate(fd, bytes);
    pthread_mutex_lock(&record_lock);
    if (outcome == 0 && *root && fd < FDS && inode_of_fd[fd]) {
        request_t *r = add(RESIZE, NULL);
        r->inode = inode_of_fd[fd];
        r->at = bytes;
    }
    pthread_mutex_unlock(&record_lock);
    return outcome;
}

int __wrap_fsync(int fd)
{
    pthread_mutex_lock(&record_lock);
    if (*root && fd < FDS && inode_of_fd[fd])
        add(SYNC, NULL)->inode = inode_of_fd[fd];
    else if (*root && fd < FDS && folder_of_fd[fd][0])
        add(SYNC_DIR, folder_of_fd[fd] + 1);
    pthread_mutex_unlock(&record_lock);
    return 0; /* the machine need not be slowed down */
}

int __wrap_rename(const char *from, const char *to)
{
    pthread_mutex_lock(&record_lock);
    int outcome = __real_rename(from, to);
    if (outcome == 0 && below(from) && below(to)) {
        int inode = inode_of_name(below(from));
        request_t *r = add(RENAME, below(from));
        r->inode = inode;
        snprintf(r->to, NAME, "%s", below(to));
    }
    pthread_mutex_unlock(&record_lock);
    return outcome;
}

int __wrap_unlink(const char *path)
{
    int outcome = __real_unlink(path);
    pthread_mutex_lock(&record_lock);
    if (outcome == 0 && below(path))
        add(UNLINK, below(path));
    pthread_mutex_unlock(&record_lock);
    return outcome;
}

int __wrap_mkdir(const char *path, mode_t mode)
{
    int outcome = __real_mkdir(path, mode);
    pthread_mutex_lock(&record_lock);
    if (outcome == 0 && below(path))
        add(MKDIR, below(path));
    pthread_mutex_unlock(&record_lock);
    return outcome;
}

int __wrap_close(int fd)
{
    pthread_mutex_lock(&record_lock);
    if (fd >= 0 && fd < FDS) {
        inode_of_fd[fd] = 0;
        folder_of_fd[fd][0] = 0;
    }
    pthread_mutex_unlock(&record_lock);
    return __real_close(fd);
}

/* ---- the disk after a cut ---- */

static uint64_t chance_state;

static uint64_t chance(void)
{
    chance_state = chance_state * 6364136223846793005u + 1442695040888963407u;
    return chance_state >> 33;
}

/* What happens to requests that were not synced. */
typedef enum fate { LOST, KEPT, NAMES_KEPT, DATA_KEPT, ONE_LOST, ONE_KEPT, RANDOM } fate_t;

typedef struct cut {
    int after; /* requests */
    fate_t fate;
    bool no_file_sync, no_folder_sync; /* a disk that ignores them */
} cut_t;

static bool is_data(const request_t *r)
{
    return r->kind == WRITE || r->kind == RESIZE;
}

static bool is_name(const request_t *r)
{
    return r->kind == CREATE || r->kind == RENAME || r->kind == UNLINK || r->kind == MKDIR;
}

static void folder_of(const char *name, char folder[NAME])
{
    const char *slash = strrchr(name, '/');
    snprintf(folder, NAME, "%.*s", slash ? (int)(slash - name) : 0, name);
}

static bool is_synced(const cut_t *cut, int i)
{
    char folder[NAME];
    folder_of(requests[i].name, folder);
    for (int k = i + 1; k < cut->after; k++) {
        if (!cut->no_file_sync && is_data(&requests[i]) && requests[k].kind == SYNC &&
            requests[k].inode == requests[i].inode)
            return true;
        if (!cut->no_folder_sync && is_name(&requests[i]) && requests[k].kind == SYNC_DIR &&
            strcmp(requests[k].name, folder) == 0)
            return true;
    }
    return false;
}

typedef struct content {
    char *data;
    int64_t bytes;
} content_t;

typedef struct disk {
    content_t inode[FILES];
    char name[FILES][NAME]; /* of each inode; empty: none */
    char folder[8][NAME];
    int n_folders;
} disk_t;

static void put_sectors(content_t *c, const request_t *r, bool torn)
{
    int64_t end = r->at + r->bytes;
    if (r->kind == RESIZE)
        end = r->at;
    if (end > c->bytes) {
        c->data = realloc(c->data, (size_t)end);
        memset(c->data + c->bytes, 0, (size_t)(end - c->bytes));
        c->bytes = end;
    }
    if (r->kind == RESIZE)
        c->bytes = end;
    for (int64_t at = 0; r->kind == WRITE && at < r->bytes; at += SECTOR_BYTES) {
        int64_t n = r->bytes - at < SECTOR_BYTES ? r->bytes - at : SECTOR_BYTES;
        if (!torn || chance() % 2)
            memcpy(c->data + r->at + at, r->data + at, (size_t)n);
    }
}

static void forget_name(disk_t *d, const char *name)
{
    for (int i = 0; i < FILES; i++)
        if (strcmp(d->name[i], name) == 0)
            d->name[i][0] = 0;
}

static void apply(disk_t *d, const request_t *r, bool torn)
{
    if (is_data(r))
        put_sectors(&d->inode[r->inode], r, torn);
    if (r->kind == CREATE || r->kind == UNLINK || r->kind == RENAME)
        forget_name(d, r->name);
    if (r->kind == RENAME)
        forget_name(d, r->to);
    if (r->kind == CREATE || r->kind == RENAME)
        memcpy(d->name[r->inode], r->kind == CREATE ? r->name : r->to, NAME);
    if (r->kind == MKDIR)
        memcpy(d->folder[d->n_folders++], r->name, NAME);
}

static bool survives(const cut_t *cut, int i, int the_one)
{
    switch (cut->fate) {
    case LOST: return false;
    case KEPT: return true;
    case NAMES_KEPT: return is_name(&requests[i]);
    case DATA_KEPT: return is_data(&requests[i]);
    case ONE_LOST: return i != the_one;
    case ONE_KEPT: return i == the_one;
    case RANDOM: return chance() % 2;
    }
    return false;
}

/* Names in their order, data in any. */
static void replay(const cut_t *cut, disk_t *d)
{
    int pending[MOST], n = 0, the_one;
    memset(d, 0, sizeof *d);
    for (int i = 0; i < cut->after; i++)
        if ((is_data(&requests[i]) || is_name(&requests[i])) && !is_synced(cut, i))
            pending[n++] = i;
    the_one = n > 0 ? pending[chance() % (uint64_t)n] : -1;
    bool keep[MOST] = {false};
    for (int i = 0; i < n; i++)
        keep[pending[i]] = survives(cut, pending[i], the_one);
    for (int i = 0, k = 0; i < cut->after; i++) {
        bool waits = k < n && pending[k] == i;
        k += waits;
        if (!waits || (keep[i] && (is_name(&requests[i]) || cut->fate != RANDOM)))
            apply(d, &requests[i], false);
    }
    for (int i = n - 1; cut->fate == RANDOM && i >= 0; i--) {
        int other = (int)(chance() % (uint64_t)(i + 1)), swap = pending[i];
        pending[i] = pending[other];
        pending[other] = swap;
        if (keep[pending[i]] && is_data(&requests[pending[i]]))
            apply(d, &requests[pending[i]], chance() % 2);
    }
}

static bool has_folder(const disk_t *d, const char *folder)
{
    for (int i = 0; i < d->n_folders; i++)
        if (strcmp(d->folder[i], folder) == 0)
            return true;
    return false;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    return remove(path);
}

/* Lay the disk out at `where`; what lies in a lost folder is lost. */
static void lay_out(const disk_t *d, const char *where)
{
    char path[1024], folder[NAME];
    snprintf(path, sizeof path, "%s/run", where);
    if (ebb_file_is_dir(path))
        assert_int_equal(nftw(path, remove_one, 8, FTW_DEPTH | FTW_PHYS), 0);
    for (int i = 0; i < d->n_folders; i++) {
        snprintf(path, sizeof path, "%s/%s", where, d->folder[i]);
        (void)__real_mkdir(path, 0777);
    }
    for (int i = 0; i < FILES; i++) {
        folder_of(d->name[i], folder);
        if (!d->name[i][0] || !has_folder(d, folder))
            continue;
        snprintf(path, sizeof path, "%s/%s", where, d->name[i]);
        int fd = __real_open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
        assert_true(fd >= 0 || errno == ENOENT);
        if (fd < 0)
            continue;
        assert_true(__real_pwrite(fd, d->inode[i].data, (size_t)d->inode[i].bytes, 0) == d->inode[i].bytes);
        __real_close(fd);
    }
}

/* ---- the check ---- */

typedef struct fixture {
    char *dir;
    ebb_comm_t *comm;
    ebb_checkpoint_state_t state;
} fixture_t;

/* The newest step that was said to be in place. */
static int64_t promised(const cut_t *cut)
{
    int64_t step = 0;
    for (int i = 0; i < cut->after; i++)
        step = requests[i].kind == DONE ? requests[i].at : step;
    return step;
}

/* Is there what must be there, and nothing wrong taken for right? */
static bool is_good(fixture_t *f, const cut_t *cut, char *why, size_t size)
{
    static disk_t disk;
    char folder[600], path[1024];
    ebb_checkpoint_meta_t meta;
    replay(cut, &disk);
    lay_out(&disk, f->dir);
    for (int i = 0; i < FILES; i++)
        free(disk.inode[i].data);
    snprintf(folder, sizeof folder, "%s/run/checkpoints", f->dir);
    int64_t step = promised(cut);
    snprintf(why, size, "cut after request %d, fate %d: ", cut->after, (int)cut->fate);
    size_t n = strlen(why);
    ebb_status_t status = ebb_checkpoint_newest(f->comm, folder, path, sizeof path);
    if (status != EBB_OK) {
        snprintf(why + n, size - n, "step %lld was in place, now: %s", (long long)step, ebb_error()->message);
        ebb_error_clear();
        return step == 0 && status == EBB_ENOINPUT;
    }
    status = ebb_checkpoint_load(&f->state, path, &meta);
    if (status != EBB_OK) {
        snprintf(why + n, size - n, "the newest does not load: %s", ebb_error()->message);
        ebb_error_clear();
        return false;
    }
    int64_t wrong = fake_visit(&f->state, (int)meta.step, false), found = meta.step;
    ebb_checkpoint_meta_free(&meta);
    snprintf(why + n, size - n, "step %lld was in place, found step %lld with %lld wrong values", (long long)step,
             (long long)found, (long long)wrong);
    return wrong == 0 && found >= step;
}

/* Cut after every request, in every way; the first bad outcome in why. */
static int64_t find_fault(fixture_t *f, int randoms, bool no_file_sync, bool no_folder_sync, char *why, size_t size)
{
    int64_t cuts = 0;
    for (int after = 0; after <= n_requests; after++) {
        for (int k = 0; k < RANDOM + randoms; k++, cuts++) {
            cut_t cut = {after, k < RANDOM ? (fate_t)k : RANDOM, no_file_sync, no_folder_sync};
            chance_state = (uint64_t)after * 1000003 + (uint64_t)k;
            if (!is_good(f, &cut, why, size))
                return -1;
        }
    }
    return cuts;
}

/* ---- what is recorded ---- */

static void forget_requests(void)
{
    for (int i = 0; i < n_requests; i++)
        free(requests[i].data);
    n_requests = n_inodes = 0;
}

static ebb_checkpoint_meta_t some_meta(int64_t step)
{
    return (ebb_checkpoint_meta_t){.step = step, .lanes = 6, .config = "{}", .progress = "{}", .dataset = "{}"};
}

static void save_one(const ebb_checkpoint_state_t *state, ebb_saver_t *saver, const char *folder, int step, int keep)
{
    char path[1024];
    ebb_saved_t saved;
    ebb_checkpoint_meta_t meta = some_meta(step);
    fake_visit(state, step, true);
    assert_ok(ebb_checkpoint_path(folder, step, path, sizeof path));
    if (saver) {
        assert_ok(ebb_saver_begin(saver, state, path, keep, &meta));
        assert_ok(ebb_saver_end(saver, &saved));
    } else {
        assert_ok(ebb_file_mkdirs(folder));
        assert_ok(ebb_checkpoint_save(state, path, &meta));
        assert_ok(ebb_checkpoint_prune(folder, keep));
    }
    pthread_mutex_lock(&record_lock);
    if (ebb_comm_rank(state->comm) == 0)
        add(DONE, NULL)->at = step;
    pthread_mutex_unlock(&record_lock);
}

typedef enum way { BACKGROUND, FOREGROUND, SEVERAL_RANKS, WAYS } way_t;
static const char *const way_names[] = {"background", "foreground", "several ranks"};

/* One rank's work on a run's first four checkpoints; the third is written once more, as after a resume. */
static void save_all(const ebb_checkpoint_state_t *state, way_t way, int keep)
{
    static const int steps[] = {1, 2, 3, 3, 4};
    char folder[600];
    ebb_saver_t *saver = NULL;
    snprintf(folder, sizeof folder, "%s/run/checkpoints", root);
    if (way != FOREGROUND)
        assert_ok(ebb_saver_create(state->comm, &fake_layout, 2, &saver));
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
        save_one(state, saver, folder, steps[i], keep);
    ebb_saver_destroy(saver);
}

typedef struct rank_thread {
    threads_hall_t *hall;
    int rank, keep;
} rank_thread_t;

static void *rank_main(void *arg)
{
    const rank_thread_t *t = arg;
    ebb_comm_t *comm;
    ebb_checkpoint_state_t state;
    assert_ok(threads_comm(t->hall, t->rank, &comm));
    fake_create(comm, 2, &state);
    save_all(&state, SEVERAL_RANKS, t->keep);
    fake_destroy(&state);
    ebb_comm_destroy(comm);
    return NULL;
}

static void save_by_ranks(int keep)
{
    enum { RANKS = 3 };
    threads_hall_t hall;
    pthread_t thread[RANKS];
    rank_thread_t rank[RANKS];
    threads_hall_open(&hall, RANKS);
    for (int r = 0; r < RANKS; r++)
        rank[r] = (rank_thread_t){&hall, r, keep};
    for (int r = 1; r < RANKS; r++)
        assert_int_equal(pthread_create(&thread[r], NULL, rank_main, &rank[r]), 0);
    rank_main(&rank[0]);
    for (int r = 1; r < RANKS; r++)
        pthread_join(thread[r], NULL);
    threads_hall_close(&hall);
}

static void record(fixture_t *f, way_t way, int keep)
{
    forget_requests();
    char *real = test_mkdir();
    snprintf(root, sizeof root, "%s", real);
    if (way == SEVERAL_RANKS)
        save_by_ranks(keep);
    else
        save_all(&f->state, way, keep);
    root[0] = 0;
    test_rmdir(real);
    int kinds = 0;
    for (int i = 0; i < n_requests; i++)
        kinds |= 1 << requests[i].kind;
    assert_int_equal(kinds | 1 << RESIZE, (1 << (DONE + 1)) - 1); /* everything went through the recorder */
}

static int randoms = 2;

static int setup(void **p)
{
    fixture_t *f = calloc(1, sizeof *f);
    f->dir = test_mkdir();
    assert_ok(ebb_comm_self(&f->comm));
    fake_create(f->comm, 2, &f->state);
    ebb_log_set_level(EBB_LOG_ERROR);
    ebb_saver_piece_bytes = 8192;
    ebb_saver_split_bytes = 0;
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
    return 0;
}

static void a_cut_at_any_time_leaves_the_newest_checkpoint_or_a_newer_one(void **p)
{
    char why[1024];
    for (int i = 0; i < 2 * WAYS; i++) {
        record(*p, i % WAYS, 1 + i / WAYS);
        int64_t cuts = find_fault(*p, randoms, false, false, why, sizeof why);
        if (cuts < 0)
            fail_msg("%s: %s", way_names[i % WAYS], why);
        print_message("%s, keep %d: %d requests, %lld cuts\n", way_names[i % WAYS], 1 + i / WAYS, n_requests,
                      (long long)cuts);
    }
    forget_requests();
}

static void without_fsync_the_same_disk_loses_checkpoints(void **p)
{
    char why[1024];
    for (int i = 0; i < WAYS; i++) {
        record(*p, i, 1);
        assert_int_equal(find_fault(*p, randoms, true, false, why, sizeof why), -1);
        print_message("without fsync of files: %s\n", why);
        assert_int_equal(find_fault(*p, randoms, false, true, why, sizeof why), -1);
        print_message("without fsync of folders: %s\n", why);
    }
    forget_requests();
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_cut_at_any_time_leaves_the_newest_checkpoint_or_a_newer_one, setup, teardown),
        cmocka_unit_test_setup_teardown(without_fsync_the_same_disk_loses_checkpoints, setup, teardown),
    };
    randoms = argc > 1 ? atoi(argv[1]) : randoms;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
