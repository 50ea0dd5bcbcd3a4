/* Tables that travel as rows: a rank's lanes are merged into its pieces, per owner; owners merge all ranks' pieces.
 *
 * Counts go first, with the numbers from which every rank chooses alike how tables travel next time. A parcel then
 * holds, per table and piece, the row numbers and the rows, each part aligned to 64 bytes.
 */
#include "sync/steps.h"

#include <string.h>

static int most_pieces(const ebb_sync_t *s)
{
    return (int)(s->words_each / s->n_tables) - 1;
}

/* Rows of table t and piece p that the message with these counts holds. */
static int64_t rows_in(const ebb_sync_t *s, const int64_t *words, int t, int p)
{
    return words[s->n_tables + t * most_pieces(s) + p];
}

static int64_t idx_bytes(int64_t n)
{
    return (n * 4 + 63) / 64 * 64;
}

static int64_t list_bytes(int64_t n, int64_t width)
{
    return idx_bytes(n) + (n * width * 4 + 63) / 64 * 64;
}

static int64_t parcel_bytes(const ebb_sync_t *s, const int64_t *words, int pieces)
{
    int64_t bytes = 0;
    for (int t = 0; t < s->n_tables; t++)
        for (int p = 0; !s->table[t].dense && p < pieces; p++)
            bytes += list_bytes(rows_in(s, words, t, p), s->table[t].width);
    return bytes;
}

void ebb_sync_list_lanes(ebb_sync_t *s, int t)
{
    for (int32_t i = 0; i < s->n_lanes; i++) {
        const kept_rows_t *kept = &s->lane[i].rows[t];
        const ebb_terms_t *terms = &s->lane[i].terms[t];
        s->table[t].lanes.list[i] = terms->n > 0 ? (ebb_list_t){.idx = terms->idx, .terms = terms, .n = terms->n}
                                                 : (ebb_list_t){.idx = kept->idx, .val = kept->val, .n = kept->n};
    }
}

ebb_status_t ebb_sync_finish_rows(ebb_sync_t *s, table_t *table, ebb_merge_t *last)
{
    table->n = last->out[0].n;
    if (s->leave_parts) {
        table->parts = last;
        return EBB_OK;
    }
    EBB_TRY(ebb_sync_room_for_sums(table, table->n));
    last->out[0].idx = table->row;
    last->out[0].val = table->val;
    return ebb_merge_sum(last);
}

/* One rank: the lanes' merge is the whole sum. */
static ebb_status_t sum_alone(ebb_sync_t *s, int t)
{
    table_t *table = &s->table[t];
    ebb_sync_list_lanes(s, t);
    EBB_TRY(ebb_merge_find(&table->lanes));
    table->entries = s->lane_entries[t];
    return ebb_sync_finish_rows(s, table, &table->lanes);
}

static ebb_status_t exchange_counts(ebb_sync_t *s)
{
    int pieces = pieces_of(s, s->rank);
    for (int r = 0; r < s->ranks; r++) {
        int64_t *words = s->words_out + r * s->words_each;
        memset(words, 0, (size_t)s->words_each * sizeof *words);
        for (int t = 0; t < s->n_tables; t++) {
            words[t] = s->lane_entries[t];
            for (int p = 0; !s->table[t].dense && p < pieces; p++)
                words[s->n_tables + t * most_pieces(s) + p] = s->table[t].lanes.out[r * pieces + p].n;
        }
    }
    EBB_TRY(ebb_comm_alltoall(s->comm, s->words_out, s->words_each * (int64_t)sizeof *s->words_out, s->words_in));
    for (int t = 0; t < s->n_tables; t++) {
        s->table[t].entries = 0;
        for (int r = 0; r < s->ranks; r++)
            s->table[t].entries += s->words_in[r * s->words_each + t];
    }
    return EBB_OK;
}

