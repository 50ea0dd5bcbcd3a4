/* Sums of sorted row lists (one per lane, or one per subtree of a rank) along the canonical tree.
 *
 * The rows are cut into ranges of about equal work, one task each. A task walks its range in windows that fit the L1
 * cache: every list marks its rows in a mask of lists per row, so the rows come out ascending with the set of lists
 * that have them. The second pass walks the same rows with one cursor per list and adds along the tree: neighbours
 * among the lists present meet at some depth, and the deeper meeting is added first, which is the tree restricted to
 * what is there. Each value is read once and each sum written once.
 */
#include "sync/merge.h"
#include "base/alloc.h"

#include <string.h>

#define WINDOW     512                 /* rows looked at together */
#define RANGE      ((int64_t)16 << 10) /* floats and entries of one task, at least */
#define MAX_RANGES 256

struct merge_thread {
    uint64_t *mask;      /* (WINDOW, words) */
    int64_t *cursor;     /* (lists) */
    int64_t *end;        /* (lists) */
    float *stack;        /* (lists, width): partial sums; the first is the sum itself */
    const float **value; /* (lists): what lies on the stack */
    uint8_t *depth;      /* (lists): at which it meets what lies below */
};

ebb_status_t ebb_merge_init(ebb_merge_t *m, ebb_pool_t *pool, ebb_merge_compute_t compute, int lists,
                            const uint8_t *meet, int parts, const int32_t *part0, int owners, int64_t width,
                            bool canonical)
{
    int threads = ebb_pool_threads(pool);
    *m = (ebb_merge_t){.pool = pool,
                       .compute = compute,
                       .lists = lists,
                       .parts = parts,
                       .owners = owners,
                       .width = width,
                       .canonical = canonical};
    m->words = (lists + 63) / 64;
    EBB_TRY(EBB_NEW_ARRAY("row merge", (int64_t)lists * lists, &m->meet));
    memcpy(m->meet, meet, (size_t)lists * (size_t)lists);
    EBB_TRY(EBB_NEW_ARRAY("row merge", parts + 1, &m->part0));
    memcpy(m->part0, part0, (size_t)(parts + 1) * sizeof *part0);
    EBB_TRY(EBB_NEW_ARRAY("row merge", lists, &m->list));
    EBB_TRY(EBB_NEW_ARRAY("row merge", owners * parts, &m->out));
    EBB_TRY(EBB_NEW_ARRAY("row merge", MAX_RANGES + 1, &m->bound));
    EBB_TRY(EBB_NEW_ARRAY("row merge", MAX_RANGES * (int64_t)lists, &m->start));
    EBB_TRY(EBB_NEW_ARRAY("row merge", MAX_RANGES, &m->found));
    EBB_TRY(EBB_NEW_ARRAY("row merge", MAX_RANGES * (int64_t)owners * parts, &m->share));
    EBB_TRY(EBB_NEW_ARRAY("row merge", threads, &m->thread));
    for (int i = 0; i < threads; i++) {
        EBB_TRY(EBB_NEW_ARRAY("row merge", WINDOW * m->words, &m->thread[i].mask));
        EBB_TRY(EBB_NEW_ARRAY("row merge", lists, &m->thread[i].cursor));
        EBB_TRY(EBB_NEW_ARRAY("row merge", lists, &m->thread[i].end));
        EBB_TRY(EBB_NEW_ARRAY("row merge", lists * width, &m->thread[i].stack));
        EBB_TRY(EBB_NEW_ARRAY("row merge", lists, &m->thread[i].value));
        EBB_TRY(EBB_NEW_ARRAY("row merge", lists, &m->thread[i].depth));
    }
    return EBB_OK;
}

