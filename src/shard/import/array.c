/* Arrays of numbers: rows of fixed size, read as dense float32. Targets lie in a second array with as many rows: one
 * column gives labels or reals, several give reals. A .npy in Fortran order is gathered column by column and must not
 * be compressed.
 */
#include "shard/import/array.h"
#include "base/alloc.h"

#include <math.h>
#include <string.h>

enum { HEAD_BYTES = 64 * 1024 };

typedef struct arrays {
    ebb_array_header_t x, y;
    bool has_y;
} arrays_t;

ebb_status_t ebb_array_check(ebb_array_header_t *h, const char *path)
{
    int64_t cols = 1;
    for (int i = 1; i < h->n_dims; i++) {
        if (h->dim[i] < 1 || cols > INT32_MAX / h->dim[i])
            return EBB_FAIL(EBB_EDATA, "%s: rows of %s elements", path, h->dim[i] < 1 ? "no" : "2^31 or more");
        cols *= h->dim[i];
    }
    if (h->n_dims < 1 || h->dim[0] < 1)
        return EBB_FAIL(EBB_EDATA, "%s: the array has no rows", path);
    if (h->dim[0] > INT64_MAX / 16 / cols)
        return EBB_FAIL(EBB_EDATA, "%s: %lld rows cannot be: the header is damaged", path, (long long)h->dim[0]);
    h->rows = h->dim[0];
    h->cols = cols;
    return EBB_OK;
}

static uint64_t load(const unsigned char *p, const ebb_array_header_t *h)
{
    uint64_t u = 0;
    for (int i = 0; i < h->bytes; i++)
        u = u << 8 | p[h->big_endian ? i : h->bytes - 1 - i];
    return u;
}

static double half(uint64_t u)
{
    int e = (int)(u >> 10 & 31);
    double m = (double)(u & 1023), sign = u >> 15 ? -1 : 1;
    if (e == 31)
        return m != 0 ? NAN : sign * INFINITY;
    return sign * (e == 0 ? ldexp(m, -24) : ldexp(1024 + m, e - 25));
}

static double element(const unsigned char *p, const ebb_array_header_t *h)
{
    uint64_t u = load(p, h);
    if (h->kind == EBB_UNSIGNED)
        return (double)u;
    if (h->kind == EBB_SIGNED) {
        int shift = 64 - 8 * h->bytes;
        return (double)((int64_t)(u << shift) >> shift);
    }
    if (h->bytes == 2)
        return half(u);
    if (h->bytes == 4) {
        uint32_t v = (uint32_t)u;
        float f;
        memcpy(&f, &v, 4);
        return f;
    }
    double d;
    memcpy(&d, &u, 8);
    return d;
}

static ebb_status_t read_header(ebb_stream_t *stream, const char *path, ebb_array_parse_header_t parse,
                                ebb_array_header_t *h)
{
    char *head;
    int64_t n;
    EBB_TRY(ebb_alloc("array header", HEAD_BYTES, (void **)&head));
    ebb_status_t status = ebb_stream_read(stream, 0, head, HEAD_BYTES, &n);
    if (status == EBB_OK)
        status = parse(head, n, path, h);
    ebb_free(head);
    return status;
}

/* A plain file must have the length its header says; a compressed one shows when it is read. */
static ebb_status_t check_length(const ebb_stream_t *stream, const char *path, const ebb_array_header_t *h)
{
    int64_t need = h->begin + h->rows * h->cols * h->bytes;
    if (ebb_stream_compressed(stream) || ebb_stream_file_bytes(stream) >= need)
        return EBB_OK;
    return EBB_FAIL(EBB_EDATA,
                    "%s: truncated: %lld rows of %lld elements take %lld bytes, the file has %lld; get it again", path,
                    (long long)h->rows, (long long)h->cols, (long long)need, (long long)ebb_stream_file_bytes(stream));
}

static ebb_status_t open_targets(ebb_source_t *source, arrays_t *a, ebb_array_parse_header_t parse, const char *target)
{
    EBB_TRY(ebb_stream_open(target, &source->side));
    EBB_TRY(read_header(source->side, target, parse, &a->y));
    EBB_TRY(check_length(source->side, target, &a->y));
    if (a->y.rows != a->x.rows)
        return EBB_FAIL(EBB_EDATA, "%s has %lld rows, but its targets in %s have %lld", source->path,
                        (long long)a->x.rows, target, (long long)a->y.rows);
    if (a->y.fortran && a->y.cols > 1)
        return EBB_FAIL(EBB_EDATA, "%s: targets of several columns in Fortran order; save them in C order", target);
    a->has_y = true;
    source->side_begin = a->y.begin;
    source->side_record_bytes = a->y.cols * a->y.bytes;
    return EBB_OK;
}

