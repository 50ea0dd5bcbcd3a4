/* Counted data sets, loaders and batches over the plain ones.
 *
 * A dropped lease is put on a stack that its loader's next user empties; the loader's lock is only ever tried by who
 * drops, so dropping never waits for an acquire. Every filled lease counts as a reference to its loader: at the last
 * one nobody is inside. */
#include <ebb/share.h>
#include "base/alloc.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

/* DLPack's structs, version 0.x; device type 1: host memory, type code 1: unsigned. */
typedef struct dl_managed_tensor {
    struct {
        void *data;
        struct {
            int32_t type, id;
        } device;
        int32_t ndim;
        struct {
            uint8_t code, bits;
            uint16_t lanes;
        } dtype;
        int64_t *shape, *strides;
        uint64_t byte_offset;
    } tensor;
    void *context;
    void (*deleter)(struct dl_managed_tensor *self);
} dl_managed_tensor_t;

struct ebb_shared_dataset {
    ebb_dataset_t *ds;
    atomic_int references;
};

struct ebb_shared_loader {
    ebb_shared_dataset_t *ds;
    ebb_loader_t *loader;
    pthread_mutex_t lock;
    atomic_int references, held;
    _Atomic(ebb_lease_t *) dropped;
    pid_t process;
};

struct ebb_lease {
    ebb_shared_loader_t *loader; /* NULL while empty */
    const ebb_batch_t *batch;    /* NULL where only the loader is owned */
    ebb_lease_t *next;           /* on the stack of dropped ones */
    dl_managed_tensor_t dlpack;
    int64_t shape;
    uint8_t byte;
};

/* ---- data sets ---- */

ebb_status_t ebb_shared_dataset_open(const char *path, const char *dataset, ebb_shared_dataset_t **ds_p)
{
    ebb_shared_dataset_t *shared;
    *ds_p = NULL;
    EBB_TRY(EBB_NEW("data set", &shared));
    atomic_init(&shared->references, 1);
    ebb_status_t status = ebb_dataset_open(path, dataset, &shared->ds);
    if (status != EBB_OK) {
        ebb_free(shared);
        return status;
    }
    *ds_p = shared;
    return EBB_OK;
}

const ebb_dataset_t *ebb_shared_dataset_get(const ebb_shared_dataset_t *ds)
{
    return ds->ds;
}

void ebb_shared_dataset_drop(ebb_shared_dataset_t *ds)
{
    if (!ds || atomic_fetch_sub(&ds->references, 1) > 1)
        return;
    ebb_dataset_close(ds->ds);
    ebb_free(ds);
}

/* ---- loaders ---- */

ebb_status_t ebb_shared_loader_create(ebb_shared_dataset_t *ds, const ebb_loader_options_t *options,
                                      ebb_shared_loader_t **loader_p)
{
    ebb_shared_loader_t *shared;
    *loader_p = NULL;
    EBB_TRY(EBB_NEW("loader", &shared));
    ebb_status_t status = ebb_loader_create(ds->ds, options, &shared->loader);
    if (status != EBB_OK) {
        ebb_free(shared);
        return status;
    }
    pthread_mutex_init(&shared->lock, NULL);
    atomic_init(&shared->references, 1);
    atomic_fetch_add(&ds->references, 1);
    shared->ds = ds;
    shared->process = getpid();
    *loader_p = shared;
    return EBB_OK;
}

ebb_loader_t *ebb_shared_loader_get(ebb_shared_loader_t *loader)
{
    return loader->loader;
}

int ebb_shared_loader_held(ebb_shared_loader_t *loader)
{
    return atomic_load(&loader->held);
}

/* With the lock held, or at the end. */
static void give_back(ebb_shared_loader_t *loader)
{
    ebb_lease_t *lease = atomic_exchange(&loader->dropped, NULL);
    while (lease) {
        ebb_lease_t *next = lease->next;
        ebb_loader_release(loader->loader, lease->batch);
        ebb_free(lease);
        lease = next;
    }
}

/* Who finds the lock taken leaves the work to its holder, who comes here after. */
static void settle(ebb_shared_loader_t *loader)
{
    while (atomic_load(&loader->dropped) && pthread_mutex_trylock(&loader->lock) == 0) {
        give_back(loader);
        pthread_mutex_unlock(&loader->lock);
    }
}

