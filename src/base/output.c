/* Files that users name. */
#include "base/output.h"
#include "base/file.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool is_stdout(const char *path)
{
    return !path || strcmp(path, "-") == 0;
}

bool ebb_output_streams(const char *path)
{
    return is_stdout(path) || ebb_file_streams(path);
}

/* What `path` names in the end: of a link, the file that it leads to, so that the link stays. */
static ebb_status_t name_of(const char *path, char *name)
{
    if (realpath(path, name))
        return EBB_OK;
    if (snprintf(name, PATH_MAX, "%s", path) >= PATH_MAX - 32)
        return EBB_FAIL(EBB_EUSAGE, "%.80s...: the name is too long", path);
    return EBB_OK;
}

ebb_status_t ebb_output_open(const char *path, ebb_output_t *out)
{
    out->f = NULL;
    out->tmp[0] = 0;
    if (is_stdout(path)) {
        snprintf(out->path, sizeof out->path, "standard output");
        out->f = stdout;
        return EBB_OK;
    }
    if (ebb_file_is_dir(path))
        return EBB_FAIL(EBB_EUSAGE, "%s: is a folder; give the name of a file", path);
    if (ebb_file_streams(path)) {
        snprintf(out->path, sizeof out->path, "%s", path);
    } else {
        EBB_TRY(name_of(path, out->path));
        snprintf(out->tmp, sizeof out->tmp, "%.*s.tmp-%ld", PATH_MAX - 32, out->path, (long)getpid());
    }
    out->f = fopen(out->tmp[0] ? out->tmp : path, "we");
    return out->f ? EBB_OK : ebb_file_error(path, "create");
}

ebb_status_t ebb_output_close(ebb_output_t *out, ebb_status_t status)
{
    if (!out->f)
        return status;
    if ((out->f == stdout ? fflush(out->f) : fclose(out->f)) != 0 && status == EBB_OK)
        status = ebb_file_error(out->path, "write");
    if (out->tmp[0] && status == EBB_OK)
        status = ebb_file_commit(out->tmp, out->path);
    if (out->tmp[0] && status != EBB_OK)
        unlink(out->tmp);
    out->f = NULL;
    return status;
}
