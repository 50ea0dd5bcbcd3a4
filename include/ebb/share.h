/* Counted data sets, loaders and batches, for languages that collect objects late, in any order and on any thread
 * (the Python module is made of them). A loader keeps its data set, and a batch its loader, until the last is dropped.
 *
 * Threads. Of one loader acquire, seek and restore belong to one thread at a time; drops are free: whoever drops a
 * batch while another thread is inside the loader leaves the work to that thread and does not wait. In a fork's child
 * drops do nothing: the threads are the parent's.
 */
#ifndef EBB_SHARE_H
#define EBB_SHARE_H

#include <ebb/base.h>
#include <ebb/loader.h>
#include <ebb/shard.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ebb_shared_dataset ebb_shared_dataset_t;
typedef struct ebb_shared_loader ebb_shared_loader_t;
typedef struct ebb_lease ebb_lease_t;

EBB_API ebb_status_t ebb_shared_dataset_open(const char *path, const char *dataset,
                                             ebb_shared_dataset_t **ds_p) EBB_MUST_CHECK;
EBB_API const ebb_dataset_t *ebb_shared_dataset_get(const ebb_shared_dataset_t *ds);
EBB_API void ebb_shared_dataset_drop(ebb_shared_dataset_t *ds);

EBB_API ebb_status_t ebb_shared_loader_create(ebb_shared_dataset_t *ds, const ebb_loader_options_t *options,
                                              ebb_shared_loader_t **loader_p) EBB_MUST_CHECK;
/* For ebb_loader_cursor and ebb_loader_stats; to acquire, release or move it through here is an error. */
EBB_API ebb_loader_t *ebb_shared_loader_get(ebb_shared_loader_t *loader);
EBB_API void ebb_shared_loader_drop(ebb_shared_loader_t *loader);
/* Batches that are out. */
EBB_API int ebb_shared_loader_held(ebb_shared_loader_t *loader);
EBB_API ebb_status_t ebb_shared_loader_seek(ebb_shared_loader_t *loader, int64_t epoch, int64_t step);
EBB_API ebb_status_t ebb_shared_loader_restore(ebb_shared_loader_t *loader, const ebb_cursor_t *cursor);

/* An empty lease; made before the batch, so that there is an owner at any moment. */
EBB_API ebb_status_t ebb_lease_create(ebb_lease_t **lease_p) EBB_MUST_CHECK;
/* Fill an empty lease with the loader's next batch, as ebb_loader_acquire does. */
EBB_API ebb_status_t ebb_lease_acquire(ebb_lease_t *lease, ebb_shared_loader_t *loader);
/* Or make a loader that the empty lease owns a reference of: one call, so that no interrupt comes between. */
EBB_API ebb_status_t ebb_lease_create_loader(ebb_lease_t *lease, ebb_shared_dataset_t *ds,
                                             const ebb_loader_options_t *options, ebb_shared_loader_t **loader_p);
EBB_API const ebb_batch_t *ebb_lease_batch(const ebb_lease_t *lease); /* NULL if it holds none */
EBB_API void ebb_lease_drop(ebb_lease_t *lease);
/* The lease as a DLPack tensor of one byte (DLManagedTensor of DLPack 0.x), whose deleter drops the lease: the object
 * of any language that imports DLPack then owns it. Call once; drop no more. */
EBB_API void *ebb_lease_dlpack(ebb_lease_t *lease);

#ifdef __cplusplus
}
#endif
#endif
