/* The processes of a job. Each start has a keeper: a small process that starts the command, passes on what the agent
 * asks for, and writes down how it ended. It outlives the agent. All of a job's files lie in STATE/jobs/ID:
 *
 *   start-N.json   what to start (N: the attempt), written before the keeper is
 *   begun-N        made by whoever comes first, with O_EXCL: the keeper of attempt N just before it starts the command,
 * or an agent that takes the attempt back. So an attempt happens once, or not at all. keeper.lock    held by the keeper
 * while it lives; says without pids, and across reboots, whether there is one end-N.json     how attempt N ended;
 * appears as a whole log            what the job printed
 *
 * All processes of a job have EBB_JOB_ID and EBB_STATE_DIR in their environment, by which those that lost their keeper
 * are found and ended. */
#ifndef EBB_JOBS_PROCESS_H
#define EBB_JOBS_PROCESS_H

#include <ebb/jobs.h>

#include <limits.h>
#include <sys/types.h>

/* What the agent asks of a keeper, by signal. */
typedef enum ebb_keeper_word {
    EBB_KEEPER_STOP = 15,   /* SIGTERM: hand it on to the command */
    EBB_KEEPER_KILL = 3,    /* SIGQUIT: kill all processes of the job */
    EBB_KEEPER_FREEZE = 20, /* SIGTSTP */
    EBB_KEEPER_THAW = 18,   /* SIGCONT */
} ebb_keeper_word_t;

typedef enum ebb_attempt_state {
    EBB_ATTEMPT_NONE,    /* nobody has begun it */
    EBB_ATTEMPT_REVOKED, /* and nobody will */
    EBB_ATTEMPT_RUNS,
    EBB_ATTEMPT_ENDED,
    EBB_ATTEMPT_LOST, /* begun, and neither a keeper nor an end is there */
} ebb_attempt_state_t;

/* STATE/jobs/ID */
void ebb_attempt_folder(const char *state, int64_t id, char path[PATH_MAX]);
/* Write down what to start and start a keeper for it. self: the program `ebb`. */
ebb_status_t ebb_attempt_start(const char *state, const char *self, const ebb_queue_job_t *job, int64_t attempt,
                               int64_t ranks, const char *gpu);
/* How it stands; *code_p: of ENDED, as a shell says it. */
ebb_attempt_state_t ebb_attempt_look(const char *state, int64_t id, int64_t attempt, int *code_p);
/* Take back an attempt that was not begun; what it is then: REVOKED, or what came before. */
ebb_attempt_state_t ebb_attempt_revoke(const char *state, int64_t id, int64_t attempt, int *code_p);
/* Tell the keeper; false if there is none. */
bool ebb_attempt_tell(const char *state, int64_t id, int64_t attempt, ebb_keeper_word_t word);
/* End all processes of the job that lost their keeper; how many are left. */
int ebb_attempt_sweep(const char *state, int64_t id);

#endif
