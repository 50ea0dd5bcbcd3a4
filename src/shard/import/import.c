/* The list of formats, and the guess from content: every format is asked, the surest wins. */
#include "shard/import/import.h"
#include "base/alloc.h"
#include "base/text.h"

#include <string.h>

enum { HEAD_BYTES = 256 * 1024 };

const ebb_format_t *const ebb_formats[] = {
    &ebb_format_svmlight,
    &ebb_format_csv,
    &ebb_format_tsv,
    &ebb_format_deb822,
    &ebb_format_idx,
    &ebb_format_npy,
    &ebb_format_hdf5,
    &ebb_format_h5ad,
    &ebb_format_10x,
    &ebb_format_items,
    NULL,
};

ebb_status_t ebb_format_find(const char *name, const ebb_format_t **format_p)
{
    const char *names[32] = {0};
    ebb_text_t list = {0};
    if (strcmp(name, "libsvm") == 0)
        name = "svmlight";
    if (strcmp(name, "lines") == 0)
        name = "items";
    for (int i = 0; ebb_formats[i]; i++) {
        names[i] = ebb_formats[i]->name;
        ebb_text_add(&list, "%s%s", i ? ", " : "", names[i]);
        if (strcmp(name, names[i]) == 0) {
            *format_p = ebb_formats[i];
            ebb_text_free(&list);
            return EBB_OK;
        }
    }
    const char *nearest = ebb_text_nearest(name, names);
    ebb_status_t status =
        EBB_FAIL(EBB_EUSAGE, "unknown format \"%s\"%s%s%s; there are %s", name, nearest ? ", did you mean \"" : "",
                 nearest ? nearest : "", nearest ? "\"?" : "", list.s ? list.s : "");
    ebb_text_free(&list);
    return status;
}

static ebb_status_t guess(const char *path, ebb_stream_t *stream, int64_t skip_lines, char *head,
                          const ebb_format_t **format_p)
{
    int64_t n;
    int best = 0;
    EBB_TRY(ebb_stream_read(stream, 0, head, HEAD_BYTES, &n));
    for (char *end; skip_lines > 0 && (end = memchr(head, '\n', (size_t)n)); skip_lines--) {
        n -= end + 1 - head;
        memmove(head, end + 1, (size_t)n + 1);
    }
    for (int i = 0; ebb_formats[i]; i++) {
        int sure = ebb_formats[i]->probe(head, n, path);
        if (sure > best) {
            best = sure;
            *format_p = ebb_formats[i];
        }
    }
    if (best > 0)
        return EBB_OK;
    ebb_text_t list = {0};
    for (int i = 0; ebb_formats[i]; i++)
        ebb_text_add(&list, "%s%s", i ? ", " : "", ebb_formats[i]->name);
    ebb_status_t status =
        EBB_FAIL(EBB_EDATA, "%s: does not look like any format known here; if it is one, name it with --from: %s", path,
                 list.s ? list.s : "");
    ebb_text_free(&list);
    return status;
}

ebb_status_t ebb_format_guess(const char *path, int64_t skip_lines, const ebb_format_t **format_p)
{
    ebb_stream_t *stream;
    char *head = NULL;
    *format_p = NULL;
    EBB_TRY(ebb_stream_open(path, &stream));
    ebb_status_t status = ebb_alloc("head of a source", HEAD_BYTES + 1, (void **)&head);
    if (status == EBB_OK)
        status = guess(path, stream, skip_lines, head, format_p);
    ebb_free(head);
    ebb_stream_close(stream);
    return status;
}

int64_t ebb_boundary_line(const char *text, int64_t n, int64_t pos, bool quoted)
{
    if (pos == 0 || (pos <= n && text[pos - 1] == '\n'))
        return pos;
    const char *end = pos < n ? memchr(text + pos, '\n', (size_t)(n - pos)) : NULL;
    return end ? end - text + 1 : -1;
}
