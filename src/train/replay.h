/* Passes that a context is given again as it was given them before: where the backend can note work as graphs, and what
 * a pass gives depends on addresses and numbers of rows alone (ebb_model_is_steady), the host launches one graph
 * instead of some dozen kernels. */
#ifndef EBB_TRAIN_REPLAY_H
#define EBB_TRAIN_REPLAY_H

#include <ebb/compute.h>

typedef struct ebb_replay ebb_replay_t;

/* All that passes over a piece, or a part of them, depend on. Zeroed before it is filled in: compared byte by byte. */
typedef struct ebb_replay_key {
    const void *x, *label, *y, *weight, *workspace, *out, *dout;
    float *dense;
    double *row_loss;
    int64_t rows, accumulate, part;
} ebb_replay_key_t;

/* For one context. *replay_p is NULL, for which everything is given plainly, where the backend has no graphs or with
 * EBB_CUDA_GRAPHS=0. Borrows the context until destroy. */
ebb_status_t ebb_replay_create(const ebb_backend_t *backend, ebb_exec_t *exec, ebb_replay_t **replay_p) EBB_MUST_CHECK;
void ebb_replay_destroy(ebb_replay_t *replay);
/* Give the context the work of this key: plainly the first time, which makes room for it; as a graph from the second
 * time on. work gives it; it is called again where it cannot be noted, after which nothing is any more. */
ebb_status_t ebb_replay(ebb_replay_t *replay, const ebb_replay_key_t *key, ebb_status_t (*work)(void *user),
                        void *user);

#endif
