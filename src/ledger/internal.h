/* Parts of the ledger stage. */
#ifndef EBB_LEDGER_INTERNAL_H
#define EBB_LEDGER_INTERNAL_H

#include <ebb/ledger.h>

/* The grid's intensity as the ladder tells it, asked on threads of its own: a source that hangs holds up nobody. */
typedef struct ebb_asker ebb_asker_t;

/* source is copied; NULL: nothing is ever known. */
ebb_status_t ebb_asker_create(const ebb_carbon_source_options_t *source, ebb_asker_t **asker_p);
/* Ask, if it is time to, without waiting. from: earliest time to be known; that of the first call counts. */
void ebb_asker_refresh(ebb_asker_t *asker, double from);
/* Has there been an answer, or is none to come? Waits up to so many (real) seconds for the first. */
bool ebb_asker_answered(ebb_asker_t *asker, double wait_s);
/* Intensity, rung, source, zone, signal and scope of [row->begin, row->end). */
void ebb_asker_tell(ebb_asker_t *asker, ebb_ledger_row_t *row);
/* Does not wait for a thread that is still asking. */
void ebb_asker_release(ebb_asker_t *asker);

/* Sums as rows come: begin, then each row. What is assumed of unknown intensities needs all rows, and is left out. */
void ebb_ledger_begin(ebb_ledger_sums_t *sums);
void ebb_ledger_count(const ebb_ledger_row_t *row, ebb_ledger_sums_t *sums);

/* Replace a file in the text format of Prometheus, for node_exporter's textfile collector. */
ebb_status_t ebb_ledger_prometheus(const char *path, const char *name, const char *host, const ebb_ledger_sums_t *sums,
                                   const ebb_ledger_row_t *last);

#endif