void ebb_merge_cleanup(ebb_merge_t *m)
{
    for (int i = 0; m->thread && i < ebb_pool_threads(m->pool); i++) {
        ebb_free(m->thread[i].mask);
        ebb_free(m->thread[i].cursor);
        ebb_free(m->thread[i].end);
        ebb_free(m->thread[i].stack);
        ebb_free(m->thread[i].value);
        ebb_free(m->thread[i].depth);
    }
    ebb_free(m->thread);
    ebb_free(m->meet);
    ebb_free(m->part0);
    ebb_free(m->list);
    ebb_free(m->out);
    ebb_free(m->bound);
    ebb_free(m->start);
    ebb_free(m->found);
    ebb_free(m->share);
    ebb_free(m->row);
    ebb_free(m->mask);
    *m = (ebb_merge_t){0};
}

int64_t ebb_merge_entries(const ebb_merge_t *m)
{
    int64_t n = 0;
    for (int k = 0; k < m->lists; k++)
        n += m->list[k].n;
    return n;
}

static int64_t lower_bound(const ebb_list_t *list, int32_t row)
{
    int64_t lo = 0, hi = list->n;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        if (list->idx[mid] < row)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* Cut the rows by the quantiles of the longest list: lists are samples of one distribution. */
static void cut_ranges(ebb_merge_t *m, int64_t entries)
{
    const ebb_list_t *longest = &m->list[0];
    for (int k = 1; k < m->lists; k++)
        longest = m->list[k].n > longest->n ? &m->list[k] : longest;
    int64_t ranges = entries * (m->width + 8) / RANGE + 1;
    int64_t most = ebb_pool_threads(m->pool) * 16 < MAX_RANGES ? ebb_pool_threads(m->pool) * 16 : MAX_RANGES;
    ranges = ranges < most ? ranges : most;
    m->ranges = (int)ranges;
    m->bound[0] = 0;
    for (int g = 1; g < m->ranges; g++)
        m->bound[g] = longest->n > 0 ? longest->idx[longest->n * g / ranges] & ~63 : 0;
    m->bound[m->ranges] = INT32_MAX;
}

/* Where a range keeps the rows it finds: behind as many as the ranges before it can have. */
static int64_t range_base(const ebb_merge_t *m, int64_t g)
{
    int64_t base = 0;
    for (int k = 0; k < m->lists; k++)
        base += m->start[g * m->lists + k];
    return base;
}

/* Mark the rows of [lo, lo + WINDOW) in mask and bits; advances the cursors. */
static void mark_window(const ebb_merge_t *m, merge_thread_t *t, int64_t lo, uint64_t bits[WINDOW / 64])
{
    for (int k = 0; k < m->lists; k++) {
        const int32_t *idx = m->list[k].idx;
        int64_t c = t->cursor[k];
        uint64_t *mask = t->mask + k / 64;
        for (; c < t->end[k] && idx[c] < lo + WINDOW; c++) {
            int64_t o = idx[c] - lo;
            mask[o * m->words] |= (uint64_t)1 << (k % 64);
            bits[o / 64] |= (uint64_t)1 << (o % 64);
        }
        t->cursor[k] = c;
    }
}

/* Whether any of lists [first, end) is in the mask. */
static bool any_list(const uint64_t *mask, int32_t first, int32_t end)
{
    for (int32_t w = first / 64; w * 64 < end; w++) {
        uint64_t part = mask[w];
        if (w == first / 64)
            part &= ~(uint64_t)0 << (first % 64);
        if (end - w * 64 < 64)
            part &= ((uint64_t)1 << (end - w * 64)) - 1;
        if (part)
            return true;
    }
    return false;
}

static void count_row(const ebb_merge_t *m, int32_t row, const uint64_t *mask, int64_t *share)
{
    int64_t *mine = share + (m->owners > 1 ? row / 64 % m->owners * m->parts : 0);
    if (m->parts == 1) {
        mine[0]++;
        return;
    }
    for (int p = 0; p < m->parts; p++)
        mine[p] += any_list(mask, m->part0[p], m->part0[p + 1]);
}

/* First row that any cursor stands at, rounded down to a block; -1 when all are through. */
static int64_t next_block(const ebb_merge_t *m, const merge_thread_t *t)
{
    int64_t lo = INT64_MAX;
    for (int k = 0; k < m->lists; k++)
        if (t->cursor[k] < t->end[k] && m->list[k].idx[t->cursor[k]] < lo)
            lo = m->list[k].idx[t->cursor[k]];
    return lo == INT64_MAX ? -1 : lo & ~(int64_t)63;
}

/* A range's entries of each list; the cursors stand at the first. */
static void find_entries(ebb_merge_t *m, merge_thread_t *t, int64_t g)
{
    for (int k = 0; k < m->lists; k++) {
        t->cursor[k] = m->start[g * m->lists + k] = lower_bound(&m->list[k], m->bound[g]);
        t->end[k] = g + 1 < m->ranges ? lower_bound(&m->list[k], m->bound[g + 1]) : m->list[k].n;
    }
}

static ebb_status_t find_range(void *user, int thread, int64_t g)
{
    ebb_merge_t *m = user;
    merge_thread_t *t = &m->thread[thread];
    int64_t *share = m->share + g * m->owners * m->parts;
    find_entries(m, t, g);
    int64_t base = range_base(m, g), n = base;
    memset(share, 0, (size_t)(m->owners * m->parts) * sizeof *share);
    for (int64_t lo = next_block(m, t); lo >= 0; lo = next_block(m, t)) {
        uint64_t bits[WINDOW / 64] = {0};
        mark_window(m, t, lo, bits);
        for (int w = 0; w < WINDOW / 64; w++)
            for (uint64_t left = bits[w]; left; left &= left - 1) {
                int64_t o = w * 64 + __builtin_ctzll(left);
                uint64_t *mask = t->mask + o * m->words;
                m->row[n] = (int32_t)(lo + o);
                memcpy(m->mask + n * m->words, mask, (size_t)m->words * sizeof *mask);
                count_row(m, m->row[n], mask, share);
                memset(mask, 0, (size_t)m->words * sizeof *mask);
                n++;
            }
    }
    m->found[g] = n - base;
    return EBB_OK;
}

ebb_status_t ebb_merge_find(ebb_merge_t *m)
{
    int outs = m->owners * m->parts;
    int64_t entries = ebb_merge_entries(m);
    cut_ranges(m, entries);
    EBB_TRY(ebb_grow("merged rows", (void **)&m->row, &m->row_cap, entries, sizeof *m->row));
    EBB_TRY(ebb_grow("merged rows", (void **)&m->mask, &m->mask_cap, entries * m->words, sizeof *m->mask));
    EBB_TRY(ebb_pool_run(m->pool, m->ranges, find_range, m));
    for (int o = 0; o < outs; o++) {
        int64_t before = 0;
        for (int g = 0; g < m->ranges; g++) {
            int64_t n = m->share[g * outs + o];
            m->share[g * outs + o] = before;
            before += n;
        }
        m->out[o].n = before;
    }
    return EBB_OK;
}

/* Values of the next row of list k: the list's own, or summed into `room`. */
static ebb_status_t next_values(const ebb_merge_t *m, int thread, int k, float *room, const float **value_p)
{
    const ebb_list_t *list = &m->list[k];
    int64_t at = m->thread[thread].cursor[k]++;
    *value_p = list->terms ? room : list->val + at * m->width;
    return list->terms ? m->compute.ops->terms_sum(m->compute.exec[thread], list->terms, at, 1, room) : EBB_OK;
}

/* Add the two topmost values of the stack. */
static ebb_status_t add_top(const ebb_merge_t *m, int thread, int top, float *out)
{
    merge_thread_t *t = &m->thread[thread];
    EBB_TRY(m->compute.ops->add(m->compute.exec[thread], m->width, t->value[top - 1], t->value[top], out));
    t->value[top - 1] = out;
    return EBB_OK;
}

/* Where the i-th of a row's partial sums may be formed; the lowest becomes the row's sum. */
static float *place(const ebb_merge_t *m, int thread, int i, float *out)
{
    return i == 0 ? out : m->thread[thread].stack + i * m->width;
}

/* Sum of a row over lists [first, end) of its mask; moves their cursors on. */
static ebb_status_t sum_row(const ebb_merge_t *m, int thread, const uint64_t *mask, int32_t first, int32_t end,
                            float *out)
{
    merge_thread_t *t = &m->thread[thread];
    int top = -1, last = 0;
    for (int32_t word = first / 64; word * 64 < end; word++) {
        for (uint64_t left = mask[word]; left; left &= left - 1) {
            int k = word * 64 + __builtin_ctzll(left);
            if (k < first)
                continue;
            if (k >= end)
                break;
            uint8_t depth = top < 0 ? 0 : m->meet[last * m->lists + k];
            for (; top > 0 && t->depth[top] > depth; top--)
                EBB_TRY(add_top(m, thread, top, place(m, thread, top - 1, out)));
            top++;
            EBB_TRY(next_values(m, thread, k, place(m, thread, top, out), &t->value[top]));
            t->depth[top] = depth;
            last = k;
        }
    }
    for (; top > 0; top--)
        EBB_TRY(add_top(m, thread, top, place(m, thread, top - 1, out)));
    const float *sum = t->value[0];
    if (!m->canonical && sum == out)
        return EBB_OK;
    for (int64_t i = 0; i < m->width; i++)
        out[i] = m->canonical ? sum[i] + 0.0f : sum[i];
    return EBB_OK;
}

static ebb_status_t sum_range(void *user, int thread, int64_t g)
{
    ebb_merge_t *m = user;
    merge_thread_t *t = &m->thread[thread];
    int64_t *at = m->share + g * m->owners * m->parts;
    int64_t base = range_base(m, g);
    memcpy(t->cursor, m->start + g * m->lists, (size_t)m->lists * sizeof *t->cursor);
    for (int64_t i = base; i < base + m->found[g]; i++) {
        int32_t row = m->row[i];
        const uint64_t *mask = m->mask + i * m->words;
        int owner0 = m->owners > 1 ? row / 64 % m->owners * m->parts : 0;
        for (int p = 0; p < m->parts; p++) {
            if (m->parts > 1 && !any_list(mask, m->part0[p], m->part0[p + 1]))
                continue;
            ebb_merge_out_t *out = &m->out[owner0 + p];
            int64_t o = at[owner0 + p]++;
            out->idx[o] = row;
            EBB_TRY(sum_row(m, thread, mask, m->part0[p], m->part0[p + 1], out->val + o * m->width));
        }
    }
    return m->compute.ops->exec_sync(m->compute.exec[thread]);
}

ebb_status_t ebb_merge_sum(ebb_merge_t *m)
{
    return ebb_pool_run(m->pool, m->ranges, sum_range, m);
}

ebb_status_t ebb_merge_range(ebb_merge_t *m, int thread, int64_t g, int64_t most, float *val, ebb_merge_use_t use,
                             void *user)
{
    merge_thread_t *t = &m->thread[thread];
    int64_t base = range_base(m, g), at = m->share[g];
    memcpy(t->cursor, m->start + g * m->lists, (size_t)m->lists * sizeof *t->cursor);
    for (int64_t i = 0; i < m->found[g]; i += most) {
        int64_t n = m->found[g] - i < most ? m->found[g] - i : most;
        for (int64_t k = 0; k < n; k++)
            EBB_TRY(sum_row(m, thread, m->mask + (base + i + k) * m->words, 0, m->lists, val + k * m->width));
        EBB_TRY(m->compute.ops->exec_sync(m->compute.exec[thread]));
        EBB_TRY(use(user, thread, at + i, n, m->row + base + i, val));
    }
    return EBB_OK;
}
