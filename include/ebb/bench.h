/* Benchmarks: what a part of Ebb does, beside what the machine can do, measured in the same run.
 *
 * Every figure is the median of several passes after one that is not counted, with the fastest and the slowest. Process
 * wide: a benchmark binds the calling thread to as many cores as it measures and frees it at the end. Not collective.
 */
#ifndef EBB_BENCH_H
#define EBB_BENCH_H

#include <ebb/base.h>
#include <ebb/loader.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ebb_bench_what {
    EBB_BENCH_MEMCPY, /* blocks larger than the caches */
    EBB_BENCH_READ,   /* the data set's files, in large pieces */
    EBB_BENCH_DECODE, /* the data set's chunks, already in memory: decompression and nothing else */
    EBB_BENCH_CHECK,  /* the stored bytes of those chunks compared with their checksums, and nothing else */
    EBB_BENCH_LEAST,  /* each chunk read from its file (warm), checked, decoded, and written once, in storage order, as
                       * wide as batches hold it, into memory of the size of a loader's batches: what any loader has to
                       * do, without a shuffle */
    EBB_BENCH_LOADER, /* batches out of ebb_loader_acquire, released at once */
} ebb_bench_what_t;

typedef enum ebb_bench_order { EBB_BENCH_SHUFFLED, EBB_BENCH_SEQUENTIAL, EBB_BENCH_BOTH_ORDERS } ebb_bench_order_t;
typedef enum ebb_bench_cache { EBB_BENCH_WARM, EBB_BENCH_COLD, EBB_BENCH_BOTH_CACHES } ebb_bench_cache_t;

/* One figure. */
typedef struct ebb_bench_figure {
    ebb_bench_what_t what;
    int threads; /* in all: the loader's consumer is one of them, but it has one read-ahead thread at least */
    bool shuffled;
    bool cold;  /* the kernel's page cache was emptied of the files before each pass */
    bool paced; /* LOADER: the consumer spends a quarter more on each batch than the loader needs for one, asleep, as if
                 * a GPU worked; all threads read ahead. Otherwise it does nothing, so it always waits */
    bool kept;  /* the data set stays decoded in the loader's memory: nothing is decoded after the first epoch */
    int passes;
    double seconds, fastest, slowest; /* of one pass; seconds is the median */
    double rows, nnz, bytes; /* done in a pass; bytes: decoded, as the codec delivers them; of READ: as stored */
    double decoded;          /* LOADER: rows decoded for each row delivered */
    double share;         /* LOADER: of the limit, which is DECODE's time for what was decoded or, if cold and longer,
                           * READ's, over seconds */
    double stall;         /* LOADER: part of the time that the consumer waited */
    int64_t memory_bytes; /* LOADER: windows and batches held */
} ebb_bench_figure_t;

typedef struct ebb_bench_loader_options {
    ebb_order_t order;    /* shuffle is ignored */
    int64_t memory_bytes; /* of the loader; 0: its default, or less, so that each epoch decodes all; see kept */
    int64_t steps;        /* batches a pass; 0: an epoch */
    int passes;           /* 0: 5 */
    const int *threads;   /* counts to measure, NULL: 1, 2, 4 ... and all cores */
    int n_threads;
    ebb_bench_order_t orders;
    ebb_bench_cache_t caches;
    bool stored; /* batches in the types of the shards instead of int32 and float32 */
} ebb_bench_loader_options_t;

/* What the figures are about, known before the first of them. */
typedef struct ebb_bench_loader_setting {
    const ebb_dataset_info_t *info;
    ebb_order_t order;
    const char *codec; /* "zstd", "deflate", "lzf", "none", or "libhdf5": a filter that only it knows */
    int64_t chunks, packed_bytes, decoded_bytes;
    double sampled; /* part of the chunks that DECODE decodes: a data set may be larger than memory */
    int64_t memory_bytes, steps;
    int passes;
    double
        uncleared; /* part of the files that the kernel keeps in its page cache; above 0.01 nothing is measured cold */
    double value_sum; /* over one warm epoch, checked to deliver each row once: all values, all columns */
    int64_t column_sum;
} ebb_bench_loader_setting_t;

/* Who hears of it; `begins` and `figure` may be NULL. doing: what is measured next, for a line of progress. */
typedef struct ebb_bench_listener {
    void (*setting)(void *user, const ebb_bench_loader_setting_t *setting);
    void (*doing)(void *user, const char *text);
    void (*figure)(void *user, const ebb_bench_figure_t *figure);
    void *user;
} ebb_bench_listener_t;

/* Measure the loader on a data set, or on a foreign HDF5 file opened as one. Damaged data is an error that names the
 * place; too little memory one that says the need. */
EBB_API ebb_status_t ebb_bench_loader(const ebb_dataset_t *ds, const ebb_bench_loader_options_t *options,
                                      const ebb_bench_listener_t *listener);

#ifdef __cplusplus
}
#endif
#endif
