/* A reader's inside, shared by the files that make it: reader.c (chunks), reader_rows.c (rows widened, targets) and
 * reader_stored.c (rows as they are stored). */
#ifndef EBB_SHARD_READER_H
#define EBB_SHARD_READER_H

#include "shard/bands.h"
#include "shard/layout.h"
#include "shard/unpack.h"

enum { EBB_READER_FILES = 32 };

/* A decoded chunk. */
typedef struct ebb_slot {
    int shard;
    bool shuffled; /* how this chunk lies here */
    int64_t chunk; /* EBB_NO_CHUNK: empty */
    uint64_t used;
    uint8_t *buf;
} ebb_slot_t;

typedef struct ebb_slots {
    ebb_slot_t *slot;
    int n;
    int64_t bytes; /* of each slot */
} ebb_slots_t;

struct ebb_reader {
    const ebb_dataset_t *ds;
    ebb_slots_t cache[EBB_ROLES];
    uint64_t clock;
    ebb_unpack_t *unpack;
    bool checksum;        /* of zstd frames; XXH3 has spoken already, so only verify wants both */
    uint8_t *packed;      /* bytes [packed_at, packed_end) of file packed_shard */
    int64_t packed_bytes; /* room */
    int64_t packed_at, packed_end;
    int packed_shard;
    int waits;       /* reads still to go until a device is taken to be as fast as memory */
    ebb_slot_t hot;  /* the chunk of a band, and behind it its other one, of hot_bytes each; always the same memory, so
                      * that it stays in the CPU's cache */
    int32_t *tail;   /* columns of the record read last */
    uint8_t *record; /* of the band read last */
    int64_t hot_bytes, record_bytes, record_band;
    int record_shard;
    struct {
        int shard, fd;
    } file[EBB_READER_FILES];
    int most_files;     /* open in the process */
    int64_t row0, row1; /* global rows being asked for; named in errors */
    int last_shard;
};

/* Rows [row0, row0 + n) are asked for: in range, and named in errors from now on. */
ebb_status_t ebb_reader_begin(ebb_reader_t *r, int64_t row0, int64_t n);
/* The piece of rows [row, end) that lies in one shard: its number, first local row and count. */
int64_t ebb_reader_piece(ebb_reader_t *r, int64_t row, int64_t end, int *shard_p, int64_t *first_p);
/* An open file of a shard; stays the reader's. Few stay open per reader, and in all readers no more than half of what
 * the process may open (one each where there are many), so that data sets of many thousand shards need no raised
 * limits. */
ebb_status_t ebb_reader_fd(ebb_reader_t *r, int shard, int *fd_p);
ebb_status_t ebb_reader_file(ebb_reader_t *r, int shard, void *buf, int64_t bytes, int64_t offset);
/* Chunk c of an array into slot->buf, which has room for a whole one; its checksum was right. */
ebb_status_t ebb_reader_decode(ebb_reader_t *r, int shard, const ebb_array_t *a, int64_t c, ebb_slot_t *slot);
/* The error under way, with the place of a chunk before it; returns its status. */
ebb_status_t ebb_reader_name_chunk(const ebb_reader_t *r, int shard, const ebb_array_t *a, int64_t c);
/* Elements [first, first + count) of the n in a slot to out[at...] as `as`; false: a value does not fit. */
bool ebb_reader_widen(const ebb_array_t *a, const ebb_slot_t *slot, int64_t n, int64_t first, int64_t count,
                      ebb_elem_t as, void *out, int64_t at);
/* Rows [first, first + n) of chunk c, which is in a slot, to rows from `at` of out, which is a->cols wide. */
bool ebb_reader_take_chunk(const ebb_array_t *a, const ebb_slot_t *slot, int64_t c, int64_t first, int64_t n,
                           ebb_elem_t as, void *out, int64_t at);
/* Do rows [first, first + n) of a shard consist of whole bands? *band_p: the first. */
bool ebb_reader_whole_bands(const ebb_reader_t *r, int shard, int64_t first, int64_t n, int64_t *band_p);
/* The record of a band, checked, in r->record. */
ebb_status_t ebb_reader_record(ebb_reader_t *r, int shard, int64_t b, ebb_band_parts_t *parts);
/* Row pointers of the rows of a band whose record is loaded: out[0] is there already. */
ebb_status_t ebb_reader_band_rowptr(ebb_reader_t *r, int shard, int64_t b, const ebb_band_parts_t *p, int64_t *out);
/* EBB_ECORRUPT unless all n columns are in range. */
ebb_status_t ebb_reader_check_columns(const ebb_reader_t *r, int shard, const int32_t *col, int64_t n);

#endif
