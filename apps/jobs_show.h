/* Jobs for people and as JSON. */
#ifndef EBB_APPS_JOBS_SHOW_H
#define EBB_APPS_JOBS_SHOW_H

#include "base/text.h"

#include <ebb/jobs.h>

/* One line a job; a word where there is none. */
void ebb_jobs_table(const ebb_queue_list_t *list, double now, ebb_text_t *out);
/* A list of objects. */
ebb_status_t ebb_jobs_json(const ebb_queue_list_t *list, ebb_text_t *out);
/* "23:10", "tomorrow 03:00" or "2026-11-22 03:00", in UTC. */
const char *ebb_jobs_time(double time, double now, char text[32]);
/* Bring the queue up to date with Slurm, where jobs are Slurm's; warns if that fails. */
void ebb_jobs_ask_slurm(ebb_queue_t *queue);

#endif
