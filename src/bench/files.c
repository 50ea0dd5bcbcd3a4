/* The files of a data set as the machine reads them, and getting them out of the page cache. What a virtual machine's
 * host or a disk's own cache holds is out of reach: "cold" means cold for this kernel. */
#include "bench/internal.h"
#include "base/alloc.h"
#include "base/file.h"
#include "shard/layout.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct reading {
    const ebb_dataset_t *ds;
    const int64_t *first; /* (shards + 1) number of the first piece of each file */
    uint8_t *const *buffer;
} reading_t;

static int64_t pieces_of(const ebb_shard_t *shard)
{
    int64_t bytes = ebb_file_size(shard->path);
    return bytes > 0 ? (bytes + EBB_BENCH_PIECE - 1) / EBB_BENCH_PIECE : 0;
}

int64_t ebb_bench_files_bytes(const ebb_dataset_t *ds)
{
    int64_t bytes = 0;
    for (int s = 0; s < ds->info.n_shards; s++)
        bytes += ebb_file_size(ds->shard[s].path);
    return bytes;
}

static int shard_of(const reading_t *r, int64_t piece)
{
    int low = 0, high = r->ds->info.n_shards;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (r->first[middle] <= piece)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static ebb_status_t read_task(void *user, int thread, int64_t piece)
{
    const reading_t *r = user;
    int s = shard_of(r, piece), fd;
    const char *path = r->ds->shard[s].path;
    int64_t at = (piece - r->first[s]) * EBB_BENCH_PIECE, bytes = ebb_file_size(path) - at;
    bytes = bytes < EBB_BENCH_PIECE ? bytes : EBB_BENCH_PIECE;
    EBB_TRY(ebb_file_open(path, O_RDONLY | O_CLOEXEC, 0, &fd));
    ebb_status_t status = ebb_file_pread(fd, path, r->buffer[thread], (size_t)bytes, at);
    close(fd);
    return status;
}

ebb_status_t ebb_bench_files_read(const ebb_dataset_t *ds, ebb_pool_t *pool, uint8_t *const *buffer)
{
    int64_t *first;
    int n = ds->info.n_shards;
    EBB_TRY(EBB_NEW_ARRAY("pieces", n + 1, &first));
    for (int s = 0; s < n; s++)
        first[s + 1] = first[s] + pieces_of(&ds->shard[s]);
    reading_t r = {ds, first, buffer};
    ebb_status_t status = ebb_pool_run(pool, first[n], read_task, &r);
    ebb_free(first);
    return status;
}

/* Pages of the file that are in memory. The kernel calls all of them so where the caller might not write the file. */
static int64_t pages_held(int fd, int64_t bytes, int64_t *pages_p)
{
    unsigned char state[4096];
    int64_t page = sysconf(_SC_PAGESIZE), held = 0, step = (int64_t)sizeof state * page;
    for (int64_t at = 0; at < bytes; at += step) {
        size_t size = (size_t)(bytes - at < step ? bytes - at : step), n = (size + (size_t)page - 1) / (size_t)page;
        void *map = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, at);
        bool seen = map != MAP_FAILED && mincore(map, size, state) == 0;
        for (size_t i = 0; i < n; i++)
            held += !seen || (state[i] & 1);
        *pages_p += (int64_t)n;
        if (map != MAP_FAILED)
            munmap(map, size);
    }
    return held;
}

ebb_status_t ebb_bench_files_forget(const ebb_dataset_t *ds, double *kept_p)
{
    int64_t pages = 0, held = 0;
    for (int s = 0; s < ds->info.n_shards; s++) {
        const char *path = ds->shard[s].path;
        int fd;
        EBB_TRY(ebb_file_open(path, O_RDONLY | O_CLOEXEC, 0, &fd));
        (void)fdatasync(fd); /* pages that are not yet on disk are not dropped */
        (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        held += pages_held(fd, ebb_file_size(path), &pages);
        close(fd);
    }
    *kept_p = pages > 0 ? (double)held / (double)pages : 0;
    return EBB_OK;
}
