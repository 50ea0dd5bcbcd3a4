/* Wires that are loaded at run time. */
#include <ebb/comm.h>
#include "base/alloc.h"
#include "base/plugin.h"
#include "base/pulse.h"

#include <dlfcn.h>
#include <string.h>

typedef struct opened {
    ebb_wire_t public; /* first: the caller's pointer */
    void *object;
} opened_t;

static ebb_status_t check(const ebb_wire_ops_t *ops)
{
    if (!ops || ops->version != EBB_WIRE_VERSION)
        return EBB_FAIL(EBB_EUNAVAILABLE, "its table has version %u, this Ebb needs %u: rebuild both from one source",
                        ops ? ops->version : 0, EBB_WIRE_VERSION);
    if (!ops->name || !ops->begin || !ops->gather || !ops->event || !ops->finish || !ops->allreduce || !ops->destroy)
        return EBB_FAIL(EBB_EUNAVAILABLE, "its table lacks an operation: rebuild it");
    return EBB_OK;
}

static ebb_status_t load(const char *name, opened_t *o, ebb_wire_entry_t *entry_p)
{
    char path[4096];
    void *symbol;
    EBB_TRY(ebb_plugin_find("wire", name, path, sizeof path));
    EBB_TRY(ebb_plugin_load("wire", path, "ebb_wire_entry", &o->object, &symbol));
    memcpy(entry_p, &symbol, sizeof symbol);
    return EBB_OK;
}

ebb_status_t ebb_wire_open(const char *name, ebb_comm_t *comm, int device, double limit, ebb_wire_t **wire_p)
{
    opened_t *o = NULL;
    ebb_wire_entry_t entry;
    *wire_p = NULL;
    ebb_status_t status = EBB_NEW("wire", &o);
    if (status == EBB_OK)
        status = load(name, o, &entry);
    status = ebb_comm_agree(comm, status);
    if (status == EBB_OK)
        status = entry(EBB_WIRE_VERSION, comm, device, limit, &o->public);
    if (status == EBB_OK)
        status = ebb_comm_agree(comm, check(o->public.ops));
    if (status != EBB_OK) {
        ebb_free(o); /* the object stays loaded: the error may point at strings in it */
        return status;
    }
    *wire_p = &o->public;
    return EBB_OK;
}

void ebb_wire_close(ebb_wire_t *wire)
{
    opened_t *o = (opened_t *)wire;
    if (!o)
        return;
    o->public.ops->destroy(o->public.state);
    if (o->object)
        dlclose(o->object);
    ebb_free(o);
}

/* While a wire works, other ranks are to blame when nothing happens. */
static ebb_status_t waited(ebb_status_t status)
{
    ebb_pulse_wait(false);
    return status;
}

/* The first messages between two ranks may have to wait until the other one begins them, too. */
ebb_status_t ebb_wire_begin(const ebb_wire_t *wire, int n_after, void *const *after, int64_t n, const ebb_part_t *part)
{
    ebb_pulse_wait(true);
    return waited(wire->ops->begin(wire->state, n_after, after, n, part));
}

ebb_status_t ebb_wire_finish(const ebb_wire_t *wire)
{
    ebb_pulse_wait(true);
    return waited(wire->ops->finish(wire->state));
}

ebb_status_t ebb_wire_gather(const ebb_wire_t *wire, int n_after, void *const *after, void *buf, const int64_t *counts,
                             const int64_t *displs)
{
    ebb_pulse_wait(true);
    return waited(wire->ops->gather(wire->state, n_after, after, buf, counts, displs));
}

ebb_status_t ebb_wire_event(const ebb_wire_t *wire, void **event_p)
{
    ebb_pulse_wait(true);
    return waited(wire->ops->event(wire->state, event_p));
}

ebb_status_t ebb_wire_allreduce(const ebb_wire_t *wire, float *buf, int64_t count)
{
    ebb_pulse_wait(true);
    return waited(wire->ops->allreduce(wire->state, buf, count));
}
