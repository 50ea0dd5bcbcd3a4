/* What a supervisor tells of itself: supervisor.json for those who ask now, run.json for later, and lines on stderr. */
#ifndef EBB_SUPERVISE_STATE_H
#define EBB_SUPERVISE_STATE_H

#include <ebb/supervise.h>
#include "base/json.h"

typedef struct ebb_supervisor_state {
    const ebb_supervise_options_t *options;
    json_t *restarts, *resizes; /* lists of {time, step, reason, ranks_before, ranks} */
    char started[32];
    int64_t pid;
} ebb_supervisor_state_t;

/* Restarts and resizes of the run so far come from run.json, if the run goes on. */
ebb_status_t ebb_state_open(const ebb_supervise_options_t *options, ebb_supervisor_state_t *state);
void ebb_state_close(ebb_supervisor_state_t *state);
/* Replace supervisor.json. word: "running", "pausing", "waiting", "restarting", "finished", "paused" or "failed". */
void ebb_state_set(const ebb_supervisor_state_t *state, const char *word, int ranks);
/* Append to one of the lists; step -1: no checkpoint yet. */
void ebb_state_note(json_t *list, int64_t step, const char *reason, int ranks_before, int ranks);
/* Bring the lists into run.json, and the outcome of a job that could not write it itself. The job must have ended. */
void ebb_state_record(const ebb_supervisor_state_t *state, ebb_status_t outcome, const char *reason);
/* Step of the newest checkpoint, -1 for none. good: of the newest whose hashes are right. */
int64_t ebb_state_newest(const ebb_supervisor_state_t *state, bool good);
/* Which start run.json last knows of (0: none; numbers that differ mean different starts), and its error ("": none). */
int64_t ebb_state_start(const ebb_supervisor_state_t *state, char *error, size_t size);
/* Whether run.json says that the run came to its end. */
bool ebb_state_finished(const ebb_supervisor_state_t *state);
/* When a process last took the run's lock (0: never): numbers that differ mean that another did. */
int64_t ebb_state_taken(const ebb_supervisor_state_t *state);
void ebb_state_say(const ebb_supervisor_state_t *state, const char *fmt, ...) EBB_PRINTF(2, 3);

#endif
