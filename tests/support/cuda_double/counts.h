/* What was asked of the double so far; tests find ebb_double_counts in the backend's object. */
#ifndef EBB_TESTS_DOUBLE_COUNTS_H
#define EBB_TESTS_DOUBLE_COUNTS_H

#include <stdint.h>

typedef struct ebb_double_counts {
    int64_t enqueued;    /* kernels, copies, products ...: whatever joined a stream */
    int64_t products;    /* of them by cuBLASLt */
    int64_t heuristics;  /* times that an algorithm was asked for */
    int64_t allocations; /* of device memory */
    int64_t graphs;      /* launches of them; each joins a stream as one */
} ebb_double_counts_t;

#ifdef __cplusplus
extern "C"
#endif
    ebb_double_counts_t
    ebb_double_counts(void);

#endif
