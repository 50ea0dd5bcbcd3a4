/* Gradient sums against a plain walk of the tree by one rank: equal bits for any ranks, threads, lanes and way of
 * travelling. */
#include "support.h"
#include "plain_backend.h"
#include "base/exact.h"
#include "base/rng.h"
#include "base/threads.h"
#include "sync/place.h"
#include <ebb/sync.h>

enum { MAX_THREADS = 3, MAX_FLOATS = 40000, MAX_ROWS = 1000, TABLES = 3 };

static ebb_comm_t *comm;
static int rank, ranks;
static ebb_backend_t *backend = &plain_backend; /* or one whose memory counts as a device's */

/* ---- layouts ---- */

static ebb_param_t mixed_params[] = {
    {.name = "a", .kind = EBB_PARAM_DENSE, .rows = 9001, .cols = 1, .offset = 0},
    {.name = "narrow", .kind = EBB_PARAM_ROWS, .rows = 1000, .cols = 1, .offset = 0},
    {.name = "b", .kind = EBB_PARAM_DENSE, .rows = 3, .cols = 7, .offset = 9008},
    {.name = "middle", .kind = EBB_PARAM_ROWS, .rows = 300, .cols = 5, .offset = 1},
    {.name = "wide", .kind = EBB_PARAM_ROWS, .rows = 70, .cols = 100, .offset = 2},
};
static const ebb_layout_t mixed = {5, mixed_params, 9040, 3, {1, 3, 4}, 0, {0}};
static ebb_param_t tiny_params[] = {{.name = "w", .kind = EBB_PARAM_DENSE, .rows = 3, .cols = 1, .offset = 0}};
static const ebb_layout_t tiny = {1, tiny_params, 16, 0, {0}, 0, {0}};
static ebb_param_t rows_params[] = {{.name = "t", .kind = EBB_PARAM_ROWS, .rows = 65, .cols = 3, .offset = 0}};
static const ebb_layout_t rows_only = {1, rows_params, 0, 1, {0}, 0, {0}};
static ebb_param_t cut_params[] = {
    {.name = "a", .kind = EBB_PARAM_DENSE, .rows = 5001, .cols = 1, .offset = 0},
    {.name = "middle", .kind = EBB_PARAM_ROWS, .rows = 300, .cols = 5, .offset = 0},
    {.name = "b", .kind = EBB_PARAM_DENSE, .rows = 1000, .cols = 3, .offset = 5008},
    {.name = "narrow", .kind = EBB_PARAM_ROWS, .rows = 70, .cols = 1, .offset = 1},
    {.name = "c", .kind = EBB_PARAM_DENSE, .rows = 7, .cols = 1, .offset = 8016},
};
static const ebb_layout_t cut = {5, cut_params, 8032, 2, {1, 3}, 3, {8016, 5008, 0}};
static ebb_param_t dense_params[] = {
    {.name = "a", .kind = EBB_PARAM_DENSE, .rows = 3000, .cols = 1, .offset = 0},
    {.name = "b", .kind = EBB_PARAM_DENSE, .rows = 2000, .cols = 1, .offset = 3008},
};
static const ebb_layout_t cut_dense = {2, dense_params, 5008, 0, {0}, 2, {3008, 0}};
static ebb_param_t big_params[] = {{.name = "w", .kind = EBB_PARAM_DENSE, .rows = MAX_FLOATS, .cols = 1, .offset = 0}};
static const ebb_layout_t big = {1, big_params, MAX_FLOATS, 0, {0}, 0, {0}};

/* ---- gradients: pure functions of (step, lane, piece) ---- */

typedef struct gradient {
    bool any;
    float dense[MAX_FLOATS];
    float row[TABLES][MAX_ROWS * 100 / 4];
    bool touched[TABLES][MAX_ROWS];
} gradient_t;

static bool in_parts;  /* let rows be formed part by part */
static bool by_bucket; /* lanes come so */
static bool integers;  /* small ones, whose sums are exact in any order */

