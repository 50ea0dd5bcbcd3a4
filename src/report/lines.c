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
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

/* A line to be kept when the run goes on from `step`; *last: so are all before it. Only lines of kind "step" come in
 * the order of their steps: a checkpoint, for one, is told when it is written, among later steps. */
static bool keeps(const char *text, int64_t n, int64_t step, bool *last)
{
    json_t *line = text[n - 1] == '\n' ? json_loadb(text, (size_t)n, 0, NULL) : NULL;
    const json_t *at = json_object_get(line, "step");
    const char *kind = json_string_value(json_object_get(line, "kind"));
    bool keep = json_is_object(line) && !(json_is_integer(at) && json_integer_value(at) > step);
    *last = keep && (step == INT64_MAX || (kind && strcmp(kind, "step") == 0));
    json_decref(line);
    return keep;
}

/* From the end, since files are long: how many bytes to keep. */
static int64_t bytes_to_keep(const char *text, int64_t bytes, int64_t step)
{
    int64_t keep = bytes;
    bool last = false;
    for (int64_t end = bytes, begin; end > 0 && !last; end = begin) {
        const char *before = memrchr(text, '\n', (size_t)end - 1);
        begin = before ? before - text + 1 : 0;
        if (!keeps(text + begin, end - begin, step, &last))
            keep = begin;
    }
    return keep;
}

/* Drop what is torn at the end, and what lies beyond step. */
static ebb_status_t cut(ebb_record_t *r, int64_t step)
{
    int64_t bytes = ebb_file_size(r->lines_path);
    if (bytes <= 0)
        return EBB_OK;
    char *text = mmap(NULL, (size_t)bytes, PROT_READ, MAP_PRIVATE, r->lines_fd, 0);
    if (text == MAP_FAILED)
        return ebb_file_error(r->lines_path, "read");
    int64_t keep = bytes_to_keep(text, bytes, step);
    munmap(text, (size_t)bytes);
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
