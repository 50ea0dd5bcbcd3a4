/* The queue of jobs: what was asked for, what became of it, and the plan in force.
 *
 *     ebb_queue_t *queue;
 *     ebb_queue_spec_t spec = {.name = "night", .word = words, .cpus = 1, .hours = 6, .deadline = now + 86400};
 *     ebb_queue_open(NULL, &queue);
 *     ebb_queue_submit(queue, &spec, &id);
 *     ebb_queue_move(queue, &(ebb_queue_change_t){.id = id, .from = EBB_QUEUE_BIT(EBB_QUEUED), .to = EBB_HELD,
 *                                                 .reason = "by the user"}, &moved);
 *     ebb_queue_close(queue);
 *
 * One SQLite file (WAL) in the state folder, that any number of processes of one user may use at once, on one machine.
 * Every call is one transaction: it happened as a whole and is on the disk when the call returns, or it did not happen.
 * A move from one state to another names the states that it may start from, so that of two who move a job at the same
 * time one is told that it came too late. Every move is kept, with time and reason.
 *
 * Times are seconds since 1970 on Ebb's wall clock (EBB_CLOCK makes it run fast); 0 stands for none. Work is counted as
 * a share of the whole, 0 to 1. Errors: EBB_EIO and EBB_ENOSPC name the file; EBB_EINVAL, EBB_EUSAGE what was asked.
 *
 * The queue does not run anything: `ebb agent` carries out jobs of this machine, Slurm those that were handed to it.
 */
#ifndef EBB_JOBS_H
#define EBB_JOBS_H

#include <ebb/base.h>
#include <ebb/plan.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- what is asked for ---- */

/* How a job is stopped in the middle. */
typedef enum ebb_queue_pause {
    EBB_PAUSE_NEVER,      /* not at all: such a job can be deferred */
    EBB_PAUSE_FREEZE,     /* all its processes stand still, by cgroup v2's freezer where groups may be made, else by
                           * SIGSTOP and SIGCONT; memory and slots of a GPU stay in use */
    EBB_PAUSE_CHECKPOINT, /* SIGTERM, upon which it exits 75; the same command goes on */
} ebb_queue_pause_t;

/* "never", "freeze", "checkpoint"; NULL-terminated. */
EBB_API const char *const *ebb_queue_pause_names(void);

/* A job as it was submitted. Serves this machine's queue and Slurm alike. Texts and lists are borrowed: by submit from
 * the caller, in an ebb_queue_job_t from it. */
typedef struct ebb_queue_spec {
    const char *name;   /* for people; need not be unique */
    bool run;           /* a run file, carried out by `ebb run`: checkpoints, and can be resized */
    char *const *word;  /* the command, ended by NULL; of a run the run file's absolute path and options of ebb run */
    const char *folder; /* absolute: where it is started */
    const char *run_folder;   /* of a run: absolute; run.json, checkpoints, profile.json; else NULL */
    char *const *environment; /* NAME=VALUE, ended by NULL: what it is started with; NULL: the starter's own */
    ebb_plan_policy_t policy;
    ebb_queue_pause_t pause;
    int64_t ranks, least_ranks, most_ranks; /* as asked for; range of elastic (equal to ranks without) */
    int64_t cpus, gpus;                     /* a rank needs; gpus may be 0 */
    double deadline;      /* latest end; 0: none was given (plans then take a day more than the job needs) */
    double max_wait_s;    /* latest first start after submission; 0: as late as the deadline allows */
    const int64_t *after; /* ids that must be done first */
    int64_t n_after;
    /* Estimates; 0: unknown, then ebb_queue_estimate says what is taken for them. */
    double hours;        /* on `ranks` ranks */
    double power_w;      /* of the whole job on `ranks` ranks, at the plug */
    double restart_s;    /* lost at a start after a pause, or at a change of ranks; more, where the agent sees more */
    double pue;          /* 0: 1 */
    const char *profile; /* file of measured sizes, or NULL: run_folder/profile.json if there is one */
    bool rerun; /* may be started again from its beginning if the machine fails in the middle; runs always may */
} ebb_queue_spec_t;

/* ---- what became of it ---- */

typedef enum ebb_queue_state {
    EBB_QUEUED,    /* waits for its time, its slots or other jobs */
    EBB_HELD,      /* until it is released */
    EBB_STARTING,  /* its start was decided; on Slurm: handed over */
    EBB_RUNNING,   /* */
    EBB_PAUSING,   /* has been asked to stop */
    EBB_PAUSED,    /* begun and stopped, to go on */
    EBB_DONE,      /* exit code 0 */
    EBB_FAILED,    /* any other end of its own, or of its machine */
    EBB_CANCELLED, /* */
} ebb_queue_state_t;
#define EBB_QUEUE_STATES 9

