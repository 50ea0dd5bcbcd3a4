/* A control group of one job, in which the kernel stops all processes at once, also those that are just being born and
 * those that would take SIGCONT from somebody else. Needs cgroup v2 (Linux 5.2) and leave to make groups below one's
 * own, as root and services with Delegate=yes have; elsewhere there is no freezer, and signals must do. */
#ifndef EBB_JOBS_FREEZER_H
#define EBB_JOBS_FREEZER_H

#include <limits.h>
#include <stdbool.h>

typedef struct ebb_freezer {
    char path[PATH_MAX]; /* of the group; "": there is none */
} ebb_freezer_t;

/* Make the group; also removes those that ended processes left. */
void ebb_freezer_create(ebb_freezer_t *f);
/* In a new process: go into the group, with all processes that it will start. Safe between fork and exec. */
void ebb_freezer_enter(const ebb_freezer_t *f);
/* False: there is no freezer, nobody is in it, or they did not all stop (go on) within a second. */
bool ebb_freezer_set(const ebb_freezer_t *f, bool frozen);
/* When its processes have ended. */
void ebb_freezer_destroy(ebb_freezer_t *f);

#endif