void ebb_shared_loader_drop(ebb_shared_loader_t *loader)
{
    if (!loader || getpid() != loader->process || atomic_fetch_sub(&loader->references, 1) > 1)
        return;
    give_back(loader);
    ebb_loader_destroy(loader->loader);
    ebb_shared_dataset_drop(loader->ds);
    pthread_mutex_destroy(&loader->lock);
    ebb_free(loader);
}

static void enter(ebb_shared_loader_t *loader)
{
    pthread_mutex_lock(&loader->lock);
    give_back(loader);
}

static void leave(ebb_shared_loader_t *loader)
{
    pthread_mutex_unlock(&loader->lock);
    settle(loader);
}

ebb_status_t ebb_shared_loader_seek(ebb_shared_loader_t *loader, int64_t epoch, int64_t step)
{
    enter(loader);
    ebb_status_t status = ebb_loader_seek(loader->loader, epoch, step);
    leave(loader);
    return status;
}

ebb_status_t ebb_shared_loader_restore(ebb_shared_loader_t *loader, const ebb_cursor_t *cursor)
{
    enter(loader);
    ebb_status_t status = ebb_loader_restore(loader->loader, cursor);
    leave(loader);
    return status;
}

/* ---- leases ---- */

static void delete_tensor(dl_managed_tensor_t *self)
{
    ebb_lease_drop(self->context);
}

ebb_status_t ebb_lease_create(ebb_lease_t **lease_p)
{
    ebb_lease_t *lease;
    *lease_p = NULL;
    EBB_TRY(EBB_NEW("lease", &lease));
    lease->shape = 1;
    lease->dlpack.tensor.data = &lease->byte;
    lease->dlpack.tensor.device.type = 1;
    lease->dlpack.tensor.ndim = 1;
    lease->dlpack.tensor.dtype.code = 1;
    lease->dlpack.tensor.dtype.bits = 8;
    lease->dlpack.tensor.dtype.lanes = 1;
    lease->dlpack.tensor.shape = &lease->shape;
    lease->dlpack.context = lease;
    lease->dlpack.deleter = delete_tensor;
    *lease_p = lease;
    return EBB_OK;
}

static ebb_status_t check_empty(const ebb_lease_t *lease)
{
    if (lease->loader)
        return EBB_FAIL(EBB_EINVAL, "the lease holds something already: make one for every batch");
    return EBB_OK;
}

ebb_status_t ebb_lease_create_loader(ebb_lease_t *lease, ebb_shared_dataset_t *ds, const ebb_loader_options_t *options,
                                     ebb_shared_loader_t **loader_p)
{
    *loader_p = NULL;
    EBB_TRY(check_empty(lease));
    EBB_TRY(ebb_shared_loader_create(ds, options, loader_p));
    lease->loader = *loader_p;
    return EBB_OK;
}

ebb_status_t ebb_lease_acquire(ebb_lease_t *lease, ebb_shared_loader_t *loader)
{
    EBB_TRY(check_empty(lease));
    enter(loader);
    ebb_status_t status = ebb_loader_acquire(loader->loader, &lease->batch);
    if (status == EBB_OK) {
        lease->loader = loader;
        atomic_fetch_add(&loader->references, 1);
        atomic_fetch_add(&loader->held, 1);
    }
    leave(loader);
    return status;
}

const ebb_batch_t *ebb_lease_batch(const ebb_lease_t *lease)
{
    return lease->batch;
}

void ebb_lease_drop(ebb_lease_t *lease)
{
    if (!lease || (lease->loader && getpid() != lease->loader->process))
        return;
    ebb_shared_loader_t *loader = lease->loader;
    if (!lease->batch) {
        ebb_free(lease);
        ebb_shared_loader_drop(loader);
        return;
    }
    lease->next = atomic_load(&loader->dropped);
    while (!atomic_compare_exchange_weak(&loader->dropped, &lease->next, lease))
        ;
    atomic_fetch_sub(&loader->held, 1);
    settle(loader);
    ebb_shared_loader_drop(loader);
}

void *ebb_lease_dlpack(ebb_lease_t *lease)
{
    return &lease->dlpack;
}