static float wild(uint64_t step, uint64_t lane, uint64_t i)
{
    uint64_t r = ebb_rng_u64(11, EBB_RNG_TEST, step * 1000 + lane, i);
    float v = (float)(int32_t)(r >> 40) / 1000.0f - 8000.0f;
    if (integers)
        return (float)(r % 17) - 8.0f;
    switch (r % 16) {
    case 0: return -0.0f;
    case 1: return 0.0f;
    case 2: return v * 1e-42f; /* denormal */
    case 3: return v * 1e30f;
    case 4: return -v * 1e30f;
    case 5: return lane % 2 ? 1e8f : -1e8f; /* cancels */
    default: return v;
    }
}

static int pieces_of_lane(int64_t step, int32_t lane)
{
    return (int)(ebb_rng_u64(12, EBB_RNG_TEST, (uint64_t)step, (uint64_t)lane) % 4); /* 0: no rows */
}

static const ebb_param_t *table_of(const ebb_layout_t *layout, int t)
{
    return &layout->params[layout->table_param[t]];
}

static void make_piece(const ebb_layout_t *layout, int64_t step, int32_t lane, int piece, gradient_t *g)
{
    uint64_t key = (uint64_t)(lane * 8 + piece), share = (uint64_t)(step % 3 == 2 ? 2 : 7);
    g->any = true;
    memset(g->dense, 0, (size_t)layout->dense_floats * 4);
    for (int p = 0; p < layout->n_params; p++)
        for (int64_t i = 0;
             layout->params[p].kind == EBB_PARAM_DENSE && i < layout->params[p].rows * layout->params[p].cols; i++)
            g->dense[layout->params[p].offset + i] =
                wild((uint64_t)step, key, (uint64_t)(layout->params[p].offset + i));
    for (int t = 0; t < layout->n_tables; t++) {
        const ebb_param_t *p = table_of(layout, t);
        for (int64_t r = 0; r < p->rows; r++) {
            g->touched[t][r] =
                ebb_rng_u64(13, EBB_RNG_TEST, (uint64_t)step * 999 + key, (uint64_t)(t * 5000 + r)) % share == 0;
            for (int64_t c = 0; c < p->cols; c++)
                g->row[t][r * p->cols + c] =
                    g->touched[t][r] ? wild((uint64_t)step, key, (uint64_t)(100000 * (t + 1) + r * p->cols + c)) : 0.0f;
        }
    }
}

/* out = a + b by the header's words: what is absent is left out. */
static void join(const ebb_layout_t *layout, const gradient_t *a, const gradient_t *b, gradient_t *out)
{
    if (!a->any || !b->any) {
        const gradient_t *one = a->any ? a : b;
        if (out != one)
            *out = *one;
        return;
    }
    for (int64_t i = 0; i < layout->dense_floats; i++)
        out->dense[i] = a->dense[i] + b->dense[i];
    for (int t = 0; t < layout->n_tables; t++) {
        int64_t w = table_of(layout, t)->cols;
        for (int64_t r = 0; r < table_of(layout, t)->rows; r++) {
            bool in_a = a->touched[t][r], in_b = b->touched[t][r];
            for (int64_t c = r * w; c < (r + 1) * w; c++)
                out->row[t][c] = in_a && in_b ? a->row[t][c] + b->row[t][c]
                                 : in_a       ? a->row[t][c]
                                 : in_b       ? b->row[t][c]
                                              : 0.0f;
            out->touched[t][r] = in_a || in_b;
        }
    }
    out->any = true;
}

static void add_plus_zero(const ebb_layout_t *layout, gradient_t *g)
{
    for (int64_t i = 0; i < layout->dense_floats; i++)
        g->dense[i] += 0.0f;
    for (int t = 0; t < layout->n_tables; t++)
        for (int64_t i = 0; i < table_of(layout, t)->rows * table_of(layout, t)->cols; i++)
            g->row[t][i] += 0.0f;
}

static void reference(const ebb_layout_t *layout, int64_t step, int32_t lo, int32_t hi, gradient_t *out)
{
    gradient_t *part = calloc(1, sizeof *part);
    out->any = false;
    if (hi - lo == 1) {
        for (int p = 0; p < pieces_of_lane(step, lo); p++) {
            make_piece(layout, step, lo, p, part);
            join(layout, out, part, out);
        }
        if (out->any)
            add_plus_zero(layout, out);
    } else {
        int32_t mid = lo + (hi - lo + 1) / 2;
        gradient_t *left = calloc(1, sizeof *left);
        reference(layout, step, lo, mid, left);
        reference(layout, step, mid, hi, part);
        join(layout, left, part, out);
        free(left);
    }
    free(part);
}

