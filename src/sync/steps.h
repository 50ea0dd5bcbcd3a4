/* The parts of reduce. Collective all of them. */
#ifndef EBB_SYNC_STEPS_H
#define EBB_SYNC_STEPS_H

#include "sync/internal.h"

/* Tags of messages; the dense vector's pieces are 0, 1, ... */
enum { EBB_TAG_TABLES = 1000, EBB_TAG_ROWS = 1001 };

/* send: what other owners need leaves; finish: once everything has arrived. share: of a bucket of the layout. */
ebb_status_t ebb_sync_dense_send(ebb_sync_t *s, int share);
ebb_status_t ebb_sync_dense_finish(ebb_sync_t *s, int share);
ebb_status_t ebb_sync_tables_send(ebb_sync_t *s);
ebb_status_t ebb_sync_tables_finish(ebb_sync_t *s);
ebb_status_t ebb_sync_rows_send(ebb_sync_t *s);
ebb_status_t ebb_sync_rows_finish(ebb_sync_t *s);
ebb_status_t ebb_sync_reduce_fast(ebb_sync_t *s);

/* Shared helpers. */
/* What lanes' contexts are given from now on begins after what the contexts that add were. */
ebb_status_t ebb_sync_let_lanes_go(const ebb_sync_t *s);
/* All that the contexts that add were given is done. */
ebb_status_t ebb_sync_await_all(ebb_sync_t *s);
ebb_status_t ebb_sync_room(ebb_sync_t *s, parcel_t *parcel, int64_t bytes);
/* The last merge of a table whose rows are found: sum them, or leave that to ebb_sync_form. */
ebb_status_t ebb_sync_finish_rows(ebb_sync_t *s, table_t *table, ebb_merge_t *last);
ebb_status_t ebb_sync_room_for_sums(table_t *table, int64_t n);
/* A message is begun; on a device noted, until its wire begins all that were. */
ebb_status_t ebb_sync_note_send(ebb_sync_t *s, const void *data, int64_t bytes, int peer, int tag);
ebb_status_t ebb_sync_note_receive(ebb_sync_t *s, void *data, int64_t bytes, int peer, int tag);
ebb_tree_sum_t ebb_sync_tree_sum(const ebb_sync_t *s, int thread, int64_t at, int64_t n);
/* Own rows of a table that travels dense, from the views: touched rows, numbers and sums. clear: zero the nodes'
 * buffers behind. */
ebb_status_t ebb_sync_pack_own_rows(ebb_sync_t *s, int t, bool clear);
/* The lanes' row lists become the merge's input. */
void ebb_sync_list_lanes(ebb_sync_t *s, int t);

#endif
