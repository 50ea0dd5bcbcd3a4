/* Batches on their way to a device with memory of its own, ahead of the passes over them. */
#ifndef EBB_TRAIN_AHEAD_H
#define EBB_TRAIN_AHEAD_H

#include <ebb/loader.h>
#include "train/workers.h"

typedef struct ebb_ahead ebb_ahead_t;

/* *ahead_p is NULL where passes read the host's memory, or with EBB_CUDA_COPY_AHEAD=0: each lane's rows are then copied
 * by its own context (stage.h). Borrows all until destroy, which comes before the loader's. */
ebb_status_t ebb_ahead_create(ebb_workers_t *w, const ebb_dataset_info_t *info, ebb_loader_t *loader,
                              ebb_ahead_t **ahead_p) EBB_MUST_CHECK;
void ebb_ahead_destroy(ebb_ahead_t *ahead);
/* Room for batches of so many rows in so many lanes, taken at once, so that a device without it is told from the
 * beginning: all or nothing. */
ebb_status_t ebb_ahead_reserve(ebb_ahead_t *ahead, int64_t rows, int32_t lanes) EBB_MUST_CHECK;
/* Bytes that it takes; of NULL, 0. */
int64_t ebb_ahead_bytes(const ebb_ahead_t *ahead, int64_t rows, int32_t lanes);
/* Give the room back. Nothing may be under way. */
void ebb_ahead_empty(ebb_ahead_t *ahead);
/* A batch as the device sees it: its arrays are the device's, but for lanes and row. Lanes' first rows are those of x
 * there, of which every lane begins at a multiple of 256 bytes, whoever has it: a product may take another algorithm,
 * with other bits, for rows that lie otherwise. All contexts' work from now on begins after its copy, which is begun
 * unless it is under way. Valid until the step after the next; the batch is to be kept until some of that work was
 * waited for. */
ebb_status_t ebb_ahead_take(ebb_ahead_t *ahead, const ebb_batch_t *batch, const ebb_batch_t **device_p);
/* The contexts have been given all passes over the batch taken last. */
ebb_status_t ebb_ahead_passed(const ebb_ahead_t *ahead);
/* Begin to copy the batches that come next, so far as they are ready. Does not wait. */
ebb_status_t ebb_ahead_look(ebb_ahead_t *ahead);

#endif