/* ---- the model's side ---- */

typedef struct setup {
    ebb_sync_t *sync;
    const ebb_layout_t *layout;
    ebb_pool_t *pool;
    ebb_exec_t *exec[MAX_THREADS];
    int32_t lane0;
    int64_t step;
    bool by_bucket; /* lanes come so */
    int bucket;
    gradient_t *piece[MAX_THREADS];
    int32_t idx[MAX_THREADS][TABLES][MAX_ROWS]; /* of the context, overwritten by its next lane */
    float val[MAX_THREADS][TABLES][MAX_ROWS * 100 / 4];
    int64_t count[MAX_THREADS][TABLES];
} setup_t;

/* Row r of a gradient: one term, 1 times its values. */
static void add_term(ebb_terms_t *terms, int32_t r, int64_t width, const float *values)
{
    int64_t k = terms->n++;
    terms->width = width;
    if (ebb_grow("terms", (void **)&terms->idx, &terms->idx_capacity, MAX_ROWS, sizeof(int32_t)) != EBB_OK ||
        ebb_grow("terms", (void **)&terms->begin, &terms->begin_capacity, MAX_ROWS + 1, sizeof(int64_t)) != EBB_OK ||
        ebb_grow("terms", (void **)&terms->term, &terms->term_capacity, MAX_ROWS, sizeof(ebb_term_t)) != EBB_OK ||
        ebb_grow("terms", (void **)&terms->dY, &terms->dY_capacity, MAX_ROWS * width, sizeof(float)) != EBB_OK)
        abort();
    terms->idx[k] = r;
    terms->begin[k] = k;
    terms->begin[k + 1] = k + 1;
    terms->term[k] = (ebb_term_t){(int32_t)k, 1.0f};
    memcpy(terms->dY + k * width, values, (size_t)width * sizeof *values);
}

/* n rows of the context; on a device an odd number is told there alone, among some more. */
static ebb_rows_t rows_of(setup_t *u, int thread, int t, int64_t n, int64_t width)
{
    ebb_rows_t rows = {n, MAX_ROWS, width, u->idx[thread][t], u->val[thread][t], NULL};
    int64_t more = table_of(u->layout, t)->rows - n;
    if (backend == &plain_backend || n % 2 == 0)
        return rows;
    memset(rows.idx + n, 0, (size_t)more * sizeof *rows.idx); /* a row that the sums must not meet */
    memset(rows.val + n * width, 0x7f, (size_t)(more * width) * sizeof *rows.val);
    rows.n += more;
    u->count[thread][t] = n;
    rows.count = &u->count[thread][t];
    return rows;
}

/* A bucket of a gradient, or the whole. */
static void fill(setup_t *u, int thread, const gradient_t *g, ebb_grads_t *out)
{
    int64_t begin = 0, end = u->layout->dense_floats;
    if (u->by_bucket)
        ebb_layout_bucket(u->layout, u->bucket, &begin, &end);
    for (int p = 0; p < u->layout->n_params; p++) {
        const ebb_param_t *param = &u->layout->params[p];
        if (param->kind != EBB_PARAM_DENSE || param->offset < begin || param->offset >= end)
            continue;
        for (int64_t i = param->offset; i < param->offset + param->rows * param->cols; i++)
            out->dense[i] = out->accumulate ? out->dense[i] + g->dense[i] : g->dense[i];
    }
    for (int t = 0; begin == 0 && t < u->layout->n_tables; t++) {
        int64_t w = table_of(u->layout, t)->cols, n = 0;
        for (int64_t r = 0; r < table_of(u->layout, t)->rows; r++) {
            if (!g->touched[t][r])
                continue;
            if (out->table_dense[t]) {
                for (int64_t c = r * w; c < (r + 1) * w; c++)
                    out->table_dense[t][c] += g->row[t][c];
                out->touched[t][r / 64] |= (uint64_t)1 << (r % 64);
                continue;
            }
            if (out->terms[t])
                add_term(out->terms[t], (int32_t)r, w, g->row[t] + r * w);
            u->idx[thread][t][n] = (int32_t)r;
            memcpy(u->val[thread][t] + n++ * w, g->row[t] + r * w, (size_t)w * 4);
        }
        if (!out->table_dense[t] && !out->terms[t])
            out->rows[t] = rows_of(u, thread, t, n, w);
    }
}

