/* The order work of a seek, on made-up blocks: for bench_seek and the test of what it shows. */
#ifndef SEEK_H
#define SEEK_H

#include "base/alloc.h"
#include "base/rng.h"
#include "loader/order.h"
#include "shard/bands.h"

#include <math.h>
#include <stdlib.h>

typedef struct made_blocks {
    ebb_row_blocks_t blocks;
    ebb_dataset_info_t info;
} made_blocks_t;

/* A part of the order that each lane keeps between seeks, as a loader does. */
typedef struct seeker {
    const ebb_order_t *order;
    ebb_order_group_t *group; /* one, or one for each lane */
    int64_t groups;
    ebb_order_window_t *window;
} seeker_t;

/* The blocks of so many rows as a packed data set has them: those that begin in a chunk of 16384 entries. sigma > 0:
 * rows a block log-normal. per_row 0: dense, of blocks that all have as many rows. */
static inline void make_packed_blocks(int64_t rows, int64_t per_row, double sigma, made_blocks_t *m)
{
    enum { CHUNK = 16384, LEAST = 16, MOST = 8192 };
    *m = (made_blocks_t){
        .info = {.name = "made up", .rows = rows, .cols = 784, .nnz = rows * 784, .chunk_elements = 65536}};
    if (per_row == 0)
        return;
    int64_t each = CHUNK / per_row, most = rows / LEAST + 1, n = 0;
    int64_t *row, *entry;
    if (EBB_NEW_ARRAY("rows", most + 1, &row) != EBB_OK || EBB_NEW_ARRAY("entries", most + 1, &entry) != EBB_OK)
        abort();
    m->blocks = (ebb_row_blocks_t){.row = row, .entry = entry, .min_rows = 1, .max_entries = CHUNK};
    while (row[n] < rows) {
        double z = sigma > 0 ? ebb_rng_normal(1, EBB_RNG_TEST, (uint64_t)n, 0) : 0;
        int64_t here = (int64_t)((double)each * exp(sigma * z - sigma * sigma / 2));
        here = here < LEAST ? LEAST : here > MOST ? MOST : here;
        here = here < rows - row[n] ? here : rows - row[n];
        m->blocks.max_rows = here > m->blocks.max_rows ? here : m->blocks.max_rows;
        row[n + 1] = row[n] + here;
        entry[n + 1] = entry[n] + CHUNK;
        n++;
    }
    m->blocks.n = n;
    m->info.cols = 1 << 20;
    m->info.sparse = true;
    m->info.nnz = entry[n];
    m->info.chunk_elements = CHUNK;
    m->info.blocks = &m->blocks;
    if (ebb_bands_group(&m->blocks) != EBB_OK)
        abort();
}

static inline void free_packed_blocks(made_blocks_t *m)
{
    ebb_free((void *)(uintptr_t)m->blocks.row);
    ebb_free((void *)(uintptr_t)m->blocks.entry);
    ebb_free((void *)(uintptr_t)m->blocks.group_rows);
    ebb_free((void *)(uintptr_t)m->blocks.member);
}

static inline ebb_status_t seeker_init(seeker_t *s, const ebb_order_t *o)
{
    *s = (seeker_t){.order = o, .groups = o->blocks && o->blocks->groups > 1 ? o->lanes : 1};
    EBB_TRY(EBB_NEW_ARRAY("groups", s->groups, &s->group));
    EBB_TRY(EBB_NEW_ARRAY("windows", o->lanes, &s->window));
    for (int64_t g = 0; g < s->groups; g++)
        EBB_TRY(ebb_order_group_init(o, &s->group[g]));
    return EBB_OK;
}

static inline void seeker_free(seeker_t *s)
{
    for (int64_t g = 0; g < s->groups; g++)
        ebb_order_group_free(&s->group[g]);
    for (int32_t l = 0; l < s->order->lanes; l++)
        ebb_order_window_free(&s->window[l]);
    ebb_free(s->group);
    ebb_free(s->window);
}

/* The windows of all lanes that hold the step. */
static inline ebb_status_t seek_to(seeker_t *s, int64_t epoch, int64_t step)
{
    ebb_order_epoch_t e;
    ebb_order_epoch_init(s->order, epoch, &e);
    for (int32_t l = 0; l < s->order->lanes; l++)
        EBB_TRY(ebb_order_window_at(&e, &s->group[s->groups > 1 ? l : 0], l, step, &s->window[l]));
    return EBB_OK;
}

/* Blocks laid out and sections' parts passed so far. */
static inline int64_t seek_work(const seeker_t *s)
{
    int64_t work = 0;
    for (int64_t g = 0; g < s->groups; g++)
        work += s->group[g].work;
    return work;
}

#endif
