/* The process that stays with one start of a job. See jobs/process.h for its files. */
#ifndef EBB_JOBS_KEEPER_H
#define EBB_JOBS_KEEPER_H

#include <ebb/base.h>

#include <sys/types.h>

#define EBB_KEEPER_LOCK "keeper.lock"

/* Make begun-N for a keeper (or for nobody: pid 0); false if somebody was first. */
bool ebb_keeper_claim(const char *folder, int64_t attempt, pid_t pid);

#endif