static ebb_status_t lane_task(void *user, int thread, int64_t index)
{
    setup_t *u = user;
    int32_t lane = u->lane0 + (int32_t)index;
    int pieces = pieces_of_lane(u->step, lane);
    ebb_grads_t *grads;
    if (pieces == 0 && lane % 2)
        return ebb_sync_lane_done(u->sync, lane, u->bucket, false, u->exec[thread]); /* without asking for buffers */
    EBB_TRY(ebb_sync_lane_grads(u->sync, lane, u->bucket, pieces <= 1, u->exec[thread], &grads));
    for (int p = 0; p < pieces; p++) {
        make_piece(u->layout, u->step, lane, p, u->piece[thread]);
        fill(u, thread, u->piece[thread], grads);
        if (pieces > 1)
            EBB_TRY(ebb_sync_lane_piece(u->sync, lane, u->exec[thread]));
    }
    return ebb_sync_lane_done(u->sync, lane, u->bucket, pieces > 0, u->exec[thread]);
}

static setup_t *start(const ebb_layout_t *layout, int32_t lanes, int threads, ebb_sync_mode_t mode,
                      ebb_rows_mode_t rows_mode)
{
    setup_t *u = calloc(1, sizeof *u);
    u->layout = layout;
    u->lane0 = ebb_lane_first(lanes, rank, ranks);
    assert_ok(ebb_pool_create(threads, &u->pool));
    for (int i = 0; i < MAX_THREADS; i++) {
        assert_ok(plain_exec_create(NULL, &u->exec[i]));
        u->piece[i] = calloc(1, sizeof *u->piece[i]);
    }
    assert_ok(ebb_sync_create(comm, backend, u->pool, u->exec, layout, lanes, mode, rows_mode, &u->sync));
    u->by_bucket = by_bucket;
    if (by_bucket)
        assert_ok(ebb_sync_use_buckets(u->sync));
    return u;
}

static void finish(setup_t *u)
{
    ebb_sync_destroy(u->sync);
    ebb_pool_destroy(u->pool);
    for (int i = 0; i < MAX_THREADS; i++) {
        plain_exec_destroy(u->exec[i]);
        free(u->piece[i]);
    }
    free(u);
}

static void sum_lanes(setup_t *u, int32_t lanes, int64_t step, ebb_sums_t **sums)
{
    int buckets = u->by_bucket ? ebb_layout_buckets(u->layout) : 1;
    u->step = step;
    assert_ok(ebb_sync_begin(u->sync));
    for (u->bucket = 0; u->bucket < buckets; u->bucket++) {
        assert_ok(ebb_pool_run(u->pool, ebb_lane_first(lanes, rank + 1, ranks) - u->lane0, lane_task, u));
        if (u->by_bucket && step % 3 > 0)
            assert_ok(ebb_sync_ready(u->sync, u->bucket, ebb_pool_threads(u->pool), u->exec));
    }
    if (u->by_bucket && step % 2 > 0) {
        for (int b = 0; b < buckets; b++)
            assert_ok(ebb_sync_reduce_bucket(u->sync, b, sums));
        return;
    }
    assert_ok(in_parts ? ebb_sync_reduce_parts(u->sync, sums) : ebb_sync_reduce(u->sync, sums));
}

/* ---- sums formed part by part ---- */

typedef struct forming {
    setup_t *u;
    int t;
    float by_row[MAX_ROWS * 100 / 4];
} forming_t;

static ebb_status_t keep_formed(void *user, int thread, int64_t n, const int32_t *row, const int32_t *local,
                                const float *val)
{
    forming_t *f = user;
    int owner, owners;
    int64_t w = table_of(f->u->layout, f->t)->cols;
    ebb_sync_place(f->u->sync, &owner, &owners);
    for (int64_t k = 0; k < n; k++) {
        if (local[k] != ebb_sync_local_row(row[k], owners))
            return EBB_FAIL(EBB_EBUG, "local row");
        memcpy(f->by_row + row[k] * w, val + k * w, (size_t)w * sizeof *val);
    }
    return EBB_OK;
}