/* Points the lanes' merge at the parcels for all owners. */
static ebb_status_t lay_out_parcels(ebb_sync_t *s)
{
    int pieces = pieces_of(s, s->rank);
    for (int r = 0; r < s->ranks; r++) {
        const int64_t *words = s->words_out + r * s->words_each;
        EBB_TRY(ebb_sync_room(s, &s->send_rows[r], parcel_bytes(s, words, pieces)));
        char *at = s->send_rows[r].data;
        for (int t = 0; t < s->n_tables; t++)
            for (int p = 0; !s->table[t].dense && p < pieces; p++) {
                ebb_merge_out_t *out = &s->table[t].lanes.out[r * pieces + p];
                out->idx = (int32_t *)at;
                out->val = (float *)(at + idx_bytes(out->n));
                at += list_bytes(out->n, s->table[t].width);
            }
    }
    return EBB_OK;
}

ebb_status_t ebb_sync_rows_send(ebb_sync_t *s)
{
    bool any = false, may_choose = false;
    for (int t = 0; t < s->n_tables; t++) {
        any |= !s->table[t].dense;
        may_choose |= s->table[t].may_choose;
        if (s->table[t].dense)
            continue;
        if (s->ranks == 1) {
            EBB_TRY(sum_alone(s, t));
        } else {
            ebb_sync_list_lanes(s, t);
            EBB_TRY(ebb_merge_find(&s->table[t].lanes));
        }
    }
    if (s->ranks == 1 || (!any && !may_choose))
        return EBB_OK;
    EBB_TRY(exchange_counts(s));
    if (!any)
        return EBB_OK;
    EBB_TRY(lay_out_parcels(s));
    for (int i = 1; i < s->ranks; i++) {
        int peer = (s->rank + s->ranks - i) % s->ranks;
        EBB_TRY(ebb_sync_room(s, &s->recv_rows[peer],
                              parcel_bytes(s, s->words_in + peer * s->words_each, pieces_of(s, peer))));
        EBB_TRY(ebb_sync_note_receive(s, s->recv_rows[peer].data, s->recv_rows[peer].bytes, peer, EBB_TAG_ROWS));
    }
    for (int t = 0; t < s->n_tables; t++)
        if (!s->table[t].dense)
            EBB_TRY(ebb_merge_sum(&s->table[t].lanes));
    for (int i = 1; i < s->ranks; i++) {
        int peer = (s->rank + i) % s->ranks;
        EBB_TRY(ebb_sync_note_send(s, s->send_rows[peer].data, s->send_rows[peer].bytes, peer, EBB_TAG_ROWS));
    }
    return EBB_OK;
}

/* What arrived becomes the input of the tables' second merges. */
static void list_parcels(ebb_sync_t *s)
{
    for (int r = 0; r < s->ranks; r++) {
        const int64_t *words = r == s->rank ? s->words_out + r * s->words_each : s->words_in + r * s->words_each;
        const char *at = r == s->rank ? s->send_rows[r].data : s->recv_rows[r].data;
        for (int t = 0; t < s->n_tables; t++)
            for (int p = 0; !s->table[t].dense && p < pieces_of(s, r); p++) {
                int64_t n = rows_in(s, words, t, p);
                s->table[t].pieces.list[s->piece0[r] + p] =
                    (ebb_list_t){.idx = (const int32_t *)at, .val = (const float *)(at + idx_bytes(n)), .n = n};
                at += list_bytes(n, s->table[t].width);
            }
    }
}

ebb_status_t ebb_sync_rows_finish(ebb_sync_t *s)
{
    if (s->ranks == 1 || s->n_tables == 0)
        return EBB_OK;
    list_parcels(s);
    for (int t = 0; t < s->n_tables; t++) {
        table_t *table = &s->table[t];
        if (table->dense)
            continue;
        EBB_TRY(ebb_merge_find(&table->pieces));
        EBB_TRY(ebb_sync_finish_rows(s, table, &table->pieces));
    }
    return EBB_OK;
}