#define EBB_QUEUE_BIT(state) (1U << (state)) /* sets of states */
#define EBB_QUEUE_OVER       (EBB_QUEUE_BIT(EBB_DONE) | EBB_QUEUE_BIT(EBB_FAILED) | EBB_QUEUE_BIT(EBB_CANCELLED))
#define EBB_QUEUE_LIVE       (~EBB_QUEUE_OVER & (EBB_QUEUE_BIT(EBB_QUEUE_STATES) - 1))
#define EBB_QUEUE_ANY        (EBB_QUEUE_BIT(EBB_QUEUE_STATES) - 1)

EBB_API const char *ebb_queue_state_name(ebb_queue_state_t state); /* "queued", ... */

/* What the user wants of a job that is under way; carried out by whoever runs it. */
typedef enum ebb_queue_wish { EBB_WISH_NONE, EBB_WISH_HOLD, EBB_WISH_CANCEL } ebb_queue_wish_t;

typedef struct ebb_queue_job {
    int64_t id; /* 1, 2, ... */
    ebb_queue_spec_t spec;
    ebb_queue_state_t state;
    ebb_queue_wish_t wish;
    double submitted, changed; /* changed: of state */
    double begun, ended;       /* first start; end */
    double running_since;      /* of the stretch under way, from which `done` does not yet count; 0: none */
    double running_s;          /* of the stretches before */
    double done;               /* share of the work, as far as it is known */
    int64_t attempt;           /* starts of processes so far */
    int64_t ranks;             /* now, or last */
    int64_t pauses, resizes;   /* so far */
    int exit_code;             /* of DONE and FAILED; 128 + signal */
    const char *reason;        /* of the state, in words; never NULL */
    const char *gpu;           /* indices of the devices it has, "0,1"; "" */
    const char *plan;          /* JSON (below) of the plan in force; "" before the first */
    const char *slurm;         /* what Slurm knows it by: job ids, comma-separated; "" of this machine's jobs */
    void *memory;              /* holds all texts */
} ebb_queue_job_t;

typedef struct ebb_queue_list {
    ebb_queue_job_t *job;
    int64_t n, capacity;
} ebb_queue_list_t;

typedef struct ebb_queue_event {
    double time;
    ebb_queue_state_t from, to; /* equal where something else is told: a resize */
    int64_t ranks;
    char reason[256];
} ebb_queue_event_t;

/* ---- the queue ---- */

typedef struct ebb_queue ebb_queue_t;

/* $EBB_STATE_DIR, else $XDG_STATE_HOME/ebb, else ~/.local/state/ebb; not made. */
EBB_API ebb_status_t ebb_queue_folder(char *path, size_t size) EBB_MUST_CHECK;
/* Open, and make if need be, the queue in a state folder (NULL: the user's), which nobody else may read. */
EBB_API ebb_status_t ebb_queue_open(const char *folder, ebb_queue_t **queue_p) EBB_MUST_CHECK;
EBB_API void ebb_queue_close(ebb_queue_t *queue);
EBB_API const char *ebb_queue_path(const ebb_queue_t *queue); /* the state folder, absolute */

/* Check and enter a job; *id_p. EBB_EINVAL names what is wrong with it: an unknown job in `after`, ranks out of order,
 * a policy that its kind cannot follow. slurm: the ids under which it was handed to Slurm (its state is then STARTING),
 * else NULL. */
EBB_API ebb_status_t ebb_queue_submit(ebb_queue_t *queue, const ebb_queue_spec_t *spec, const char *slurm,
                                      int64_t *id_p) EBB_MUST_CHECK;

/* One job by id, or jobs in a set of states by id. *job, *list zeroed or of an earlier call; free with ..._free. */
EBB_API ebb_status_t ebb_queue_get(ebb_queue_t *queue, int64_t id, ebb_queue_job_t *job) EBB_MUST_CHECK;
EBB_API ebb_status_t ebb_queue_read(ebb_queue_t *queue, unsigned states, ebb_queue_list_t *list) EBB_MUST_CHECK;
/* By "ID" or name; of several jobs of a name the newest that is not over, else the newest. EBB_ENOINPUT: none. */
EBB_API ebb_status_t ebb_queue_find(ebb_queue_t *queue, const char *text, ebb_queue_job_t *job) EBB_MUST_CHECK;
EBB_API void ebb_queue_job_free(ebb_queue_job_t *job);
EBB_API void ebb_queue_list_free(ebb_queue_list_t *list);
/* A number that changes whenever somebody else changed the queue. */
EBB_API int64_t ebb_queue_version(ebb_queue_t *queue);

