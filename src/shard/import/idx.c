/* IDX files (MNIST): a big-endian header of type and dimensions, then the array; the first dimension counts rows, the
 * others make up the columns. Targets come from a one-dimensional IDX file beside it: --target, or the usual name with
 * "labels" for "images".
 */
#include "shard/import/array.h"
#include "base/alloc.h"
#include "base/file.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

static uint32_t big32(const unsigned char *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

ebb_status_t ebb_idx_header(const void *head, int64_t n, const char *path, ebb_array_header_t *h)
{
    static const struct {
        unsigned char code;
        ebb_number_kind_t kind;
        int bytes;
    } types[] = {{0x08, EBB_UNSIGNED, 1}, {0x09, EBB_SIGNED, 1}, {0x0B, EBB_SIGNED, 2},
                 {0x0C, EBB_SIGNED, 4},   {0x0D, EBB_FLOAT, 4},  {0x0E, EBB_FLOAT, 8}};
    const unsigned char *p = head;
    *h = (ebb_array_header_t){.big_endian = true};
    if (n < 4 || p[0] != 0 || p[1] != 0)
        return EBB_FAIL(EBB_EDATA, "%s: is no IDX file", path);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (types[i].code == p[2]) {
            h->kind = types[i].kind;
            h->bytes = types[i].bytes;
        }
    if (h->bytes == 0)
        return EBB_FAIL(EBB_EDATA, "%s: unknown IDX type 0x%02x", path, p[2]);
    h->n_dims = p[3];
    if (h->n_dims < 1 || h->n_dims > EBB_ARRAY_DIMS)
        return EBB_FAIL(EBB_EDATA, "%s: %d dimensions; from 1 to %d are read", path, h->n_dims, EBB_ARRAY_DIMS);
    h->begin = 4 + 4 * h->n_dims;
    if (n < h->begin)
        return EBB_FAIL(EBB_EDATA, "%s: truncated: the header ends after %lld bytes; get the file again", path,
                        (long long)n);
    for (int i = 0; i < h->n_dims; i++)
        h->dim[i] = big32(p + 4 + 4 * i);
    return ebb_array_check(h, path);
}

static int idx_probe(const char *head, int64_t n, const char *path)
{
    ebb_array_header_t h;
    if (ebb_idx_header(head, n, path, &h) == EBB_OK)
        return 80;
    ebb_error_clear();
    return 0;
}

static bool replace(char *path, size_t size, const char *from, const char *to)
{
    char *at = strstr(path, from), rest[PATH_MAX];
    if (!at)
        return false;
    snprintf(rest, sizeof rest, "%s", at + strlen(from));
    return snprintf(at, size - (size_t)(at - path), "%s%s", to, rest) < (int)(size - (size_t)(at - path));
}

/* "train-images-idx3-ubyte.gz" has its labels in "train-labels-idx1-ubyte", with or without .gz. */
static bool sibling(const char *path, char *labels, size_t size)
{
    const char *slash = strrchr(path, '/');
    size_t folder = slash ? (size_t)(slash - path) + 1 : 0;
    if (snprintf(labels, size, "%s", path) >= (int)size || !replace(labels + folder, size - folder, "images", "labels"))
        return false;
    replace(labels + folder, size - folder, "idx3", "idx1");
    if (ebb_file_exists(labels))
        return true;
    size_t n = strlen(labels);
    if (n > 3 && strcmp(labels + n - 3, ".gz") == 0)
        labels[n - 3] = 0;
    else if (n + 4 < size)
        memcpy(labels + n, ".gz", 4);
    return ebb_file_exists(labels);
}

static ebb_status_t idx_open(ebb_importer_t *importer, ebb_source_t *source)
{
    char labels[PATH_MAX];
    const char *target = importer->options->target;
    if (target && importer->n_sources > 1)
        return EBB_FAIL(EBB_EUSAGE, "--target names one file, but there are %d sources", importer->n_sources);
    if (!target && sibling(source->path, labels, sizeof labels))
        target = labels;
    return ebb_array_open(importer, source, ebb_idx_header, target);
}

const ebb_format_t ebb_format_idx = {
    .name = "idx",
    .what = "an IDX array",
    .targets = "the file of the labels",
    .dense = true,
    .probe = idx_probe,
    .open = idx_open,
    .close = ebb_array_close,
    .parse = ebb_array_parse,
};
