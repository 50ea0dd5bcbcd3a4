/* Finding and loading shared objects of ours. */
#include "base/plugin.h"
#include "base/file.h"

#include <ctype.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static ebb_status_t check_name(const char *what, const char *name)
{
    bool good = name && *name && strlen(name) < 32;
    for (const char *c = name; good && *c; c++)
        good = islower((unsigned char)*c) || isdigit((unsigned char)*c) || *c == '_';
    if (!good)
        return EBB_FAIL(EBB_EUSAGE, "\"%s\" cannot be a %s: cpu, cuda, or the name of a libebb_<name>.so",
                        name ? name : "", what);
    return EBB_OK;
}

/* Folder of the object this code is in, without the final slash. Of the program itself the linker knows only what it
 * was called by, which is no path where the shell found it on PATH. */
static void own_folder(char *path, size_t size)
{
    Dl_info info;
    void *here;
    ebb_status_t (*self)(const char *, const char *, char *, size_t) = ebb_plugin_find;
    memcpy(&here, &self, sizeof here);
    bool found = dladdr(here, &info) && info.dli_fname;
    ssize_t n = 0;
    if (!found || strcmp(info.dli_fname, program_invocation_name) == 0)
        n = readlink("/proc/self/exe", path, size - 1);
    if (n > 0)
        path[n] = 0;
    else
        snprintf(path, size, "%s", found ? info.dli_fname : "");
    char *slash = strrchr(path, '/');
    snprintf(slash ? slash : path, slash ? 1 : size, "%s", slash ? "" : ".");
}

ebb_status_t ebb_plugin_find(const char *what, const char *name, char *path, size_t size)
{
    const char *folders = getenv("EBB_BACKEND_PATH");
    char own[2048];
    EBB_TRY(check_name(what, name));
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
    return EBB_FAIL(
        EBB_EUNAVAILABLE,
        "%s %s is not installed: there is no libebb_%s.so in %s%s%s; install it, or set EBB_BACKEND_PATH to "
        "its folder",
        what, name, name, own, folders && *folders ? ", nor in EBB_BACKEND_PATH: " : "", folders ? folders : "");
}

ebb_status_t ebb_plugin_load(const char *what, const char *path, const char *entry, void **object_p, void **symbol_p)
{
    *symbol_p = NULL;
    *object_p = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!*object_p)
        return EBB_FAIL(EBB_EUNAVAILABLE, "%s: cannot be loaded: %s", path, dlerror());
    *symbol_p = dlsym(*object_p, entry);
    if (!*symbol_p)
        return EBB_FAIL(EBB_EUNAVAILABLE, "%s: is not an Ebb %s: it does not export %s", path, what, entry);
    return EBB_OK;
}
