/* A file that a command writes where its user said: a regular file is replaced by the whole of the new one or not at
 * all, as by ebb_file_commit; a device, a pipe or a terminal is written as it stands, never renamed over; "-" or NULL
 * is standard output. */
#ifndef EBB_BASE_OUTPUT_H
#define EBB_BASE_OUTPUT_H

#include <ebb/base.h>
#include <limits.h>
#include <stdio.h>

typedef struct ebb_output {
    FILE *f; /* NULL unless open */
    char path[PATH_MAX],
        tmp[PATH_MAX]; /* as named in errors; the name until it is whole, "" where it is written as it stands */
} ebb_output_t;

/* Would `path` be written as it stands, without going back to its beginning? */
bool ebb_output_streams(const char *path);
ebb_status_t ebb_output_open(const char *path, ebb_output_t *out) EBB_MUST_CHECK;
/* Closes it and, if `status` is EBB_OK, puts it in place; returns `status` or what failed here. Not opened: just
 * `status`. */
ebb_status_t ebb_output_close(ebb_output_t *out, ebb_status_t status);

#endif