static ebb_status_t form_part(void *user, int thread, int64_t index)
{
    forming_t *f = user;
    return ebb_sync_form(f->u->sync, f->t, thread, index, keep_formed, f);
}

enum { FORMED = 5000 }; /* floats asked for at a time */

static ebb_status_t keep_dense(void *user, int thread, int64_t at, int64_t n, const float *sum)
{
    memcpy((float *)user + at, sum, (size_t)n * sizeof *sum);
    return EBB_OK;
}

static ebb_own_t own_of(const setup_t *u, int bucket)
{
    int owner, owners;
    ebb_sync_place(u->sync, &owner, &owners);
    return ebb_sync_own(u->layout, bucket, owner, owners);
}

typedef struct dense_forming {
    const ebb_sums_t *sums;
    ebb_own_t own;
    float *whole; /* by its place in the whole vector */
} dense_forming_t;

static ebb_status_t form_floats(void *user, int thread, int64_t index)
{
    const dense_forming_t *f = user;
    int64_t begin = f->own.begin + index * FORMED, end = begin + FORMED;
    return ebb_sync_form_dense(f->sums->sync, thread, begin, end < f->own.end ? end : f->own.end, keep_dense, f->whole);
}

static float *form_dense(const setup_t *u, ebb_sums_t *sums)
{
    float *whole = calloc(MAX_FLOATS, sizeof *whole), *mine = calloc((size_t)sums->dense_floats + 1, sizeof *mine);
    for (int b = 0; b < ebb_layout_buckets(u->layout); b++) {
        dense_forming_t f = {sums, own_of(u, b), whole};
        int64_t n = f.own.end - f.own.begin;
        assert_ok(ebb_pool_run(u->pool, (n + FORMED - 1) / FORMED, form_floats, &f));
        memcpy(mine + f.own.local, whole + f.own.begin, (size_t)n * sizeof *mine);
    }
    free(whole);
    return sums->dense = mine;
}

/* Afterwards the sums look as ebb_sync_reduce gives them; true if any came in parts. */
static bool form_sums(setup_t *u, ebb_sums_t *sums, float *val[TABLES + 1])
{
    bool any = !sums->dense;
    val[TABLES] = any ? form_dense(u, sums) : NULL;
    for (int t = 0; t < u->layout->n_tables; t++) {
        int64_t w = table_of(u->layout, t)->cols;
        val[t] = NULL;
        if (sums->table[t].parts == 0)
            continue;
        any = true;
        forming_t *f = calloc(1, sizeof *f);
        f->u = u;
        f->t = t;
        assert_null(sums->table[t].val);
        assert_ok(ebb_pool_run(u->pool, sums->table[t].parts, form_part, f));
        sums->table[t].val = val[t] = malloc((size_t)(MAX_ROWS * w) * sizeof(float));
        for (int64_t k = 0; k < sums->table[t].n; k++)
            memcpy(val[t] + k * w, f->by_row + sums->table[t].row[k] * w, (size_t)w * sizeof(float));
        free(f);
    }
    return any;
}

/* ---- checks ---- */

static void check_sums(const setup_t *u, const gradient_t *want, const ebb_sums_t *sums)
{
    int owner, owners;
    ebb_sync_place(u->sync, &owner, &owners);
    assert_int_equal(sums->dense_floats, ebb_sync_own_floats(u->layout, owner, owners));
    for (int b = 0; want->any && b < ebb_layout_buckets(u->layout); b++) {
        ebb_own_t own = own_of(u, b);
        assert_memory_equal(sums->dense + own.local, want->dense + own.begin, (size_t)(own.end - own.begin) * 4);
    }
    for (int64_t i = 0; !want->any && i < sums->dense_floats; i++)
        assert_true(sums->dense[i] == 0.0f);
    for (int t = 0; t < u->layout->n_tables; t++) {
        int64_t w = table_of(u->layout, t)->cols, n = 0;
        for (int32_t r = 0; want->any && r < table_of(u->layout, t)->rows; r++) {
            if (!want->touched[t][r] || r / 64 % owners != owner)
                continue;
            assert_true(n < sums->table[t].n);
            assert_int_equal(sums->table[t].row[n], r);
            assert_int_equal(sums->table[t].local[n], ebb_sync_local_row(r, owners));
            assert_memory_equal(sums->table[t].val + n * w, want->row[t] + r * w, (size_t)w * 4);
            n++;
        }
        assert_int_equal(sums->table[t].n, n);
    }
}

