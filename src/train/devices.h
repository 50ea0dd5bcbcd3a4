/* The devices of a run's ranks: told, checked against one another, and joined by a wire. */
#ifndef EBB_TRAIN_DEVICES_H
#define EBB_TRAIN_DEVICES_H

#include "train/ahead.h"
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

/* What a rank's steps take of its device's memory. */
typedef struct ebb_device_need {
    const ebb_model_t *model;
    const ebb_ahead_t *ahead;
    int threads;
    int32_t lanes;     /* of the rank */
    int64_t rows;      /* of a piece of a lane, the largest */
    int64_t pieces;    /* of the rank's batch */
    int64_t batch_row; /* rows of train.batch for each row of a piece */
    int64_t gradients; /* bytes of lanes' gradients, whatever the batch */
} ebb_device_need_t;

/* Where there was no room: the need, and the largest batch that fits. Nothing of it is held. */
ebb_status_t ebb_devices_too_small(const ebb_backend_t *backend, const ebb_device_need_t *need);

#endif
