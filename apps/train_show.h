/* What `ebb train` shows while it runs: facts at the start, a live line, a line per epoch. Rank 0 alone. */
#ifndef EBB_APPS_TRAIN_SHOW_H
#define EBB_APPS_TRAIN_SHOW_H

#include <ebb/ledger.h>
#include <ebb/train.h>
#include "base/json.h"

/* Facts as ebb_observer_t.start gives them. */
void train_show_start(const char *name, const json_t *facts);
void train_show_step(const ebb_step_report_t *step, const ebb_epoch_report_t *last);
void train_show_epoch(const ebb_epoch_report_t *epoch, int64_t epochs);
void train_show_result(const ebb_train_result_t *result, const ebb_ledger_sums_t *sums);

#endif
