/* X as decoded chunks hold it: byte planes of narrow types. Who keeps rows like this holds a half to a quarter of what
 * they are widened, and widens only what it hands out. */
#ifndef EBB_SHARD_STORED_H
#define EBB_SHARD_STORED_H

#include <ebb/shard.h>
#include "shard/elem.h"

/* How the chunks of a data set lie in memory. Long rows: as they were decoded, for each band first its columns, then
 * its values. Short rows (`packed`): row after row, each its columns' planes and its values' planes, as many bytes long
 * as it has entries, so that a row is a few lines of the CPU's cache and not some in each of the planes. */
typedef struct ebb_stored {
    bool possible, packed;
    int64_t bytes;   /* of a block, with EBB_STORED_SLACK */
    int entry_bytes; /* packed: of an entry; */
    int64_t entries; /* and of a block at most: larger ones come widened */
    ebb_elem_t col, val;
    int col_planes;   /* of sparse data: planes of columns that are not all 0 */
    int64_t elements; /* of a chunk: from one byte plane to the next */
    int64_t val_at, band_bytes;
    int bands;    /* of a block at most; */
    int64_t tail; /* entries beyond a band's chunk at most: larger blocks come widened */
} ebb_stored_t;

/* The rows of a block that begin in one chunk. */
typedef struct ebb_segment {
    int64_t row;              /* of the block, the first; after the last segment stands one with the block's rows */
    int64_t entry;            /* of the block, the first */
    int64_t edge;             /* of the block, the first that is not in the chunk but in the tail */
    const uint8_t *col, *val; /* entry `entry` (dense: the first value) in the first plane */
    const int32_t *tail_col;
    const float *tail_val;
} ebb_segment_t;

/* Where a block is to be put. */
typedef struct ebb_stored_room {
    uint8_t *chunk;         /* (bands, band_bytes), or rows; EBB_STORED_SLACK bytes more may be read and written */
    int32_t *tail_col;      /* (bands, tail) */
    float *tail_val;        /* (bands, tail) */
    ebb_segment_t *segment; /* (bands + 1) */
} ebb_stored_room_t;

enum { EBB_STORED_SLACK = 64 };

/* Do rows as stored touch fewer cache lines than widened ones? Short rows have fewer in two wide arrays. The default
 * window, and so the order, depends on it: a rule that must not change. */
bool ebb_stored_is_near(const ebb_dataset_info_t *info);
/* For blocks that are the data set's own. */
void ebb_stored_form(const ebb_dataset_t *ds, ebb_stored_t *form);
/* Rows of one block, decoded and checked; rowptr: (n + 1), of sparse data. *segments_p: 0 if they must be read widened;
 * 1 of packed ones, which room->segment does not describe. */
ebb_status_t ebb_reader_stored(ebb_reader_t *reader, const ebb_stored_t *form, int64_t row0, int64_t n, int64_t *rowptr,
                               const ebb_stored_room_t *room, int *segments_p);

/* ---- widening rows ---- */

/* Rows r: elements to[r] .. to[r + 1] of out are those at from[r], the first byte plane (NULL: left alone). Up to
 * EBB_STORED_SLACK bytes may be read past a row's planes and written past a row of out, in the order of rows. */
typedef struct ebb_widen {
    ebb_elem_t elem; /* of values, which become floats, or of columns */
    int columns;     /* > 0: columns of so many low planes, which become int32 */
    bool stored;     /* elements stay as they are stored: values of elem, columns of u16 or int32 */
    int64_t stride;  /* from plane to plane; 0: the length of the row */
    int fetched;     /* planes to fetch ahead from where a row begins */
    int64_t rows;
    const int64_t *to;
    const uint8_t *const *from;
    void *out;
} ebb_widen_t;

/* Bytes of an element of out. */
size_t ebb_widen_size(const ebb_widen_t *w);
/* Are there rows of such values? */
bool ebb_widen_possible(ebb_elem_t elem);
/* Planes that columns below `cols` take; 0: they are of a type of others. */
int ebb_column_planes(ebb_elem_t elem, int64_t cols);
void ebb_widen_rows(const ebb_widen_t *w, int64_t first, int64_t end);
/* Values and columns that were widened, to the type they were of; columns to EBB_U16, or int32 as they are. */
void ebb_narrow_values(ebb_value_type_t type, const float *in, int64_t n, void *out);
void ebb_narrow_columns(ebb_value_type_t type, const int32_t *in, int64_t n, void *out);
/* Is a column in the planes not below cols? */
bool ebb_columns_beyond(ebb_elem_t elem, const uint8_t *plane, int64_t stride, int64_t n, int64_t cols);

#endif
