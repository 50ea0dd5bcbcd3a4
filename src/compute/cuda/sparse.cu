/* Sparse input: products with tables and their gradients. A gradient first groups the non-zeros by column (a stable
 * radix sort, so that a column's entries stay in row order), then one thread adds up one float of a column's row in
 * that order: no atomics, the same bits each time, and those of the CPU. */
#include "compute/cuda/math.h"

#include <string.h>

/* ---- products ---- */

/* A thread takes one row and WIDE neighbouring columns, which it reads at once. */
template <int WIDE>
KERNEL product_kernel(int64_t n, int64_t per_row, const int64_t *rowptr, const int32_t *col, const float *val,
                      int64_t H, const float *W, int64_t ldw, const float *bias, ebb_act_t act, float *Y)
{
    EACH(i, n)
    {
        int64_t row = i / per_row, h = i % per_row * WIDE, end = rowptr[row + 1];
        floats<WIDE> sum = {};
        if (bias)
            sum = *(const floats<WIDE> *)(bias + h);
        UNROLL
        for (int64_t j = rowptr[row]; j < end; j++) {
            floats<WIDE> w = *(const floats<WIDE> *)(W + col[j] * ldw + h);
            for (int l = 0; l < WIDE; l++)
                sum.v[l] = fmaf(val[j], w.v[l], sum.v[l]);
        }
        for (int l = 0; l < WIDE; l++)
            sum.v[l] = act_of(act, sum.v[l]);
        *(floats<WIDE> *)(Y + row * H + h) = sum;
    }
}

ebb_status_t ebb_cuda_csr_gemm(ebb_exec_t *x, const ebb_csr_t *X, int64_t H, const float *W, int64_t ldw,
                               const float *bias, ebb_act_t act, float *Y)
{
    if (H < 1 || ldw < H)
        return EBB_FAIL(EBB_EINVAL, "csr_gemm to %lld columns with leading dimension %lld", (long long)H,
                        (long long)ldw);
    EBB_TRY(ebb_cuda_use(x));
    if (H % 4 == 0 && ldw % 4 == 0 && are_aligned(W, bias, Y))
        LAUNCH(product_kernel<4>, X->rows * (H / 4), x, H / 4, X->rowptr, X->col, X->val, H, W, ldw, bias, act, Y);
    else
        LAUNCH(product_kernel<1>, X->rows * H, x, H, X->rowptr, X->col, X->val, H, W, ldw, bias, act, Y);
    LAUNCHED("sparse product");
    return EBB_OK;
}

/* ---- grouping by column ---- */

#define NO_COLUMN 0x7fffffffu /* above all columns: an entry that is left out */

enum {
    COUNTS = 2,            /* numbers before the columns that they count */
    MOST_BYTES = 64 << 20, /* of a gradient for as many rows as there can be */
};

