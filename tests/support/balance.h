/* Non-zeros that each lane has in each step of an epoch, of made-up data of unequal rows: for bench_balance and the
 * test of what it shows. Only the order and the dealing of rows are asked; nothing is read. */
#ifndef BALANCE_H
#define BALANCE_H

#include "base/alloc.h"
#include "base/rng.h"
#include "loader/deal.h"
#include "shard/bands.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct made_rows {
    int64_t rows;
    int32_t *length;
    ebb_row_blocks_t blocks; /* as a packed data set has them: the rows that begin in a chunk of 16384, at least 16 */
    ebb_dataset_info_t info;
} made_rows_t;

typedef struct balance {
    double mean, p99, worst; /* of max / mean over the ranks in a step */
} balance_t;

static inline int compare_lengths(const void *a, const void *b)
{
    return (*(const int32_t *)a > *(const int32_t *)b) - (*(const int32_t *)a < *(const int32_t *)b);
}

static inline void make_blocks_of_rows(made_rows_t *m)
{
    enum { CHUNK = 16384, LEAST = 16, MOST = 8192 };
    int64_t n = 0, before = 0, *row = calloc((size_t)m->rows + 1, 8), *entry = calloc((size_t)m->rows + 1, 8);
    for (int64_t r = 0, first = 0; r < m->rows; r++) {
        int64_t chunk = before / CHUNK;
        before += m->length[r];
        if (r + 1 == m->rows || ((before / CHUNK > chunk && r + 1 - first >= LEAST) || r + 1 - first == MOST)) {
            m->blocks.max_rows = r + 1 - first > m->blocks.max_rows ? r + 1 - first : m->blocks.max_rows;
            row[++n] = first = r + 1;
            entry[n] = before;
        }
    }
    m->blocks.n = n;
    m->blocks.row = row;
    m->blocks.entry = entry;
    m->blocks.min_rows = 1;
    m->info = (ebb_dataset_info_t){.name = "made up",
                                   .rows = m->rows,
                                   .cols = 1 << 20,
                                   .nnz = before,
                                   .sparse = true,
                                   .chunk_elements = CHUNK,
                                   .blocks = &m->blocks};
    if (ebb_bands_group(&m->blocks) != EBB_OK)
        abort();
}

/* Lengths log-normal with the given mean; sorted: as the worst file has them. */
static inline void make_rows(int64_t rows, double mean, double sigma, bool sorted, made_rows_t *m)
{
    *m = (made_rows_t){.rows = rows, .length = calloc((size_t)rows, sizeof *m->length)};
    for (int64_t r = 0; r < rows; r++) {
        double z = ebb_rng_normal(1, EBB_RNG_TEST, (uint64_t)r, 0);
        m->length[r] = (int32_t)ceil(mean * exp(sigma * z - sigma * sigma / 2));
    }
    if (sorted)
        qsort(m->length, (size_t)rows, sizeof *m->length, compare_lengths);
    make_blocks_of_rows(m);
}

static inline void free_rows(made_rows_t *m)
{
    free(m->length);
    free((void *)(uintptr_t)m->blocks.row);
    free((void *)(uintptr_t)m->blocks.entry);
    ebb_free((void *)(uintptr_t)m->blocks.group_rows);
    ebb_free((void *)(uintptr_t)m->blocks.member);
}

static inline int32_t length_in_window(const ebb_order_t *o, const made_rows_t *m, const ebb_order_window_t *w,
                                       uint32_t at)
{
    uint32_t place, row;
    ebb_order_locate(w, at, &place, &row);
    return m->length[ebb_order_block_row(o, w->block[place]) + row];
}

/* load[step * lanes + lane] of all steps of an epoch. deal false: as the order has the rows. */
static inline void lane_loads(const ebb_order_t *o, const made_rows_t *m, int64_t epoch, bool deal, double *load)
{
    ebb_dealer_t *d = calloc(1, sizeof *d);
    ebb_order_epoch_t e;
    int64_t steps = ebb_order_steps(o);
    int32_t first, end;
    bool good = ebb_dealer_init(d, o) == EBB_OK;
    uint32_t *row = calloc((size_t)d->rows, sizeof *row);
    ebb_order_epoch_init(o, epoch, &e);
    for (int32_t l = 0; l < o->lanes; l = end)
        for (int64_t s = 0, next; s < steps; s = next) {
            ebb_order_team(o, l, &first, &end);
            for (int32_t i = 0; i < end - first; i++) {
                ebb_order_window_t *w = &d->lane[i].other;
                d->lane[i].window = w;
                good &= ebb_order_window_at(&e, &d->group, first + i, s, w) == EBB_OK;
                for (int64_t at = 0; at < w->rows; at++)
                    ebb_dealer_lengths(d, i)[at] = length_in_window(o, m, w, (uint32_t)at);
            }
            next = d->lane[0].other.step + d->lane[0].other.steps;
            bool dealt = deal && ebb_deal_windows(d, end - first);
            for (int32_t i = 0; i < end - first; i++) {
                const ebb_order_window_t *w = d->lane[i].window;
                int64_t share = ebb_order_lane_share(o, first + i);
                if (dealt)
                    ebb_dealt_rows(d, i, row);
                for (int64_t r = 0; r < w->rows; r++) {
                    uint32_t at = dealt ? row[r] : ebb_order_mix(&w->mix, (uint32_t)r);
                    load[(w->begin + r) / share * o->lanes + first + i] += ebb_dealer_lengths(d, i)[at];
                }
            }
        }
    if (!good)
        abort();
    free(row);
    ebb_dealer_free(d);
    free(d);
}

static inline int compare_ratios(const void *a, const void *b)
{
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

/* Over all steps in which every lane has all of its rows. */
static inline balance_t balance_of(const ebb_order_t *o, const double *load, int ranks)
{
    int64_t steps = o->rows / o->batch, n = 0;
    double *ratio = calloc((size_t)steps + 1, sizeof *ratio), sum = 0;
    for (int64_t s = 0; s < steps; s++) {
        double most = 0, all = 0;
        for (int r = 0; r < ranks; r++) {
            double here = 0;
            for (int32_t l = r * o->lanes / ranks; l < (r + 1) * o->lanes / ranks; l++)
                here += load[s * o->lanes + l];
            most = fmax(most, here);
            all += here;
        }
        ratio[n++] = most / (all / ranks);
        sum += ratio[n - 1];
    }
    qsort(ratio, (size_t)n, sizeof *ratio, compare_ratios);
    balance_t b = {sum / (double)n, ratio[(n * 99 + 99) / 100 - 1], ratio[n - 1]};
    free(ratio);
    return b;
}

#endif
