/* Bands: the rows that begin in one chunk of X (sparse), or that one row of chunks holds (dense).
 *
 * A band can be read by itself: what its rows need besides the band's own chunks stands in its record, namely the rows'
 * lengths, the end of the last row where it reaches into the next chunk, targets and weights. So rows in shuffled order
 * cost one decompression of each chunk. Records lie one after another in uns/ebb/bands; FORMAT.md. */
#ifndef EBB_SHARD_BANDS_H
#define EBB_SHARD_BANDS_H

#include "shard/layout.h"

/* Where the parts of a band's record lie, as offsets into it; each part begins at a multiple of 8. */
typedef struct ebb_band_parts {
    int64_t rows;       /* that begin in the band */
    int64_t begin, end; /* their entries (sparse) */
    int64_t here, tail; /* of these: in the band's chunk; in the record */
    bool wide;          /* lengths are u32, else u16 */
    int64_t length, col, val, y, weight;
    int64_t bytes; /* of the record */
} ebb_band_parts_t;

/* Parts of band b of a shard; rows, nnz and tails come from shard->band. False: the table contradicts itself. */
bool ebb_band_parts(const ebb_shard_t *shard, const ebb_dataset_info_t *info, int64_t b, ebb_band_parts_t *parts);
/* The band whose rows begin at local row `row`, or -1. */
int64_t ebb_band_at(const ebb_shard_t *shard, int64_t row);
static inline int64_t ebb_band_end(const ebb_shard_t *shard, int64_t b)
{
    return b + 1 < shard->bands ? shard->band[b + 1].row : shard->rows;
}

/* ---- the table in the index ---- */

enum { EBB_BAND_HEAD_WORDS = 3, EBB_BAND_WORDS = 3 };
void ebb_bands_encode(const ebb_shard_t *shard, uint64_t *words);
/* words: what follows the chunk tables, n of them; n 0: a shard of before there were bands. */
ebb_status_t ebb_bands_decode(ebb_shard_t *shard, const ebb_dataset_info_t *info, const uint64_t *words, int64_t n);
/* Blocks of the whole data set, into ds->blocks; nothing where a shard has no bands. */
ebb_status_t ebb_bands_blocks(ebb_dataset_t *ds);
/* Its last step: the groups of blocks whose rows and entries are known. */
ebb_status_t ebb_bands_group(ebb_row_blocks_t *blocks);

/* ---- writing ---- */

/* Collects the bands of a shard as its rows come. */
typedef struct ebb_band_maker {
    ebb_shard_t *shard;
    const ebb_dataset_info_t *info;
    int64_t capacity; /* of shard->band */
    uint8_t *data;    /* all records so far */
    int64_t bytes, room;
    uint32_t *length;   /* of the open band's rows */
    uint8_t *col, *val; /* end of its last row */
    uint8_t *y, *weight;
    int64_t length_room, col_room, val_room, y_room, weight_room;
} ebb_band_maker_t;

/* shard->array is set. */
void ebb_band_maker_init(ebb_band_maker_t *m, ebb_shard_t *shard, const ebb_dataset_info_t *info);
/* The next row, local number shard->rows, entries from shard->nnz on (both before it is counted). */
ebb_status_t ebb_band_maker_row(ebb_band_maker_t *m, int64_t n, const int32_t *col, const float *val,
                                const int32_t *label, const float *y, const float *weight);
/* After the last row: m->data, m->bytes and shard->band are whole, but for the offsets of the records. */
ebb_status_t ebb_band_maker_finish(ebb_band_maker_t *m);
void ebb_band_maker_clear(ebb_band_maker_t *m);
/* Set the records' offsets, given that of the first. */
void ebb_bands_place(ebb_shard_t *shard, int64_t offset);

#endif
