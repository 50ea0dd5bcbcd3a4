/* The machine's own limits, and what measuring them shares. */
#ifndef EBB_BENCH_INTERNAL_H
#define EBB_BENCH_INTERNAL_H

#include <ebb/bench.h>
#include "base/threads.h"

enum { EBB_BENCH_MAX_PASSES = 1000, EBB_BENCH_MAX_THREADS = 256 };

/* ---- chunks.c: the stored chunks of a data set in memory ---- */

typedef struct ebb_bench_chunks {
    struct stored_chunk *chunk;
    uint8_t *stored; /* their bytes, one after another */
    int64_t n;       /* in memory */
    int64_t total, most;
    int64_t packed_bytes, decoded_bytes; /* of the whole data set */
    double sampled;                      /* decoded bytes in memory over all */
    const char *codec;
    int threads;
    struct chunk_decoder *decoder; /* (threads) */
} ebb_bench_chunks_t;

/* Read them all, or as many, evenly spaced, as fit in `budget` bytes. */
ebb_status_t ebb_bench_chunks_init(ebb_bench_chunks_t *c, const ebb_dataset_t *ds, int threads, int64_t budget);
void ebb_bench_chunks_cleanup(ebb_bench_chunks_t *c);
/* Decode each once, with the threads of the pool. */
ebb_status_t ebb_bench_chunks_decode(ebb_bench_chunks_t *c, ebb_pool_t *pool);
/* Compare each with its checksum. *checked_p: some have one. */
ebb_status_t ebb_bench_chunks_check(ebb_bench_chunks_t *c, ebb_pool_t *pool, bool *checked_p);
/* Decode them from the files, checksums included, and write what was decoded once: X as int32 columns and float32
 * values, or if `stored` in its own types. ring: memory of each thread that is written round and round; ring_bytes: at
 * least EBB_BENCH_LEAST_RING of them. */
enum { EBB_BENCH_LEAST_RING = 8 << 20 };
ebb_status_t ebb_bench_chunks_least(ebb_bench_chunks_t *c, ebb_pool_t *pool, uint8_t *const *ring, int64_t ring_bytes,
                                    bool stored);

/* ---- files.c ---- */

/* Read all files of a data set once, in large pieces. buffers: one of EBB_BENCH_PIECE bytes per thread. */
enum { EBB_BENCH_PIECE = 4 << 20 };
ebb_status_t ebb_bench_files_read(const ebb_dataset_t *ds, ebb_pool_t *pool, uint8_t *const *buffer);
int64_t ebb_bench_files_bytes(const ebb_dataset_t *ds);
/* Ask the kernel to forget the files; *kept_p: the part of their pages that it still holds, or does not show. */
ebb_status_t ebb_bench_files_forget(const ebb_dataset_t *ds, double *kept_p);

#endif
