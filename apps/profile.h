/* profile.json: how fast a configuration runs, and what it draws, on so many ranks. `ebb profile` and every run that
 * lasted write it; `ebb plan --profile` and the agent read it:
 *
 *     {"key": SHA-256 of the configuration (ebb_run_config_key), "rows": of the whole run,
 *      "sizes": [{"ranks", "rows_per_s", "watts", "measured", "seconds", "host"}, ...]}   by ranks
 */
#ifndef EBB_APPS_PROFILE_H
#define EBB_APPS_PROFILE_H

#include <ebb/ledger.h>
#include <ebb/train.h>

typedef struct profile_size {
    int64_t ranks;
    double rows_per_s;
    double watts;   /* of the job, beyond idling, over all hosts */
    double seconds; /* that it was watched */
    bool measured;  /* by counters for the most part; else estimated */
} profile_size_t;

/* Put a size into the file, in place of an earlier one of as many ranks; sizes of another configuration go. rows: of
 * the whole run; 0: not known. */
ebb_status_t profile_put(const char *path, const char *key, double rows, const profile_size_t *size);
/* Watts of a run on so many ranks by its ledger's rows; false if there are none. The first row of a start, with its
 * beginning, is left out where there are others. */
bool profile_power(const ebb_ledger_row_t *rows, int64_t n, int64_t ranks, profile_size_t *size);

#endif
