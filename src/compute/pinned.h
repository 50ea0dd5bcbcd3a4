/* Host memory, pinned where the backend has such, so that a device copies to and from it without anybody waiting.
 * Inline: stages that know no backend's code use it too. */
#ifndef EBB_COMPUTE_PINNED_H
#define EBB_COMPUTE_PINNED_H

#include "base/alloc.h"
#include <ebb/compute.h>

typedef struct ebb_pinned {
    void *ptr;
    bool pinned;
} ebb_pinned_t;

static inline ebb_status_t ebb_pinned_make(const ebb_backend_t *backend, const char *what, size_t bytes,
                                           ebb_pinned_t *room)
{
    *room = (ebb_pinned_t){0};
    if (!(backend->ops->caps & EBB_CAP_HOST_MEMORY))
        room->ptr = backend->ops->host_alloc(backend->dev, bytes);
    room->pinned = room->ptr != NULL;
    return room->pinned ? EBB_OK : ebb_alloc(what, bytes, &room->ptr);
}

static inline void ebb_pinned_free(const ebb_backend_t *backend, ebb_pinned_t *room)
{
    if (room->pinned)
        backend->ops->host_free(backend->dev, room->ptr);
    else
        ebb_free(room->ptr);
    *room = (ebb_pinned_t){0};
}

#endif