static void check_norm(const setup_t *u, const gradient_t *want)
{
    ebb_exact_t exact = {0};
    double got, *part = calloc(MAX_FLOATS, sizeof *part);
    int64_t unit = ebb_sync_unit(u->layout->dense_floats);
    assert_ok(ebb_sync_norm2(u->sync, &got));
    if (want->any) {
        for (int b = 0; b < ebb_layout_buckets(u->layout); b++) {
            int64_t begin, end;
            ebb_layout_bucket(u->layout, b, &begin, &end);
            plain_sumsq(NULL, end - begin, unit, want->dense + begin, part);
            for (int64_t i = 0; i * unit < end - begin; i++)
                ebb_exact_add(&exact, part[i]);
        }
        for (int t = 0; t < u->layout->n_tables; t++) {
            const ebb_param_t *p = table_of(u->layout, t);
            plain_sumsq(NULL, p->rows * p->cols, p->cols, want->row[t], part);
            for (int64_t r = 0; r < p->rows; r++)
                ebb_exact_add(&exact, part[r]);
        }
    }
    double expected = ebb_exact_value(&exact);
    assert_memory_equal(&got, &expected, sizeof got);
    free(part);
}

/* Owners change what they own; gather makes all ranks' weights equal to the change everywhere. */
static void check_gather(setup_t *u, const gradient_t *want, const ebb_sums_t *sums)
{
    ebb_weights_t w = {.dense = calloc(MAX_FLOATS, 4)};
    for (int b = 0; b < ebb_layout_buckets(u->layout); b++) {
        ebb_own_t own = own_of(u, b);
        memcpy(w.dense + own.begin, sums->dense + own.local, (size_t)(own.end - own.begin) * 4);
    }
    for (int t = 0; t < u->layout->n_tables; t++) {
        int64_t cols = table_of(u->layout, t)->cols;
        w.table[t] = calloc(MAX_ROWS * 100 / 4, 4);
        for (int64_t k = 0; k < sums->table[t].n; k++)
            memcpy(w.table[t] + sums->table[t].row[k] * cols, sums->table[t].val + k * cols, (size_t)cols * 4);
    }
    if (u->by_bucket && u->step % 2 > 0)
        for (int b = 0; b < ebb_layout_buckets(u->layout); b++)
            assert_ok(ebb_sync_gather_bucket(u->sync, b, &w));
    else
        assert_ok(ebb_sync_gather(u->sync, &w));
    assert_ok(ebb_sync_settle(u->sync));
    if (want->any)
        assert_memory_equal(w.dense, want->dense, (size_t)u->layout->dense_floats * 4);
    for (int t = 0; t < u->layout->n_tables; t++) {
        if (want->any)
            assert_memory_equal(w.table[t], want->row[t],
                                (size_t)(table_of(u->layout, t)->rows * table_of(u->layout, t)->cols) * 4);
        free(w.table[t]);
    }
    free(w.dense);
}

static void run(const ebb_layout_t *layout, int32_t lanes, int threads, ebb_sync_mode_t mode, ebb_rows_mode_t rows_mode,
                int steps)
{
    gradient_t *want = calloc(1, sizeof *want);
    setup_t *u = start(layout, lanes, threads, mode, rows_mode);
    ebb_sums_t *sums;
    for (int64_t step = 0; step < steps; step++) {
        memset(want, 0, sizeof *want);
        reference(layout, step, 0, lanes, want);
        in_parts = step % 2 == 1;
        sum_lanes(u, lanes, step, &sums);
        double norm2;
        bool left = in_parts && mode == EBB_SYNC_CANONICAL && backend == &plain_backend;
        if (left) {
            assert_null(sums->dense);
            assert_fails(ebb_sync_norm2(u->sync, &norm2), EBB_EBUG, "in parts");
        }
        float *val[TABLES + 1] = {NULL};
        if (!form_sums(u, sums, val))
            check_norm(u, want);
        check_sums(u, want, sums);
        check_gather(u, want, sums);
        for (int t = 0; t <= TABLES; t++)
            free(val[t]);
        in_parts = false;
    }
    finish(u);
    free(want);
}

