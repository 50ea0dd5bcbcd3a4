/* A watchdog over the ranks of a job: a rank that is killed, stopped or stuck ends the job everywhere, with one line
 * that says which, instead of letting the others wait for ever.
 *
 * Each rank has one thread that tells rank 0 every second, over TCP and apart from training, how the rank is; rank 0
 * judges, and the others watch rank 0. The only rank of a job watches itself.
 * It changes no result. A process has at most one watch.
 */
#ifndef EBB_WATCH_H
#define EBB_WATCH_H

#include <ebb/base.h>
#include <ebb/comm.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Silence or standstill that ends the job. A rank that is busy in a step has ten times as long as it was busy before
 * without progress, if that is more; in what is done once, or with a disk that is slow, 30 times the limit. The only
 * rank of a job may be busy between steps, or wait for a disk there, for any time. */
#define EBB_WATCH_SECONDS 10.0

typedef struct ebb_watch ebb_watch_t;

/* Watch over the ranks of comm, which must outlive the watch. *watch_p is NULL, which the others accept, where the
 * hosts cannot reach each other by TCP (rank 0 warns). Collective. */
EBB_API ebb_status_t ebb_watch_start(ebb_comm_t *comm, ebb_watch_t **watch_p) EBB_MUST_CHECK;
/* Another limit, at least 2 seconds; the same on every rank. */
EBB_API void ebb_watch_limit(ebb_watch_t *watch, double seconds);
/* What to tell the user to do, as in "go on with: ebb train --resume runs/x". */
EBB_API void ebb_watch_advise(ebb_watch_t *watch, const char *advice);
/* Call told on the rank that says why the job ends, with "rank 3 on node7 ...", from a thread of the watch and half a
 * second before the end, whatever the rank's own threads are doing. NULL: no more; waits for a call under way. */
typedef void (*ebb_watch_told_t)(void *user, const char *why);
EBB_API void ebb_watch_on_end(ebb_watch_t *watch, ebb_watch_told_t told, void *user);
/* End this rank's part: it is not missed from now on. Not collective. */
EBB_API void ebb_watch_stop(ebb_watch_t *watch);

/* ---- before there is a watch, and after ---- */

/* A guard over MPI's start-up, or its end, during which the ranks cannot talk: a thread looks at the ranks of this
 * host, as /proc shows them. One that is stopped, or was killed, for so many seconds ends the job, and so does a job
 * within one host of which no rank does anything; what else does not come to its end, as with another host that is
 * lost, may take 30 times as long. */
typedef struct ebb_watch_guard ebb_watch_guard_t;

/* NULL, which the others accept, for a process without a launcher. leaving: at the end, where ranks may be gone. code:
 * what the process then exits with. advice: what to tell the user, a literal. Not collective. */
EBB_API ebb_watch_guard_t *ebb_watch_guard_begin(bool leaving, double seconds, int code, const char *advice);
/* Another limit, at least 2 seconds; 0: none. */
EBB_API void ebb_watch_guard_limit(ebb_watch_guard_t *guard, double seconds);
EBB_API void ebb_watch_guard_end(ebb_watch_guard_t *guard);

#ifdef __cplusplus
}
#endif
#endif