ebb_status_t ebb_array_open(ebb_importer_t *importer, ebb_source_t *source, ebb_array_parse_header_t parse,
                            const char *target)
{
    arrays_t *a;
    EBB_TRY(EBB_NEW("array source", &a));
    source->own = a;
    EBB_TRY(read_header(source->stream, source->path, parse, &a->x));
    EBB_TRY(check_length(source->stream, source->path, &a->x));
    a->x.fortran &= a->x.cols > 1;
    if (a->x.fortran && ebb_stream_compressed(source->stream))
        return EBB_FAIL(EBB_EDATA, "%s: a compressed array in Fortran order; decompress it first", source->path);
    source->rows = a->x.rows;
    source->begin = a->x.begin;
    source->record_bytes = a->x.fortran ? 0 : a->x.cols * a->x.bytes;
    source->row_cost = a->x.cols * (a->x.bytes > 4 ? a->x.bytes : 4);
    if (target)
        EBB_TRY(open_targets(source, a, parse, target));
    source->sequential = ebb_stream_compressed(source->stream) || (source->side && ebb_stream_compressed(source->side));
    return EBB_OK;
}

void ebb_array_close(ebb_importer_t *importer, ebb_source_t *source)
{
    ebb_free(source->own);
}

static ebb_status_t convert(const ebb_source_t *source, const ebb_piece_t *piece, const ebb_array_header_t *h,
                            const char *text, int64_t n, float *x)
{
    const unsigned char *p = (const unsigned char *)text;
    if (h->kind == EBB_UNSIGNED && h->bytes == 1) {
        for (int64_t i = 0; i < n; i++)
            x[i] = p[i];
        return EBB_OK;
    }
    for (int64_t i = 0; i < n; i++) {
        x[i] = (float)element(p + i * h->bytes, h);
        if (!isfinite(x[i]))
            return EBB_FAIL(EBB_EDATA,
                            "%s: row %lld, column %lld: the value is not finite or too large for a 32-bit float",
                            source->path, (long long)(piece->row0 + i / h->cols), (long long)(i % h->cols));
    }
    return EBB_OK;
}

/* Rows of an array whose columns lie one after the other. */
static ebb_status_t gather_columns(const ebb_source_t *source, ebb_piece_t *piece, const ebb_array_header_t *h,
                                   float *x)
{
    int64_t got, bytes = piece->rows * h->bytes;
    EBB_TRY(ebb_grow("column of an array", (void **)&piece->buffer, &piece->capacity, bytes, 1));
    for (int64_t c = 0; c < h->cols; c++) {
        EBB_TRY(ebb_stream_read(source->stream, h->begin + (c * h->rows + piece->row0) * h->bytes, piece->buffer, bytes,
                                &got));
        if (got < bytes)
            return EBB_FAIL(EBB_EDATA, "%s: truncated in column %lld; get the file again", source->path, (long long)c);
        for (int64_t r = 0; r < piece->rows; r++) {
            float v = (float)element((const unsigned char *)piece->buffer + r * h->bytes, h);
            if (!isfinite(v))
                return EBB_FAIL(EBB_EDATA,
                                "%s: row %lld, column %lld: the value is not finite or too large for a 32-bit float",
                                source->path, (long long)(piece->row0 + r), (long long)c);
            x[r * h->cols + c] = v;
        }
    }
    return EBB_OK;
}

static ebb_status_t put_targets(const ebb_source_t *source, const ebb_piece_t *piece, const arrays_t *a, ebb_block_t *b)
{
    const unsigned char *p = (const unsigned char *)piece->side;
    for (int64_t r = 0; r < piece->rows; r++)
        for (int64_t c = 0; c < a->y.cols; c++) {
            double v = element(p + (r * a->y.cols + c) * a->y.bytes, &a->y);
            float y = (float)v;
            if (!isfinite(y))
                return EBB_FAIL(EBB_EDATA, "%s: row %lld: the target is not finite", source->path,
                                (long long)(piece->row0 + r));
            if (a->y.cols == 1)
                EBB_TRY(ebb_block_target_number(b, v));
            else
                EBB_TRY(ebb_block_target_reals(b, &y, 1));
        }
    b->target_cols = a->y.cols > 1 ? a->y.cols : 0;
    return EBB_OK;
}

ebb_status_t ebb_array_parse(const ebb_importer_t *importer, const ebb_source_t *source, ebb_piece_t *piece,
                             ebb_block_t *b)
{
    const arrays_t *a = source->own;
    if (b->pass == EBB_PASS_WRITE && b->cols != a->x.cols)
        return EBB_FAIL(EBB_EDATA, "%s: rows have %lld columns, but %lld are expected", source->path,
                        (long long)a->x.cols, (long long)b->cols);
    b->cols = a->x.cols;
    EBB_TRY(ebb_block_reserve_dense(b, piece->rows));
    if (a->x.fortran)
        EBB_TRY(gather_columns(source, piece, &a->x, b->x));
    else
        EBB_TRY(convert(source, piece, &a->x, piece->text, piece->rows * a->x.cols, b->x));
    b->rows = piece->rows;
    return a->has_y ? put_targets(source, piece, a, b) : EBB_OK;
}
