/* Inside the agent. */
#ifndef EBB_JOBS_AGENT_H
#define EBB_JOBS_AGENT_H

#include "jobs/decide.h"
#include "jobs/outlook.h"
#include "jobs/pace.h"
#include "jobs/process.h"

#define EBB_AGENT_LOCK "agent.lock"
#define EBB_MOST_GPUS  64

/* A job that is not over, and what the agent thinks of it. */
typedef struct ebb_task {
    ebb_queue_job_t job;
    ebb_queue_estimate_t estimate;
    ebb_decision_t decision;
    ebb_outlook_t *outlook; /* NULL: needs none */
    int64_t version;        /* of the outlook, when it was planned; -1: never */
    double planned;         /* when */
    int64_t wanted;         /* ranks by its plan; 0: not now */
    double until;           /* when that changes */
    double left;            /* work; at the last look */
    double latest_end;      /* its own, or what others that wait for it need; INFINITY for none */
    double length;          /* work of the whole by the pace that was seen; 0: none was */
    ebb_pace_t pace;
    bool overrun; /* has done more than was estimated */
    bool ready;   /* the jobs it waits for are done */
    ebb_demand_t demand;
    int64_t started_ns, asked_ns, not_before_ns; /* by this agent; 0: not */
    bool killed, resumed;                        /* resumed: looked at by this agent */
    pid_t scaler;                                /* `ebb scale` under way; 0: none */
    int64_t scaled_to;
    char why[256]; /* as noted in the queue */
    bool new_plan; /* not noted yet */
} ebb_task_t;

typedef struct ebb_agent {
    const ebb_agent_options_t *options;
    ebb_queue_t *queue;
    const char *state; /* folder */
    ebb_planner_t *planner;
    ebb_outlooks_t *outlooks;
    ebb_task_t **task; /* by id */
    int64_t n, capacity;
    int64_t seen; /* version of the queue */
    double now, tick_s;
    double *grid; /* scratch: g per kWh */
    int64_t grid_capacity;
    int64_t n_slurm;        /* live jobs that were handed to Slurm */
    pid_t slurm;            /* `ebb slurm` under way; 0: none */
    int64_t slurm_after_ns; /* when to look after them again */
    int lock_fd, signals;
    bool stop;
} ebb_agent_t;

/* ---- life.c: processes and wishes ---- */

void ebb_agent_say(const ebb_agent_t *a, const ebb_task_t *t, const char *fmt, ...) EBB_PRINTF(3, 4);
/* Warn of an error of the queue or a file, and go on. */
void ebb_agent_forgive(void);
bool ebb_task_has_processes(const ebb_task_t *t); /* stopped ones as well */
bool ebb_task_is_frozen(const ebb_task_t *t);
double ebb_task_units(const ebb_agent_t *a, const ebb_task_t *t); /* of work done so far */
double ebb_task_rate(const ebb_task_t *t);                        /* work a second on its ranks */
/* A move of the task; false if somebody else moved it first, or the queue cannot be written. */
bool ebb_task_move(ebb_agent_t *a, ebb_task_t *t, const ebb_queue_change_t *change);
void ebb_task_look(ebb_agent_t *a, ebb_task_t *t);
void ebb_task_fulfil(ebb_agent_t *a, ebb_task_t *t);
void ebb_task_start(ebb_agent_t *a, ebb_task_t *t, int64_t ranks, const char *gpu);
void ebb_task_pause(ebb_agent_t *a, ebb_task_t *t);
void ebb_task_go_on(ebb_agent_t *a, ebb_task_t *t); /* of frozen ones */
void ebb_task_scale(ebb_agent_t *a, ebb_task_t *t, int64_t ranks);
void ebb_task_scaled(ebb_agent_t *a, ebb_task_t *t, int status);
/* Start this program with other words (NULL-terminated), its output appended to the file `log` (NULL: where ours goes);
 * 0: it cannot be. */
pid_t ebb_agent_spawn(const ebb_agent_t *a, char *const *word, const char *log);

/* ---- schedule.c: plans, slots ---- */

void ebb_agent_plan(ebb_agent_t *a);
void ebb_agent_schedule(ebb_agent_t *a);
/* Write new reasons and plans into the queue, in one transaction. */
void ebb_agent_note(ebb_agent_t *a);

#endif
