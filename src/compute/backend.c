/* Opening backends: `cpu` is built in, others are shared objects found in $EBB_BACKEND_PATH, then beside the file this
 * code is in, then in ../lib seen from there. A table is used only after its version and all entries were checked, so a
 * stale or half-built object is named instead of crashing later. Not collective. */
#include <ebb/compute.h>
#include "base/alloc.h"
#include "base/file.h"
#include "compute/cpu/cpu.h"

#include <ctype.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
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

static const struct {
    const char *name;
    size_t offset;
} required[] = {
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

ebb_status_t ebb_backend_check(const ebb_backend_ops_t *ops)
{
    if (!ops)
        return EBB_FAIL(EBB_EUNAVAILABLE, "the backend gave no table of operations");
    if (ops->version != EBB_BACKEND_VERSION)
        return EBB_FAIL(EBB_EUNAVAILABLE,
                        "its table has version %u, this Ebb needs %u: rebuild both from the same source", ops->version,
                        EBB_BACKEND_VERSION);
    for (size_t i = 0; i < sizeof required / sizeof *required; i++) {
        void *entry;
        memcpy(&entry, (const char *)ops + required[i].offset, sizeof entry);
        if (!entry)
            return EBB_FAIL(EBB_EUNAVAILABLE, "its table lacks the operation %s: rebuild the backend",
                            required[i].name);
    }
    return EBB_OK;
}

static ebb_status_t check_name(const char *name)
{
    bool good = name && *name && strlen(name) < 32;
    for (const char *c = name; good && *c; c++)
        good = islower((unsigned char)*c) || isdigit((unsigned char)*c) || *c == '_';
    if (!good)
        return EBB_FAIL(EBB_EUSAGE, "\"%s\" cannot be a backend: cpu, cuda, or the name of a libebb_<name>.so",
                        name ? name : "");
    return EBB_OK;
}

/* Folder of the object this code is in, without the final slash. */
static void own_folder(char *path, size_t size)
{
    Dl_info info;
    void *here;
    ebb_status_t (*self)(const char *, int, ebb_backend_t **) = ebb_backend_open;
    memcpy(&here, &self, sizeof here);
    snprintf(path, size, "%s", dladdr(here, &info) && info.dli_fname ? info.dli_fname : "./");
    char *slash = strrchr(path, '/');
    snprintf(slash ? slash : path, slash ? 1 : size, "%s", slash ? "" : ".");
}

/* The first libebb_<name>.so of the path's folders (separated by colons), of our own, and of the library folder that
 * goes with a bin folder. */
static ebb_status_t find_object(const char *name, char *path, size_t size)
{
    const char *folders = getenv("EBB_BACKEND_PATH");
    char own[2048];
    own_folder(own, sizeof own);
    for (const char *f = folders; f && *f;) {
        int n = (int)strcspn(f, ":");
        snprintf(path, size, "%.*s/libebb_%s.so", n, f, name);
        if (n > 0 && ebb_file_exists(path))
            return EBB_OK;
        f += n + (f[n] == ':');
    }
    snprintf(path, size, "%s/libebb_%s.so", own, name);
    if (ebb_file_exists(path))
        return EBB_OK;
    snprintf(path, size, "%s/../" EBB_LIBDIR "/libebb_%s.so", own, name);
    if (ebb_file_exists(path))
        return EBB_OK;
    return EBB_FAIL(EBB_EUNAVAILABLE,
                    "backend %s is not installed: there is no libebb_%s.so in %s (EBB_BACKEND_PATH) or in %s; "
                    "install it, point EBB_BACKEND_PATH at its folder, or use cpu",
                    name, name, folders && *folders ? folders : "no folder", own);
}

static ebb_status_t load_object(const char *path, int device, opened_t *o)
{
    ebb_backend_entry_t entry;
    o->object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!o->object)
        return EBB_FAIL(EBB_EUNAVAILABLE, "%s: cannot be loaded: %s", path, dlerror());
    void *symbol = dlsym(o->object, "ebb_backend_entry");
    if (!symbol)
        return EBB_FAIL(EBB_EUNAVAILABLE, "%s: is not an Ebb backend: it does not export ebb_backend_entry", path);
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
    EBB_TRY(check_name(name));
    EBB_TRY(EBB_NEW("backend", &o));
    if (strcmp(name, "cpu") == 0) {
        EBB_TRY_GOTO(status, ebb_cpu_open(&o->public), fail);
    } else {
        EBB_TRY_GOTO(status, find_object(name, path, sizeof path), fail);
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
