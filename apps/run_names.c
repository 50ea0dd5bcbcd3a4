/* How a run is named on the command line. */
#include "commands.h"
#include "base/file.h"

#include <stdio.h>
#include <string.h>

const char *ebb_run_named(const char *name, char path[PATH_MAX])
{
    if (strchr(name, '/') || ebb_file_exists(name))
        return name;
    return snprintf(path, PATH_MAX, "runs/%s", name) < PATH_MAX && ebb_file_exists(path) ? path : name;
}
