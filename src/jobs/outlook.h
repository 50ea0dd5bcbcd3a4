/* What is known of the grid, for the agent: one outlook for each source that jobs name, asked for by a thread of its
 * own, so that no job waits for a service that hangs. */
#ifndef EBB_JOBS_OUTLOOK_H
#define EBB_JOBS_OUTLOOK_H

#include <ebb/carbon.h>
#include <ebb/jobs.h>

#define EBB_OUTLOOK_STEP 900 /* seconds */

typedef struct ebb_outlook ebb_outlook_t;   /* of one source */
typedef struct ebb_outlooks ebb_outlooks_t; /* all */

/* The queue keeps the records of sources from one agent to the next. */
ebb_status_t ebb_outlooks_create(ebb_queue_t *queue, ebb_outlooks_t **all_p) EBB_MUST_CHECK;
/* Waits for answers under way: some seconds at most. */
void ebb_outlooks_destroy(ebb_outlooks_t *all);

/* The source that a job names (EBB_CARBON_* of its environment, else of ours), looked at until `until`. Belongs to all.
 */
ebb_status_t ebb_outlook_find(ebb_outlooks_t *all, const ebb_queue_spec_t *spec, double until,
                              ebb_outlook_t **outlook_p);
/* To be called often: takes answers, asks anew when a slot has passed. */
void ebb_outlooks_tend(ebb_outlooks_t *all, double now);
/* Counts answers; 0: there was none yet, and is none to be waited for only if `ebb_outlook_waits` is false. */
int64_t ebb_outlook_version(const ebb_outlook_t *outlook);
bool ebb_outlook_waits(const ebb_outlook_t *outlook);
/* g per kWh of n steps from now, corrected by the source's record. False: nothing is known of the grid. */
bool ebb_outlook_sample(const ebb_outlook_t *outlook, double now, double step_s, int64_t n, double *g);
const ebb_plan_track_t *ebb_outlook_track(const ebb_outlook_t *outlook);
/* "live, neso GB" */
void ebb_outlook_describe(const ebb_outlook_t *outlook, char *text, size_t size);

#endif