/* A move, and what changes with it. */
typedef struct ebb_queue_change {
    int64_t id;
    unsigned from; /* set of states that it may come from; 0: any */
    ebb_queue_state_t to;
    const char *reason; /* NULL: "" */
    int64_t ranks;      /* 0: as it is */
    const char *gpu;    /* NULL: as it is */
    const char *slurm;  /* NULL: as it is */
    int exit_code;
    double done;      /* share of the work; 0: as it is */
    bool new_attempt; /* count a start */
} ebb_queue_change_t;

/* *moved_p (may be NULL): false if the job was in none of the states `from`, or is over: nothing was changed then.
 * Keeps the time: begun, running_since, running_s, ended, pauses; clears the wish where it is fulfilled. */
EBB_API ebb_status_t ebb_queue_move(ebb_queue_t *queue, const ebb_queue_change_t *change, bool *moved_p);
/* Of a job under way: remember what the user wants. */
EBB_API ebb_status_t ebb_queue_wish(ebb_queue_t *queue, int64_t id, ebb_queue_wish_t wish);
/* The plan in force and the reason for the state as it is now; either may be NULL: as it is. */
EBB_API ebb_status_t ebb_queue_note(ebb_queue_t *queue, int64_t id, const char *plan, const char *reason);
/* A running job has other ranks, from now on, and has done this share before. */
EBB_API ebb_status_t ebb_queue_resized(ebb_queue_t *queue, int64_t id, int64_t ranks, double done, const char *reason);

/* What happened to a job, in order; *event_p is freed by the caller with free(). */
EBB_API ebb_status_t ebb_queue_history(ebb_queue_t *queue, int64_t id, ebb_queue_event_t **event_p, int64_t *n_p);

/* Forget jobs that were over before `before`, with their logs and history; *n_p of them. One that a live job waits for
 * stays. Numbers are never given again. */
EBB_API ebb_status_t ebb_queue_prune(ebb_queue_t *queue, double before, int64_t *n_p);

/* Small values that outlive their writer: a source's record (ebb_plan_track_t) under a key. EBB_OK with *bytes_p 0:
 * there is none of this key. */
EBB_API ebb_status_t ebb_queue_keep(ebb_queue_t *queue, const char *key, const void *value, size_t bytes);
EBB_API ebb_status_t ebb_queue_recall(ebb_queue_t *queue, const char *key, void *value, size_t room, size_t *bytes_p);

/* ---- what a plan needs to know ---- */

/* Sizes and work of a job, measured where a profile is, else as estimated, else by default: an hour, 150 W a rank, and
 * that every further rank adds nine tenths of the one before it. */
typedef struct ebb_queue_estimate {
    ebb_plan_size_t *size; /* owned; by ranks; only spec.ranks unless elastic */
    int64_t n, base;       /* base: index of spec.ranks */
    double work;           /* the whole: seconds on `base` x its rate */
    bool measured;         /* sizes come from a profile */
    bool guessed;          /* the length is the default, nobody's estimate */
} ebb_queue_estimate_t;

EBB_API ebb_status_t ebb_queue_estimate(const ebb_queue_spec_t *spec, ebb_queue_estimate_t *estimate) EBB_MUST_CHECK;
EBB_API void ebb_queue_estimate_free(ebb_queue_estimate_t *estimate);

/* Latest end that is planned for: the deadline less a reserve of 5 % of the work and a minute, or without a deadline a
 * day after the job would end if it began at submission. */
EBB_API double ebb_queue_latest_end(const ebb_queue_job_t *job, const ebb_queue_estimate_t *estimate);

/* ---- carrying it out ---- */

typedef struct ebb_agent_options {
    const char *folder; /* state folder; NULL: the user's */
    const char *self;   /* the program `ebb`, absolute: keepers and runs are started with it */
    int64_t slots;      /* ranks x cpus that run at once */
    int64_t gpus;       /* devices 0 to gpus - 1 */
    bool until_idle;    /* return when no job is left that could still run */
    bool quiet;         /* tell of failures alone */
} ebb_agent_options_t;

/* Carry out the jobs of this machine until SIGTERM or SIGINT; jobs that run go on then, and the next agent takes them
 * over. EBB_EUSAGE: another agent is at work on this queue. Blocks signals of the calling thread. */
EBB_API ebb_status_t ebb_agent_run(const ebb_agent_options_t *options) EBB_MUST_CHECK;
/* Whether an agent is at work on the queue in that state folder. */
EBB_API bool ebb_agent_lives(const char *folder);

/* Be the keeper of one start of a job: what `ebb keep-job STATE/jobs/ID ATTEMPT` does. */
EBB_API ebb_status_t ebb_keep_job(const char *folder, int64_t attempt) EBB_MUST_CHECK;

#ifdef __cplusplus
}
#endif
#endif
