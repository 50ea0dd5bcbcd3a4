/* NumPy's .npy files: the magic, a version, and a Python dictionary with descr, fortran_order and shape. The first
 * dimension counts rows. Format: NEP 1.
 */
#include "shard/import/array.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_HEADER = 32 * 1024 };

/* The text after 'key': within the dictionary. */
static const char *find_key(const char *dict, const char *key)
{
    char quoted[32];
    snprintf(quoted, sizeof quoted, "'%s'", key);
    const char *p = strstr(dict, quoted);
    if (!p)
        return NULL;
    p += strlen(quoted);
    p += strspn(p, " \t");
    if (*p != ':')
        return NULL;
    p++;
    return p + strspn(p, " \t");
}

static ebb_status_t damaged(const char *path, const char *what)
{
    return EBB_FAIL(EBB_EDATA, "%s: the .npy header is damaged (%s); save the array again", path, what);
}

static ebb_status_t parse_descr(const char *p, const char *path, ebb_array_header_t *h)
{
    if (!p || *p != '\'')
        return damaged(path, "descr");
    char order = p[1], kind = order ? p[2] : 0;
    int bytes = kind ? atoi(p + 3) : 0;
    h->kind = kind == 'f' ? EBB_FLOAT : kind == 'i' ? EBB_SIGNED : EBB_UNSIGNED;
    h->bytes = bytes;
    h->big_endian = order == '>';
    bool integer = (kind == 'i' || kind == 'u') && (bytes == 1 || bytes == 2 || bytes == 4 || bytes == 8);
    bool real = kind == 'f' && (bytes == 2 || bytes == 4 || bytes == 8), logical = kind == 'b' && bytes == 1;
    if (!strchr("<>|=", order) || !(integer || real || logical))
        return EBB_FAIL(EBB_EDATA, "%s: elements of type %.12s; integers, floats and booleans are read", path, p);
    return EBB_OK;
}

static ebb_status_t parse_shape(const char *p, const char *path, ebb_array_header_t *h)
{
    if (!p || *p++ != '(')
        return damaged(path, "shape");
    for (p += strspn(p, " "); *p != ')'; p += strspn(p, ", ")) {
        char *end;
        long long n = strtoll(p, &end, 10);
        if (end == p || n < 0 || h->n_dims == EBB_ARRAY_DIMS)
            return damaged(path, "shape");
        h->dim[h->n_dims++] = n;
        p = end;
        if (*p != ',' && *p != ')')
            return damaged(path, "shape");
    }
    return h->n_dims > 0 ? ebb_array_check(h, path)
                         : EBB_FAIL(EBB_EDATA, "%s: a single number, not an array of rows", path);
}

ebb_status_t ebb_npy_header(const void *head, int64_t n, const char *path, ebb_array_header_t *h)
{
    const unsigned char *p = head;
    char dict[MAX_HEADER + 1];
    *h = (ebb_array_header_t){0};
    if (n < 10 || memcmp(p, "\x93NUMPY", 6) != 0)
        return EBB_FAIL(EBB_EDATA, "%s: is no .npy file", path);
    bool wide = p[6] >= 2;
    int64_t begin = wide ? 12 : 10, length = p[8] | p[9] << 8;
    if (wide && n >= 12)
        length |= (int64_t)p[10] << 16 | (int64_t)p[11] << 24;
    if (p[6] < 1 || p[6] > 3 || length > MAX_HEADER)
        return damaged(path, "version or length");
    if (n < begin + length)
        return EBB_FAIL(EBB_EDATA, "%s: truncated in its header; save or get it again", path);
    memcpy(dict, p + begin, (size_t)length);
    dict[length] = 0;
    h->begin = begin + length;
    const char *fortran = find_key(dict, "fortran_order");
    if (!fortran || (strncmp(fortran, "True", 4) != 0 && strncmp(fortran, "False", 5) != 0))
        return damaged(path, "fortran_order");
    h->fortran = *fortran == 'T';
    EBB_TRY(parse_descr(find_key(dict, "descr"), path, h));
    return parse_shape(find_key(dict, "shape"), path, h);
}

static int npy_probe(const char *head, int64_t n, const char *path)
{
    return n >= 6 && memcmp(head, "\x93NUMPY", 6) == 0 ? 100 : 0;
}

static ebb_status_t npy_open(ebb_importer_t *importer, ebb_source_t *source)
{
    if (importer->options->target && importer->n_sources > 1)
        return EBB_FAIL(EBB_EUSAGE, "--target names one file, but there are %d sources", importer->n_sources);
    return ebb_array_open(importer, source, ebb_npy_header, importer->options->target);
}

const ebb_format_t ebb_format_npy = {
    .name = "npy",
    .what = "a NumPy array",
    .targets = "the .npy file that holds them",
    .dense = true,
    .probe = npy_probe,
    .open = npy_open,
    .close = ebb_array_close,
    .parse = ebb_array_parse,
};