/* ---- tests ---- */

static const ebb_rows_mode_t rows_modes[] = {EBB_ROWS_SPARSE, EBB_ROWS_DENSE, EBB_ROWS_AUTO};

static void sums_equal_the_plain_walk_for_any_lanes_and_threads(void **state)
{
    const int32_t lanes[] = {1, 2, 3, 5, 7, 24};
    for (int i = 0; i < 6; i++)
        for (int m = 0; m < 3; m++)
            if (lanes[i] >= ranks)
                run(&mixed, lanes[i], 1 + (i + m) % 3, EBB_SYNC_CANONICAL, rows_modes[m], lanes[i] == 24 ? 1 : 3);
}

static void more_ranks_than_parameters_and_tables_alone_work(void **state)
{
    for (int m = 0; m < 3; m++) {
        run(&tiny, 9, 2, EBB_SYNC_CANONICAL, rows_modes[m], 2);
        run(&rows_only, 11, 2, EBB_SYNC_CANONICAL, rows_modes[m], 3);
    }
}

static void buckets_are_shared_out_each_and_give_the_same_sums(void **state)
{
    for (int threads = 1; threads <= 3; threads++) {
        run(&cut, 9, threads, EBB_SYNC_CANONICAL, rows_modes[threads - 1], 3);
        run(&cut, 24, threads, EBB_SYNC_CANONICAL, EBB_ROWS_AUTO, 2);
    }
    for (int r = 0; r < ranks; r++)
        for (int b = 1; b < 3; b++) {
            ebb_own_t own = ebb_sync_own(&cut, b, r, ranks);
            assert_true(own.end > own.begin);
        }
}

/* Whatever some ranks do: only the others' messages matter to a rank. */
static void lanes_that_come_bucket_by_bucket_give_the_same_sums(void **state)
{
    if (backend == &plain_backend) {
        setup_t *u = start(&cut, 24, 1, EBB_SYNC_CANONICAL, EBB_ROWS_AUTO);
        assert_fails(ebb_sync_use_buckets(u->sync), EBB_EBUG, "on devices");
        finish(u);
        return;
    }
    for (int who = 0; who < 3; who++)
        for (int threads = 1; threads <= 3; threads++) {
            by_bucket = who == 0 || rank % 2 == who - 1;
            run(&cut, 9, threads, EBB_SYNC_CANONICAL, EBB_ROWS_AUTO, 5);
            run(&cut, 24, threads, EBB_SYNC_CANONICAL, EBB_ROWS_AUTO, 3);
            run(&cut_dense, 16, threads, EBB_SYNC_CANONICAL, EBB_ROWS_AUTO, 3);
            by_bucket = false;
        }
}

/* Without tables, lanes of one piece are added to their left siblings' sums where those are complete. */
static void lanes_that_join_their_siblings_give_the_same_sums(void **state)
{
    for (int threads = 1; threads <= 3; threads++)
        run(&tiny, 24, threads, EBB_SYNC_CANONICAL, EBB_ROWS_AUTO, 6);
}

static void long_vectors_work(void **state)
{
    run(&big, 13, 2, EBB_SYNC_CANONICAL, EBB_ROWS_AUTO, 2);
}

static void more_than_64_lanes_a_rank_work(void **state)
{
    run(&rows_only, 70 * ranks, 2, EBB_SYNC_CANONICAL, EBB_ROWS_SPARSE, 1);
}

static void fast_sums_are_right_and_every_rank_owns_all(void **state)
{
    integers = true;
    for (int m = 0; m < 3; m++) {
        run(&mixed, 9, 1 + m, EBB_SYNC_FAST, rows_modes[m], 3);
        run(&rows_only, 8, 2, EBB_SYNC_FAST, rows_modes[m], 2);
    }
    integers = false;
}

