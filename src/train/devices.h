/* The devices of a run's ranks: told, checked against one another, and joined by a wire. */
#ifndef EBB_TRAIN_DEVICES_H
#define EBB_TRAIN_DEVICES_H

#include "train/workers.h"

typedef enum ebb_wire_choice { EBB_TRAIN_WIRE_AUTO, EBB_TRAIN_WIRE_MPI, EBB_TRAIN_WIRE_NCCL } ebb_wire_choice_t;

typedef struct ebb_devices {
    ebb_wire_t *wire; /* NULL: through host memory, or there is nothing to carry */
    char **told;      /* (ranks) "node7: NVIDIA H200, GPU 0"; NULL where the device is the host */
    int ranks;
} ebb_devices_t;

/* Nothing to do where the backend computes in the host's memory. canonical: GPUs of several kinds are refused. limit:
 * seconds, for the wire. Collective. */
ebb_status_t ebb_devices_open(ebb_devices_t *d, ebb_comm_t *comm, const ebb_backend_t *backend, bool canonical,
                              ebb_wire_choice_t choice, double limit) EBB_MUST_CHECK;
void ebb_devices_close(ebb_devices_t *d);

/* Where there was no room for passes over `rows` rows on `threads` threads: the need, and the largest batch that fits.
 */
ebb_status_t ebb_devices_too_small(const ebb_backend_t *backend, const ebb_model_t *model, int threads, int64_t rows,
                                   int64_t batch_rows_each);

#endif
