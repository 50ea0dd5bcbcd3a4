/* Opening backends: `cpu` is built in, others are shared objects (base/plugin.h). A table is used only after its
 * version and all entries were checked, so a stale or half-built object is named instead of crashing later. Not
 * collective. */
#include <ebb/compute.h>
#include "base/alloc.h"
#include "base/plugin.h"
#include "compute/cpu/cpu.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

/* What ebb_backend_open hands out, with what is needed to close it. */
typedef struct opened {
    ebb_backend_t public; /* first: the caller's pointer */
    void *object;         /* from dlopen, or NULL */
    void (*close)(ebb_backend_t *);
} opened_t;

#define ENTRY(name)                                                                                                    \
    {                                                                                                                  \
#name, offsetof(ebb_backend_ops_t, name)                                                                       \
    }

typedef struct needed {
    const char *name;
    size_t offset;
} needed_t;

static const needed_t required[] = {
    ENTRY(name),
    ENTRY(describe),
    ENTRY(alloc),
    ENTRY(free),
    ENTRY(upload),
    ENTRY(download),
    ENTRY(zero),
    ENTRY(copy),
    ENTRY(exec_create),
    ENTRY(exec_sync),
    ENTRY(exec_destroy),
    ENTRY(gemm),
    ENTRY(bias_grad),
    ENTRY(act_forward),
    ENTRY(act_backward),
    ENTRY(layernorm_forward),
    ENTRY(layernorm_backward),
    ENTRY(dropout),
    ENTRY(csr_gemm),
    ENTRY(csr_grad),
    ENTRY(csr_terms),
    ENTRY(terms_sum),
    ENTRY(terms_free),
    ENTRY(csr_grad_dense),
    ENTRY(fm_forward),
    ENTRY(fm_grad),
    ENTRY(fm_grad_dense),
    ENTRY(embed_forward),
    ENTRY(embed_grad),
    ENTRY(embed_grad_dense),
    ENTRY(loss),
    ENTRY(link),
    ENTRY(add),
    ENTRY(sumsq),
    ENTRY(update),
    ENTRY(update_rows),
    ENTRY(set_rows),
};

static const needed_t required_of_devices[] = {
    ENTRY(device_info),   ENTRY(host_alloc),       ENTRY(host_free), ENTRY(exec_mark), ENTRY(exec_await),
    ENTRY(exec_event),    ENTRY(exec_await_event), ENTRY(exec_post), ENTRY(exec_wait), ENTRY(exec_reserve),
    ENTRY(set_precision), ENTRY(hold_weights),     ENTRY(get_rows),  ENTRY(rows_find), ENTRY(rows_add),
};

static const needed_t required_of_graphs[] = {
    ENTRY(capture_begin),
    ENTRY(capture_end),
    ENTRY(graph_launch),
    ENTRY(graph_free),
};

static ebb_status_t check_entries(const ebb_backend_ops_t *ops, const needed_t *wanted, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        void *entry;
        memcpy(&entry, (const char *)ops + wanted[i].offset, sizeof entry);
        if (!entry)
            return EBB_FAIL(EBB_EUNAVAILABLE, "its table lacks the operation %s: rebuild the backend", wanted[i].name);
    }
    return EBB_OK;
}

ebb_status_t ebb_backend_check(const ebb_backend_ops_t *ops)
{
    if (!ops)
        return EBB_FAIL(EBB_EUNAVAILABLE, "the backend gave no table of operations");
    if (ops->version != EBB_BACKEND_VERSION)
        return EBB_FAIL(EBB_EUNAVAILABLE,
                        "its table has version %u, this Ebb needs %u: rebuild both from the same source", ops->version,
                        EBB_BACKEND_VERSION);
    EBB_TRY(check_entries(ops, required, sizeof required / sizeof *required));
    if (!(ops->caps & EBB_CAP_HOST_MEMORY))
        EBB_TRY(check_entries(ops, required_of_devices, sizeof required_of_devices / sizeof *required_of_devices));
    if (ops->caps & EBB_CAP_GRAPHS)
        EBB_TRY(check_entries(ops, required_of_graphs, sizeof required_of_graphs / sizeof *required_of_graphs));
    return EBB_OK;
}

static ebb_status_t load_object(const char *path, int device, opened_t *o)
{
    ebb_backend_entry_t entry;
    void *symbol;
    EBB_TRY(ebb_plugin_load("backend", path, "ebb_backend_entry", &o->object, &symbol));
    memcpy(&entry, &symbol, sizeof entry);
    ebb_status_t status = entry(EBB_BACKEND_VERSION, device, &o->public, &o->close);
    if (status != EBB_OK)
        EBB_FAIL(status, "its entry refused version %u, device %d", EBB_BACKEND_VERSION, device);
    else
        status = ebb_backend_check(o->public.ops);
    return status == EBB_OK ? EBB_OK : ebb_error_prefix("%s: ", path);
}

ebb_status_t ebb_backend_open(const char *name, int device, ebb_backend_t **backend_p)
{
    ebb_status_t status;
    char path[4096];
    opened_t *o;
    *backend_p = NULL;
    EBB_TRY(EBB_NEW("backend", &o));
    if (name && strcmp(name, "cpu") == 0) {
        EBB_TRY_GOTO(status, ebb_cpu_open(&o->public), fail);
    } else {
        EBB_TRY_GOTO(status, ebb_plugin_find("backend", name, path, sizeof path), fail);
        EBB_TRY_GOTO(status, load_object(path, device, o), fail);
    }
    *backend_p = &o->public;
    return EBB_OK;
fail:
    o->object = NULL; /* stays loaded: the error may point at strings in it */
    ebb_backend_close(&o->public);
    return status;
}

void ebb_backend_close(ebb_backend_t *backend)
{
    opened_t *o = (opened_t *)backend;
    if (!o)
        return;
    if (o->close)
        o->close(backend);
    if (o->object)
        dlclose(o->object);
    ebb_free(o);
}