static void nothing_is_allocated_once_warm(void **state)
{
    for (int m = 0; m < 2; m++) {
        setup_t *u = start(&mixed, 12, 1, EBB_SYNC_CANONICAL, rows_modes[m]);
        ebb_weights_t w = {.dense = calloc(MAX_FLOATS, 4),
                           .table = {calloc(MAX_ROWS, 4), calloc(MAX_ROWS * 5, 4), calloc(MAX_ROWS * 25, 4)}};
        ebb_sums_t *sums;
        int64_t warm = 0;
        for (int i = 0; i < 4; i++) {
            sum_lanes(u, 12, 2, &sums);
            assert_ok(ebb_sync_gather(u->sync, &w));
            if (i == 1)
                warm = ebb_alloc_count();
        }
        assert_int_equal(ebb_alloc_count(), warm);
        for (int t = 0; t < TABLES; t++)
            free(w.table[t]);
        free(w.dense);
        finish(u);
    }
}

static void more_ranks_than_lanes_are_refused(void **state)
{
    ebb_sync_t *sync;
    ebb_pool_t *pool;
    ebb_exec_t *exec[1] = {NULL};
    assert_ok(ebb_pool_create(1, &pool));
    if (ranks > 1)
        assert_fails(
            ebb_sync_create(comm, backend, pool, exec, &tiny, ranks - 1, EBB_SYNC_CANONICAL, EBB_ROWS_AUTO, &sync),
            EBB_EUSAGE, "start at most");
    assert_fails(ebb_sync_create(comm, backend, pool, exec, &tiny, 0, EBB_SYNC_CANONICAL, EBB_ROWS_AUTO, &sync),
                 EBB_EUSAGE, "at least 1 lane");
    ebb_pool_destroy(pool);
}

static void every_failed_allocation_is_reported_and_leaks_nothing(void **state)
{
    ebb_sync_t *sync = NULL;
    ebb_pool_t *pool;
    ebb_exec_t *exec[1] = {NULL};
    assert_ok(ebb_pool_create(1, &pool));
    for (int i = 0; !sync; i++) {
        ebb_alloc_fail_after(i);
        ebb_status_t status =
            ebb_sync_create(comm, backend, pool, exec, &mixed, 24, EBB_SYNC_CANONICAL, EBB_ROWS_AUTO, &sync);
        ebb_alloc_fail_after(-1);
        assert_true(status == EBB_OK || (status == EBB_ENOMEM && !sync));
        ebb_error_clear();
    }
    ebb_sync_destroy(sync);
    ebb_pool_destroy(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_equal_the_plain_walk_for_any_lanes_and_threads),
        cmocka_unit_test(more_ranks_than_parameters_and_tables_alone_work),
        cmocka_unit_test(buckets_are_shared_out_each_and_give_the_same_sums),
        cmocka_unit_test(lanes_that_come_bucket_by_bucket_give_the_same_sums),
        cmocka_unit_test(lanes_that_join_their_siblings_give_the_same_sums),
        cmocka_unit_test(long_vectors_work),
        cmocka_unit_test(more_than_64_lanes_a_rank_work),
        cmocka_unit_test(fast_sums_are_right_and_every_rank_owns_all),
        cmocka_unit_test(nothing_is_allocated_once_warm),
        cmocka_unit_test(more_ranks_than_lanes_are_refused),
        cmocka_unit_test(every_failed_allocation_is_reported_and_leaks_nothing),
    };
    if (ebb_comm_default(&comm) != EBB_OK) {
        fprintf(stderr, "%s\n", ebb_error()->message);
        return 1;
    }
    rank = ebb_comm_rank(comm);
    ranks = ebb_comm_size(comm);
    int failed = cmocka_run_group_tests_name("host", tests, NULL, NULL);
    ebb_backend_ops_t device_ops = plain_ops;
    device_ops.caps = 0;
    ebb_backend_t device = {.ops = &device_ops};
    backend = &device;
    failed += cmocka_run_group_tests_name("device", tests, NULL, NULL);
    int64_t any = failed;
    if (ebb_comm_allreduce(comm, &any, 1, EBB_COMM_I64, EBB_MAX) != EBB_OK)
        any = 1;
    ebb_comm_destroy(comm);
    return any != 0;
}
