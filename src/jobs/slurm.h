/* Inside the Slurm adapter. */
#ifndef EBB_JOBS_SLURM_H
#define EBB_JOBS_SLURM_H

#include "jobs/decide.h"
#include "base/text.h"

#include <ebb/slurm.h>

#include <limits.h>

#define EBB_SLURM_MOST_PARTS 64

/* ---- slurm_files.c: STATE/slurm/ID ---- */

typedef struct ebb_slurm_place {
    char path[PATH_MAX];
    char token[24]; /* in the comments of all of the job's parts */
    char **option;  /* of sbatch, ended by NULL; owned */
    bool is_array;
} ebb_slurm_place_t;

/* Make the folder with script, token and options; opening again finds them. */
ebb_status_t ebb_slurm_place_make(const char *state, const ebb_queue_job_t *job, const ebb_slurm_options_t *options);
ebb_status_t ebb_slurm_place_open(const char *state, int64_t id, ebb_slurm_place_t *place);
void ebb_slurm_place_free(ebb_slurm_place_t *place);

/* System time at which part k pauses; 0: it runs to the end of the work. */
ebb_status_t ebb_slurm_set_end(const ebb_slurm_place_t *place, int64_t part, double end);
ebb_status_t ebb_slurm_set_held(const ebb_slurm_place_t *place, bool held);
bool ebb_slurm_is_held(const ebb_slurm_place_t *place);
/* Has it ended by itself, and how? Of an array: the worst of those that have. */
bool ebb_slurm_exit(const ebb_slurm_place_t *place, int *code_p);
/* Starts of parts so far, the first one's system time, and seconds that they ran. */
typedef struct ebb_slurm_past {
    int64_t starts, ranks; /* ranks: of the last */
    double begun, running_s;
} ebb_slurm_past_t;
void ebb_slurm_past(const ebb_slurm_place_t *place, ebb_slurm_past_t *past);

/* ---- slurm_client.c: sbatch, squeue, scancel, scontrol ---- */

typedef enum ebb_slurm_word {
    EBB_SLURM_WAITS, /* pending, for its time or for resources */
    EBB_SLURM_RUNS,
    EBB_SLURM_CANCELLED,
    EBB_SLURM_ENDED, /* in any other way */
} ebb_slurm_word_t;

/* A Slurm job that is a part of one of ours. */
typedef struct ebb_slurm_part {
    char token[24], id[32], reason[64];
    int64_t part, tasks;
    ebb_slurm_word_t word;
} ebb_slurm_part_t;

typedef struct ebb_slurm_list {
    ebb_slurm_part_t *part; /* owned */
    int64_t n, capacity;
} ebb_slurm_list_t;

/* All parts of this user that Slurm still knows. */
ebb_status_t ebb_slurm_list(ebb_slurm_list_t *list);

typedef struct ebb_slurm_request {
    const ebb_queue_job_t *job;
    const ebb_slurm_place_t *place;
    const char *note;  /* of the comment */
    const char *after; /* id of the part before, "" for the first */
    int64_t part, ranks;
    double begin_in_s, length_s; /* real seconds from now; length 0: no end */
} ebb_slurm_request_t;

/* Hand a part over; id[32]. EBB_EUNAVAILABLE: no answer, and it may be there or not; EBB_EUSAGE: Slurm will not have
 * it. */
ebb_status_t ebb_slurm_sbatch(const ebb_slurm_request_t *request, char id[32]);
ebb_status_t ebb_slurm_scancel(const ebb_slurm_part_t *part);
ebb_status_t ebb_slurm_signal(const ebb_slurm_part_t *part); /* a pause */
ebb_status_t ebb_slurm_update(const ebb_slurm_part_t *part, double begin_in_s, int64_t tasks);
/* Let go of a part that Slurm itself has put on hold, because a node would not start it. */
bool ebb_slurm_failed_to_launch(const ebb_slurm_part_t *part);
ebb_status_t ebb_slurm_let_go(const ebb_slurm_part_t *part);

#endif