/* Field of a column: the last f with begin[f] <= col, or -1 outside all fields. */
DEVICE int field_of(int32_t col, int n_fields, const int32_t *begin)
{
    int lo = 0, hi = n_fields;
    if (col < begin[0] || col >= begin[n_fields])
        return -1;
    while (hi - lo > 1) {
        int mid = lo + (hi - lo) / 2;
        if (col >= begin[mid])
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}

/* Per non-zero: its column, its place, and the row of dY (seen as (rows * n_fields, dim)) that it meets. */
KERNEL entries_kernel(int64_t n, int64_t rows, const int64_t *rowptr, const int32_t *col, int n_fields,
                      const int32_t *field_begin, uint32_t *key, int32_t *place, int32_t *source)
{
    int64_t b = rowptr[0];
    EACH(i, n)
    {
        int64_t row = interval_of(b + i, rows, rowptr);
        int field = n_fields > 0 ? field_of(col[b + i], n_fields, field_begin) : 0;
        key[i] = field < 0 ? NO_COLUMN : (uint32_t)col[b + i];
        place[i] = (int32_t)i;
        source[i] = (int32_t)(n_fields > 0 ? row * n_fields + field : row);
    }
}

KERNEL heads_kernel(int64_t n, const uint32_t *key, int32_t *head)
{
    EACH(i, n)
    {
        head[i] = key[i] != NO_COLUMN && (i == 0 || key[i] != key[i - 1]);
    }
}

/* rank: columns met up to and with entry i. count: columns, then entries that count; both 0 before. */
KERNEL place_kernel(int64_t n, const int64_t *rowptr, const uint32_t *key, const int32_t *place, const int32_t *source,
                    const float *val, const int32_t *rank, int32_t *idx, int64_t *begin, ebb_term_t *term,
                    int64_t *count)
{
    int64_t b = rowptr[0];
    EACH(i, n)
    {
        bool counts_in = key[i] != NO_COLUMN;
        if (counts_in) {
            int32_t k = rank[i] - 1;
            term[i].source = source[place[i]];
            term[i].val = val[b + place[i]];
            if (i == 0 || key[i] != key[i - 1]) {
                idx[k] = (int32_t)key[i];
                begin[k] = i;
            }
            if (i == n - 1 || key[i + 1] == NO_COLUMN) {
                begin[k + 1] = i + 1;
                count[0] = k + 1;
                count[1] = i + 1;
            }
        }
    }
}

static int bits_for(int64_t columns)
{
    int bits = 1;
    while (bits < 31 && ((int64_t)1 << bits) < columns)
        bits++;
    return bits;
}

/* How many entries a view has; the device is asked only where the host does not know. */
static ebb_status_t count_entries(ebb_exec_t *x, const ebb_csr_t *X, int64_t *n_p)
{
    *n_p = X->rows > 0 ? X->nnz : 0;
    if (X->rows > 0 && X->nnz < 1) {
        EBB_TRY(ebb_cuda_use(x));
        EBB_TRY(ebb_cuda_download(x, x->told, X->rowptr, sizeof *x->told));
        EBB_TRY(ebb_cuda_tell(x, 1, 1, X->rowptr + X->rows));
        *n_p = x->told[1] - x->told[0];
    }
    if (*n_p > INT32_MAX)
        return EBB_FAIL(EBB_EINVAL, "%lld non-zeros in one piece of a batch: at most 2^31 - 1; use a smaller batch",
                        (long long)*n_p);
    return EBB_OK;
}

/* For counts and n columns. */
static size_t columns_bytes(int64_t n)
{
    return COUNTS * sizeof(int64_t) + (size_t)n * sizeof(int32_t);
}

static ebb_status_t make_room(ebb_exec_t *x, int64_t n)
{
    struct {
        room_t *room;
        size_t element;
    } need[] = {{&x->key, 4},    {&x->key_sorted, 4}, {&x->place, 4}, {&x->place_sorted, 4},
                {&x->source, 4}, {&x->head, 8},       {&x->begin, 8}, {&x->term, sizeof(ebb_term_t)}};
    for (auto &r : need)
        EBB_TRY(ebb_cuda_room(x, r.room, n + 1, r.element, "grouping by column"));
    return ebb_cuda_room(x, &x->idx, (int64_t)columns_bytes(n), 1, "grouping by column");
}

/* field_begin: (n_fields + 1) on the host; n_fields 0: plain rows. */
static ebb_status_t group(ebb_exec_t *x, const ebb_csr_t *X, int n_fields, const int32_t *field_begin, grouped_t *g)
{
    int64_t n;
    memset(g, 0, sizeof *g);
    EBB_TRY(ebb_cuda_not_noted(x, "a gradient of sparse input"));
    if (n_fields < 0 || (n_fields > 0 && X->rows > INT32_MAX / n_fields))
        return EBB_FAIL(EBB_EINVAL, "embedding of %d fields for %lld rows", n_fields, (long long)X->rows);
    EBB_TRY(count_entries(x, X, &n));
    EBB_TRY(make_room(x, n));
    EBB_TRY(ebb_cuda_room(x, &x->fields, n_fields + 1, sizeof *field_begin, "fields"));
    int32_t *fields = (int32_t *)x->fields.ptr, *place = (int32_t *)x->place.ptr;
    int32_t *place_sorted = (int32_t *)x->place_sorted.ptr, *source = (int32_t *)x->source.ptr;
    uint32_t *key = (uint32_t *)x->key.ptr, *key_sorted = (uint32_t *)x->key_sorted.ptr;
    int32_t *head = (int32_t *)x->head.ptr, *rank = head + n;
    g->most = n < X->cols ? n : X->cols;
    g->count = (int64_t *)x->idx.ptr;
    g->idx = (int32_t *)(g->count + COUNTS);
    g->begin = (int64_t *)x->begin.ptr;
    g->term = (ebb_term_t *)x->term.ptr;
    EBB_TRY(ebb_cuda_zero(x, g->count, COUNTS * sizeof *g->count));
    if (n == 0)
        return ebb_cuda_zero(x, g->begin, sizeof *g->begin);
    if (n_fields > 0)
        EBB_TRY(ebb_cuda_upload(x, fields, field_begin, (size_t)(n_fields + 1) * sizeof *field_begin));
    LAUNCH(entries_kernel, n, x, X->rows, X->rowptr, X->col, n_fields, fields, key, place, source);
    EBB_TRY(ebb_cuda_sort(x, n, n_fields > 0 ? 31 : bits_for(X->cols), key, key_sorted, place, place_sorted));
    LAUNCH(heads_kernel, n, x, key_sorted, head);
    EBB_TRY(ebb_cuda_running_sum(x, n, head, rank));
    LAUNCH(place_kernel, n, x, X->rowptr, key_sorted, place_sorted, source, X->val, rank, g->idx, g->begin, g->term,
           g->count);
    LAUNCHED("grouping by column");
    return EBB_OK;
}

/* ---- sums over groups ---- */

/* Kernels are launched for as many rows as there can be, `each` threads a row; of these n, so many have a row. count
 * NULL: all. */
DEVICE int64_t with_rows(int64_t n, const int64_t *count, int64_t each)
{
    return count && *count * each < n ? *count * each : n;
}

/* Row k of out: the sum of its terms' rows of dY, from zero, or where `idx` is given from what row idx[k] of out holds.
 * A thread takes WIDE neighbouring columns, which it reads at once; per_row threads a row. */
template <int WIDE>
KERNEL sums_kernel(int64_t n, const int64_t *count, int64_t per_row, const int64_t *begin, const ebb_term_t *term,
                   const float *dY, const int32_t *idx, float *out)
{
    n = with_rows(n, count, per_row);
    EACH(i, n)
    {
        int64_t k = i / per_row, h = i % per_row * WIDE, H = per_row * WIDE, end = begin[k + 1];
        floats<WIDE> *to = (floats<WIDE> *)(out + (idx ? idx[k] : k) * H + h), sum = {};
        if (idx)
            sum = *to;
        UNROLL
        for (int64_t j = begin[k]; j < end; j++) {
            ebb_term_t t = term[j];
            floats<WIDE> d = *(const floats<WIDE> *)(dY + t.source * H + h);
            for (int l = 0; l < WIDE; l++)
                sum.v[l] = fmaf(t.val, d.v[l], sum.v[l]);
        }
        *to = sum;
    }
}

static ebb_status_t add_terms(ebb_exec_t *x, int64_t n, const int64_t *count, int64_t H, const int64_t *begin,
                              const ebb_term_t *term, const float *dY, const int32_t *idx, float *out, const char *what)
{
    if (H % 4 == 0 && are_aligned(dY, out))
        LAUNCH(sums_kernel<4>, n * (H / 4), x, count, H / 4, begin, term, dY, idx, out);
    else
        LAUNCH(sums_kernel<1>, n * H, x, count, H, begin, term, dY, idx, out);
    LAUNCHED(what);
    return EBB_OK;
}

/* The same for the table of a factorization machine: column 0 is w, the others v. */
KERNEL fm_sums_kernel(int64_t n, const int64_t *count, int64_t width, const int32_t *columns, const int64_t *begin,
                      const ebb_term_t *term, const float *T, const float *sums, const float *dout, bool dense,
                      float *out)
{
    n = with_rows(n, count, width);
    EACH(i, n)
    {
        int64_t k = i / width, h = i % width, column = columns[k];
        float *to = out + (dense ? column : k) * width + h;
        float sum = dense ? *to : 0.0f, t = T[column * width + h];
        for (int64_t j = begin[k]; j < begin[k + 1]; j++) {
            float v = term[j].val, d = dout[term[j].source];
            if (h == 0)
                sum = fmaf(d, v, sum);
            else
                sum = fmaf(d * v, fmaf(-t, v, sums[term[j].source * (width - 1) + h - 1]), sum);
        }
        *to = sum;
    }
}

KERNEL touch_kernel(int64_t n, const int64_t *count, const int32_t *idx, uint64_t *touched)
{
    n = with_rows(n, count, 1);
    EACH(k, n)
    {
        or_bits(touched + ((uint32_t)idx[k] >> 6), (uint64_t)1 << (idx[k] & 63));
    }
}

/* A slot's rows of `width` floats for what was grouped, columns filled in. There is memory for as many as there can be,
 * so that nobody has to wait for their number, unless that would be much. */
static ebb_status_t open_slot(ebb_exec_t *x, int slot, const grouped_t *g, int64_t width, ebb_rows_t *out)
{
    if (slot < 0 || slot >= SLOTS)
        return EBB_FAIL(EBB_EINVAL, "slot %d: a context has slots 0 to %d", slot, SLOTS - 1);
    slot_t *s = &x->slot[slot];
    bool wait = g->most * width * (int64_t)sizeof *out->val > MOST_BYTES;
    if (wait)
        EBB_TRY(ebb_cuda_tell(x, TOLD_COUNTS, 1, g->count));
    out->n = out->capacity = wait ? x->told[TOLD_COUNTS] : g->most;
    EBB_TRY(ebb_cuda_room(x, &s->idx, (int64_t)columns_bytes(out->n), 1, "row-sparse gradient"));
    EBB_TRY(ebb_cuda_room(x, &s->val, out->n * width, sizeof *out->val, "row-sparse gradient"));
    int64_t *count = (int64_t *)s->idx.ptr;
    out->width = width;
    out->idx = (int32_t *)(count + COUNTS);
    out->val = (float *)s->val.ptr;
    out->count = wait ? NULL : count;
    return ebb_cuda_copy(x, count, g->count, columns_bytes(out->n));
}

static ebb_status_t rows_gradient(ebb_exec_t *x, int slot, const grouped_t *g, int64_t H, const float *dY,
                                  ebb_rows_t *out)
{
    EBB_TRY(open_slot(x, slot, g, H, out));
    return add_terms(x, out->n, g->count, H, g->begin, g->term, dY, NULL, out->val, "row-sparse gradient");
}

static ebb_status_t dense_gradient(ebb_exec_t *x, const grouped_t *g, int64_t H, const float *dY, float *G,
                                   uint64_t *touched)
{
    LAUNCH(touch_kernel, g->most, x, g->count, g->idx, touched);
    return add_terms(x, g->most, g->count, H, g->begin, g->term, dY, g->idx, G, "gradient of a table");
}

ebb_status_t ebb_cuda_csr_grad(ebb_exec_t *x, int slot, const ebb_csr_t *X, int64_t H, const float *dY, ebb_rows_t *out)
{
    grouped_t g;
    EBB_TRY(group(x, X, 0, NULL, &g));
    return rows_gradient(x, slot, &g, H, dY, out);
}

ebb_status_t ebb_cuda_csr_grad_dense(ebb_exec_t *x, const ebb_csr_t *X, int64_t H, const float *dY, float *G,
                                     uint64_t *touched)
{
    grouped_t g;
    EBB_TRY(group(x, X, 0, NULL, &g));
    return dense_gradient(x, &g, H, dY, G, touched);
}

/* ---- terms ---- */

static ebb_status_t own_copy(ebb_exec_t *x, void **ptr, int64_t *capacity, const void *from, int64_t n, size_t element)
{
    if (n > *capacity) {
        EBB_TRY(ebb_cuda_exec_sync(x));
        ebb_cuda_free(x->device, *ptr);
        *ptr = NULL;
        *capacity = 0;
        CUDA_TRY(cudaMalloc(ptr, (size_t)n * element), "gradient terms");
        *capacity = n;
    }
    return ebb_cuda_copy(x, *ptr, from, (size_t)n * element);
}

ebb_status_t ebb_cuda_csr_terms(ebb_exec_t *x, const ebb_csr_t *X, int64_t H, const float *dY, ebb_terms_t *t)
{
    grouped_t g;
    t->n = 0;
    t->width = H;
    EBB_TRY(group(x, X, 0, NULL, &g));
    EBB_TRY(ebb_cuda_tell(x, TOLD_COUNTS, COUNTS, g.count));
    int64_t met = x->told[0], n = x->told[1];
    EBB_TRY(own_copy(x, (void **)&t->idx, &t->idx_capacity, g.idx, met, sizeof *t->idx));
    EBB_TRY(own_copy(x, (void **)&t->begin, &t->begin_capacity, g.begin, met + 1, sizeof *t->begin));
    EBB_TRY(own_copy(x, (void **)&t->term, &t->term_capacity, g.term, n, sizeof *t->term));
    EBB_TRY(own_copy(x, (void **)&t->dY, &t->dY_capacity, dY, X->rows * H, sizeof *t->dY));
    EBB_TRY(ebb_cuda_exec_sync(x)); /* any context may add them up now */
    t->n = met;
    return EBB_OK;
}

ebb_status_t ebb_cuda_terms_sum(ebb_exec_t *x, const ebb_terms_t *t, int64_t first, int64_t n, float *val)
{
    if (first < 0 || n < 0 || first + n > t->n)
        return EBB_FAIL(EBB_EINVAL, "rows %lld .. %lld of a gradient of %lld rows", (long long)first,
                        (long long)(first + n), (long long)t->n);
    EBB_TRY(ebb_cuda_use(x));
    return add_terms(x, n, NULL, t->width, t->begin + first, t->term, t->dY, NULL, val, "sum of gradient terms");
}

void ebb_cuda_terms_free(void *dev, ebb_terms_t *t)
{
    ebb_cuda_free(dev, t->idx);
    ebb_cuda_free(dev, t->begin);
    ebb_cuda_free(dev, t->term);
    ebb_cuda_free(dev, t->dY);
    memset(t, 0, sizeof *t);
}

/* ---- factorization machine ---- */

/* part (rows, 1 + k): the linear term, then s^2 - sum of squares of every factor; sums (rows, k) the s. */
KERNEL fm_parts_kernel(int64_t n, int64_t width, const int64_t *rowptr, const int32_t *col, const float *val,
                       const float *T, float *part, float *sums)
{
    EACH(i, n)
    {
        int64_t row = i / width, h = i % width;
        float s = 0.0f, q = 0.0f;
        for (int64_t j = rowptr[row]; j < rowptr[row + 1]; j++) {
            float v = val[j] * T[col[j] * width + h];
            s += v;
            q = fmaf(v, v, q);
        }
        part[i] = h == 0 ? s : fmaf(s, s, -q);
        if (h > 0)
            sums[row * (width - 1) + h - 1] = s;
    }
}

KERNEL fm_out_kernel(int64_t rows, int64_t width, const float *part, const float *bias, float *out)
{
    EACH(r, rows)
    {
        float term = 0.0f;
        for (int64_t h = 1; h < width; h++)
            term += part[r * width + h];
        out[r] = fmaf(0.5f, term, (bias ? bias[0] : 0.0f) + part[r * width]);
    }
}

ebb_status_t ebb_cuda_fm_forward(ebb_exec_t *x, const ebb_csr_t *X, int64_t k, const float *T, const float *bias,
                                 float *out, float *sums)
{
    int64_t width = 1 + k;
    EBB_TRY(ebb_cuda_room(x, &x->partial, X->rows * width, sizeof(float), "factorization machine"));
    float *part = (float *)x->partial.ptr;
    LAUNCH(fm_parts_kernel, X->rows * width, x, width, X->rowptr, X->col, X->val, T, part, sums);
    LAUNCH(fm_out_kernel, X->rows, x, width, part, bias, out);
    LAUNCHED("factorization machine");
    return EBB_OK;
}

ebb_status_t ebb_cuda_fm_grad(ebb_exec_t *x, int slot, const ebb_csr_t *X, int64_t k, const float *T, const float *sums,
                              const float *dout, ebb_rows_t *grad)
{
    grouped_t g;
    EBB_TRY(group(x, X, 0, NULL, &g));
    EBB_TRY(open_slot(x, slot, &g, 1 + k, grad));
    LAUNCH(fm_sums_kernel, grad->n * (1 + k), x, g.count, 1 + k, g.idx, g.begin, g.term, T, sums, dout, false,
           grad->val);
    LAUNCHED("gradient of a factorization machine");
    return EBB_OK;
}

ebb_status_t ebb_cuda_fm_grad_dense(ebb_exec_t *x, const ebb_csr_t *X, int64_t k, const float *T, const float *sums,
                                    const float *dout, float *G, uint64_t *touched)
{
    grouped_t g;
    EBB_TRY(group(x, X, 0, NULL, &g));
    LAUNCH(touch_kernel, g.most, x, g.count, g.idx, touched);
    LAUNCH(fm_sums_kernel, g.most * (1 + k), x, g.count, 1 + k, g.idx, g.begin, g.term, T, sums, dout, true, G);
    LAUNCHED("gradient of a factorization machine");
    return EBB_OK;
}

/* ---- embedding of fields ---- */

/* A thread adds all fields of one row, one float of each: nobody else writes there. */
KERNEL embed_kernel(int64_t n, int64_t dim, int n_fields, const int32_t *field_begin, const int64_t *rowptr,
                    const int32_t *col, const float *val, const float *T, float *Y)
{
    EACH(i, n)
    {
        int64_t row = i / dim, h = i % dim;
        float *y = Y + row * n_fields * dim + h;
        for (int64_t j = rowptr[row]; j < rowptr[row + 1]; j++) {
            int field = field_of(col[j], n_fields, field_begin);
            if (field >= 0)
                y[field * dim] = fmaf(val[j], T[col[j] * dim + h], y[field * dim]);
        }
    }
}

ebb_status_t ebb_cuda_embed_forward(ebb_exec_t *x, const ebb_csr_t *X, int n_fields, const int32_t *field_begin,
                                    int64_t dim, const float *T, float *Y)
{
    if (n_fields < 1 || X->rows > INT32_MAX / n_fields)
        return EBB_FAIL(EBB_EINVAL, "embedding of %d fields for %lld rows", n_fields, (long long)X->rows);
    EBB_TRY(ebb_cuda_room(x, &x->fields, n_fields + 1, sizeof *field_begin, "fields"));
    int32_t *fields = (int32_t *)x->fields.ptr;
    EBB_TRY(ebb_cuda_upload(x, fields, field_begin, (size_t)(n_fields + 1) * sizeof *field_begin));
    EBB_TRY(ebb_cuda_zero(x, Y, (size_t)(X->rows * n_fields * dim) * sizeof *Y));
    LAUNCH(embed_kernel, X->rows * dim, x, dim, n_fields, fields, X->rowptr, X->col, X->val, T, Y);
    LAUNCHED("embedding");
    return EBB_OK;
}

ebb_status_t ebb_cuda_embed_grad(ebb_exec_t *x, int slot, const ebb_csr_t *X, int n_fields, const int32_t *field_begin,
                                 int64_t dim, const float *dY, ebb_rows_t *grad)
{
    grouped_t g;
    EBB_TRY(group(x, X, n_fields, field_begin, &g));
    return rows_gradient(x, slot, &g, dim, dY, grad);
}

ebb_status_t ebb_cuda_embed_grad_dense(ebb_exec_t *x, const ebb_csr_t *X, int n_fields, const int32_t *field_begin,
                                       int64_t dim, const float *dY, float *G, uint64_t *touched)
{
    grouped_t g;
    EBB_TRY(group(x, X, n_fields, field_begin, &g));
    return dense_gradient(x, &g, dim, dY, G, touched);
}
