/* Models from shared objects: load, find `ebb_model_entry`, check version and entries before anything of it is called.
 */
#include "model/plugin.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"

ebb_status_t ebb_model_ops_check(const ebb_model_ops_t *ops)
{
    if (!ops)
        return EBB_FAIL(EBB_EINVAL, "there is no table of operations");
    if (ops->version != EBB_MODEL_VERSION)
        return EBB_FAIL(EBB_EINVAL,
                        "its table has version %u, this Ebb needs %u; build it again with the installed headers",
                        ops->version, EBB_MODEL_VERSION);
    const struct {
        const char *name;
        bool there;
    } entry[] = {
        {"name", ops->name != NULL},       {"create", ops->create != NULL},
        {"destroy", ops->destroy != NULL}, {"declare", ops->declare != NULL},
        {"bind", ops->bind != NULL},       {"workspace_bytes", ops->workspace_bytes != NULL},
        {"forward", ops->forward != NULL}, {"backward", ops->backward != NULL},
    };
    char missing[128] = "";
    for (size_t i = 0; i < sizeof entry / sizeof entry[0]; i++) {
        size_t n = strlen(missing);
        if (!entry[i].there)
            snprintf(missing + n, sizeof missing - n, "%s%s", n ? ", " : "", entry[i].name);
    }
    if (missing[0])
        return EBB_FAIL(EBB_EINVAL, "its table lacks %s", missing);
    return EBB_OK;
}

ebb_status_t ebb_plugin_open(const char *path, void **handle_p, const ebb_model_ops_t **ops_p)
{
    if (strchr(path, '/') && !ebb_file_exists(path))
        return EBB_FAIL(EBB_ENOINPUT, "model.plugin: %s: there is no such file", path);
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!handle)
        return EBB_FAIL(EBB_EUNAVAILABLE, "model.plugin: cannot load: %s", dlerror());
    const ebb_model_ops_t *ops = dlsym(handle, "ebb_model_entry");
    ebb_status_t status = EBB_OK;
    if (!ops)
        status = EBB_FAIL(
            EBB_EINVAL,
            "model.plugin: %s: exports no \"ebb_model_entry\"; define `EBB_API const ebb_model_ops_t ebb_model_entry`",
            path);
    else if ((status = ebb_model_ops_check(ops)) != EBB_OK)
        ebb_error_prefix("model.plugin: %s: ", path);
    if (status != EBB_OK) {
        dlclose(handle);
        return status;
    }
    *handle_p = handle;
    *ops_p = ops;
    return EBB_OK;
}

void ebb_plugin_close(void *handle)
{
    if (handle)
        dlclose(handle);
}
