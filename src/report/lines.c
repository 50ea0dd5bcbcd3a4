/* metrics.jsonl. Invariant: the file is a sequence of whole lines, but for a torn last one after a crash, which the
 * next opening cuts off. A line is composed in memory and reaches the file in one write; if that fails half way the
 * file is cut back.
 */
#include "report/internal.h"

#include "base/file.h"
#include "base/lock.h"

#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

/* Walk the whole lines from the start; *keep_p: bytes up to the first that is torn, no JSON object, or beyond step. */
static ebb_status_t scan(FILE *in, int64_t step, int64_t *keep_p)
{
    char *line = NULL;
    size_t room = 0;
    ssize_t n;
    *keep_p = 0;
    while ((n = getline(&line, &room, in)) > 0) {
        json_t *json = line[n - 1] == '\n' ? json_loadb(line, (size_t)n, 0, NULL) : NULL;
        const json_t *at = json_object_get(json, "step");
        bool keep = json_is_object(json) && !(json_is_integer(at) && json_integer_value(at) > step);
        json_decref(json);
        if (!keep)
            break;
        *keep_p += n;
    }
    free(line); /* getline's */
    return ferror(in) ? EBB_EIO : EBB_OK;
}

static ebb_status_t cut(ebb_record_t *r, int64_t step)
{
    int64_t keep, bytes = ebb_file_size(r->lines_path);
    FILE *in = fopen(r->lines_path, "re");
    if (!in)
        return ebb_file_error(r->lines_path, "open");
    ebb_status_t status = scan(in, step, &keep);
    if (status != EBB_OK)
        status = ebb_file_error(r->lines_path, "read");
    fclose(in);
    EBB_TRY(status);
    if (keep == bytes)
        return EBB_OK;
    EBB_DEBUG("report", "%s: dropping %" PRId64 " bytes", r->lines_path, bytes - keep);
    if (ftruncate(r->lines_fd, keep) != 0 || fsync(r->lines_fd) != 0)
        return ebb_file_error(r->lines_path, "cut");
    return EBB_OK;
}

ebb_status_t ebb_lines_open(ebb_record_t *r)
{
    EBB_TRY(ebb_file_open(r->lines_path, O_RDWR | O_CREAT | O_APPEND, 0666, &r->lines_fd));
    return cut(r, INT64_MAX);
}

ebb_status_t ebb_record_rewind(ebb_record_t *record, int64_t step)
{
    return record ? cut(record, step) : EBB_OK;
}

static void add_string(ebb_text_t *t, const char *s)
{
    ebb_text_append(t, "\"", 1);
    for (; *s; s++) {
        if (*s == '"' || *s == '\\')
            ebb_text_add(t, "\\%c", *s);
        else if ((unsigned char)*s < 0x20)
            ebb_text_add(t, "\\u%04x", *s);
        else
            ebb_text_append(t, s, 1);
    }
    ebb_text_append(t, "\"", 1);
}

static void add_key(ebb_record_t *r, const char *key)
{
    ebb_text_append(&r->line, r->line.n > 0 ? "," : "{", 1);
    add_string(&r->line, key);
    ebb_text_append(&r->line, ":", 1);
}

void ebb_record_line(ebb_record_t *record, const char *kind)
{
    if (!record)
        return;
    record->line.n = 0;
    record->line.failed = false;
    ebb_record_line_string(record, "kind", kind);
}

void ebb_record_line_i64(ebb_record_t *record, const char *key, int64_t value)
{
    if (!record)
        return;
    add_key(record, key);
    ebb_text_add(&record->line, "%" PRId64, value);
}

void ebb_record_line_f64(ebb_record_t *record, const char *key, double value)
{
    char text[40] = "null";
    if (!record)
        return;
    for (int digits = 6; isfinite(value) && digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    add_key(record, key);
    ebb_text_append(&record->line, text, strlen(text));
}

void ebb_record_line_string(ebb_record_t *record, const char *key, const char *value)
{
    if (!record)
        return;
    add_key(record, key);
    add_string(&record->line, value);
}

/* Where the folder, or the file, was removed under the run: begin both again. */
static ebb_status_t restore_folder(ebb_record_t *r)
{
    struct stat st;
    if (r->lines_fd >= 0 && (fstat(r->lines_fd, &st) != 0 || st.st_nlink > 0))
        return EBB_OK;
    if (r->lines_fd >= 0) {
        EBB_WARN("report", "%s was removed while the run goes on: begun anew, earlier lines are lost", r->lines_path);
        close(r->lines_fd);
        r->lines_fd = -1;
    }
    if (r->lock_fd >= 0)
        close(r->lock_fd);
    r->lock_fd = -1;
    EBB_TRY(ebb_file_mkdirs(r->folder));
    EBB_TRY(ebb_folder_lock(r->folder, "lock", &r->lock_fd));
    EBB_TRY(ebb_record_write(r));
    return ebb_lines_open(r);
}

ebb_status_t ebb_record_line_end(ebb_record_t *record)
{
    if (!record)
        return EBB_OK;
    EBB_TRY(restore_folder(record));
    ebb_text_append(&record->line, "}\n", 2);
    if (record->line.failed)
        return EBB_FAIL(EBB_ENOMEM, "out of memory for a line of %s", record->lines_path);
    off_t end = lseek(record->lines_fd, 0, SEEK_END);
    ssize_t n = write(record->lines_fd, record->line.s, record->line.n);
    if (n == (ssize_t)record->line.n)
        return EBB_OK;
    ebb_status_t status = n < 0 ? ebb_file_error(record->lines_path, "write")
                                : EBB_FAIL(EBB_ENOSPC, "%s: cannot write: disk full", record->lines_path);
    if (end >= 0 && ftruncate(record->lines_fd, end) != 0)
        EBB_WARN("report", "%s: a torn last line stays", record->lines_path);
    return status;
}
