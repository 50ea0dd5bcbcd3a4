/* Inside of the packer: what its files share. See pack.c for the method. */
#ifndef EBB_SHARD_PACK_H
#define EBB_SHARD_PACK_H

#include "base/crew.h"
#include "base/progress.h"
#include "base/threads.h"
#include "shard/import/import.h"

enum { EBB_PACK_MAX_PARTS = 16 };

/* A piece on its way through the crew. */
typedef struct ebb_pack_slot {
    ebb_piece_t piece;
    ebb_block_t block;
    ebb_crew_task_t task;
    void *run;             /* the pass over its source */
    bool beyond, unwanted; /* sequential sources: the stream ended before it; only fetched to be passed over */
    int64_t position;      /* sequential sources: bytes of the file read so far */
} ebb_pack_slot_t;

/* One data set of the destination: all of it, or a share by --split. */
typedef struct ebb_pack_part {
    char name[64];     /* "" without --split */
    double begin, end; /* rows whose random number lies in [begin, end) */
    char *dir;         /* under construction */
    char *title;
    int64_t rows;
    int64_t *before; /* (pieces + 1) rows of this part before each piece */
    int64_t first_shard, n_shards;
    ebb_dataset_plan_t plan;
    int64_t *class_rows;
    ebb_shard_writer_t *writer;
    int64_t writing; /* the shard of the part the writer is at */
} ebb_pack_part_t;

typedef struct ebb_pack {
    ebb_comm_t *comm;
    int rank, size, threads;
    ebb_pack_options_t o; /* defaults filled in */
    const char *dest;
    ebb_importer_t importer;
    bool created; /* the importer has state */
    int n_sources;
    ebb_source_t *source;
    int64_t piece_bytes, line_limit;
    ebb_pool_t *pool; /* counts */
    ebb_crew_t *crew; /* parses pieces and compresses chunks */
    ebb_progress_t *progress;

    /* pieces of all sources in order */
    int64_t *first_piece; /* (sources + 1) */
    int64_t n_pieces, rows_cap;
    int64_t *piece_rows;
    int64_t *piece_row0; /* (pieces + 1), after the scan */

    int n_slots;
    ebb_pack_slot_t *slot; /* a ring */

    ebb_scan_t scan;
    ebb_target_plan_t target;
    char (*class_name)[EBB_LABEL_BYTES + 1];
    const char **class_names;

    int n_parts;
    ebb_pack_part_t part[EBB_PACK_MAX_PARTS];
    int64_t shard_rows, n_shards;
    ebb_shard_summary_t *summary;
    char *tmp; /* folder under construction */
    int lock;  /* rank 0 holds it locked; -1 */
    char *provenance;
    struct ebb_pack_hash *hash;
    char (*source_sha256)[72]; /* (sources) hex */
    ebb_block_t gather;        /* rows of one part, for appending */
    int64_t in_bytes;
    int64_t failed_piece; /* lowest that failed here, or INT64_MAX */
} ebb_pack_t;

/* ---- pack_pass.c ---- */
ebb_status_t ebb_pack_passes_begin(ebb_pack_t *p);
void ebb_pack_passes_end(ebb_pack_t *p);
/* One pass over all sources: pieces for which needed() holds are parsed by the crew and consumed by the caller's
 * thread in order. Not collective, but for the table of pieces, which the scan makes for all ranks
 * (ebb_pack_exchange_rows). */
ebb_status_t ebb_pack_pass(ebb_pack_t *p, ebb_pass_t pass, bool (*needed)(const ebb_pack_t *p, int64_t piece),
                           ebb_status_t (*consume)(ebb_pack_t *p, int64_t piece, ebb_block_t *block));
/* Collective: the outcome of a pass; the error of the first piece that failed on any rank wins. */
ebb_status_t ebb_pack_agree(ebb_pack_t *p, ebb_status_t mine);

/* ---- pack_hash.c: digests of the sources, made beside the scan; begin on every rank alone, end collective ---- */
ebb_status_t ebb_pack_hash_begin(ebb_pack_t *p);
ebb_status_t ebb_pack_hash_end(ebb_pack_t *p);
void ebb_pack_hash_destroy(ebb_pack_t *p);

/* ---- pack_write.c ---- */
ebb_status_t ebb_pack_parse_split(ebb_pack_t *p);
ebb_status_t ebb_pack_divide(ebb_pack_t *p);
bool ebb_pack_piece_is_mine(const ebb_pack_t *p, int64_t piece);
ebb_status_t ebb_pack_write_block(ebb_pack_t *p, int64_t piece, ebb_block_t *block);

/* ---- pack_place.c: the destination ---- */
ebb_status_t ebb_pack_place_begin(ebb_pack_t *p);
ebb_status_t ebb_pack_place_commit(ebb_pack_t *p);
/* Removes whatever is left of the construction. */
void ebb_pack_place_abandon(ebb_pack_t *p);

/* ---- pack_like.c: an existing data set as the pattern ---- */
ebb_status_t ebb_pack_provenance(ebb_pack_t *p);
ebb_status_t ebb_pack_like(ebb_pack_t *p);
/* The pattern's format, for sources that look like none: then the error of a guess is forgotten. NULL: none, and the
 * error stays. */
const ebb_format_t *ebb_pack_like_format(const ebb_pack_t *p);

#endif
