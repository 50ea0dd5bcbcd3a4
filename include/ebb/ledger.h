/* Books of energy and carbon that an auditor can follow: every interval that was metered is a row of an SQLite file
 * (ledger.db in a run's folder), and each row's hash covers the row and the hash before it, so that no row can be
 * changed, removed from the middle or put in without that being found. Any SQLite shell reads it; `cluster/audit`,
 * which shares no code with Ebb, verifies the chain and adds it up again.
 *
 * A run's ledger goes on over pauses, resumes, other hosts and other numbers of ranks. Each host's first rank appends
 * its own rows, in one short transaction each; the folder must lie on a file system with locks (as for SQLite itself).
 *
 * Time. begin and end are wall time in UTC: that of EBB_CLOCK where it is set, since the grid's intensity is looked up
 * by it. `seconds` is real, by a monotonic clock, and joules are what was drawn in real time: power is joules over
 * `seconds`, also when an hour of a rehearsal lasts a second. So energy is never scaled; a rehearsal's grams are those
 * of the energy that was really drawn, at the intensity of the hour that was played.
 *
 * Rows of work have a host and joules. Rows of the grid have neither: they tell the intensity of times in which nothing
 * ran (waiting, pauses), from which is known what starting at once would have emitted.
 *
 * Grams of a row are job_j / 3.6e6 * pue * intensity. An intensity that is not known is NAN here and NULL in the file;
 * it is never 0.
 */
#ifndef EBB_LEDGER_H
#define EBB_LEDGER_H

#include <ebb/base.h>
#include <ebb/carbon.h>
#include <ebb/energy.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ebb_ledger_row {
    int64_t seq;   /* 1, 2, 3, ...; set by ebb_ledger_append */
    char host[64]; /* empty: a row of the grid */
    int64_t ranks; /* of the job on all hosts at that time; 0: not a run of ranks */
    double begin, end, seconds;
    double cpu_seconds;                     /* of the job, on this host */
    double node_j, job_j, others_j, idle_j; /* node = job + others + idle */
    double measured_j, gpu_j;               /* of the node's */
    double job_low_j, job_high_j;           /* equal job_j where measured */
    char meter[256];                        /* "measured: package-0, dram", "estimated: ..." */
    double intensity;                       /* mean over the interval, gCO2e/kWh; NAN: not known */
    ebb_carbon_rung_t rung;                 /* the least of those used; EBB_CARBON_NOTHING: not known */
    char source[160], zone[64];
    ebb_carbon_signal_t signal;
    ebb_carbon_scope_t scope;
    double pue;
    double embodied_g; /* share of making the host, for this interval; NAN: not counted */
    char hash[65];     /* set by ebb_ledger_append */
} ebb_ledger_row_t;

/* What stands before the first row's hash. */
#define EBB_LEDGER_GENESIS "ebb-ledger-1"

typedef struct ebb_ledger ebb_ledger_t;

/* Open for appending, made if absent. One thread. */
EBB_API ebb_status_t ebb_ledger_open(const char *path, ebb_ledger_t **ledger_p) EBB_MUST_CHECK;
/* All n rows or none, durable on return. Texts lose control characters, so that they hash line by line. */
EBB_API ebb_status_t ebb_ledger_append(ebb_ledger_t *ledger, ebb_ledger_row_t *rows, int64_t n);
/* End of the last row, of work or of the grid; 0 if there is none. */
EBB_API ebb_status_t ebb_ledger_last_end(ebb_ledger_t *ledger, double *end_p);
EBB_API void ebb_ledger_close(ebb_ledger_t *ledger);

/* All rows in order, each checked against the chain: EBB_ECORRUPT names the first that does not fit. *rows_p: free with
 * ebb_ledger_free. EBB_ENOINPUT: no such file. */
EBB_API ebb_status_t ebb_ledger_read(const char *path, ebb_ledger_row_t **rows_p, int64_t *n_p) EBB_MUST_CHECK;
EBB_API void ebb_ledger_free(ebb_ledger_row_t *rows);

/* ---- sums ---- */

typedef struct ebb_ledger_sums {
    int64_t rows, work_rows;
    double begin, end; /* of work */
    double work_s;     /* wall time in which at least one host worked */
    double host_s;     /* real seconds, over hosts */
    double cpu_seconds, node_j, job_j, others_j, idle_j, measured_j, gpu_j, job_low_j, job_high_j;
    double unknown_j; /* of job_j: at unknown intensity */
    double rung_j[EBB_CARBON_RUNGS];
    double facility_j;    /* job_j * pue */
    double highest;       /* intensity that is known, of any row; NAN: none */
    double known_g;       /* of job_j at known intensity */
    double assumed_g;     /* of unknown_j, at the highest that is known: what is not known never counts as clean */
    double low_g, high_g; /* of job_low_j and job_high_j, assumed alike */
    double idle_g;        /* of idle_j, likewise */
    double grams;         /* known_g + assumed_g; NAN: no intensity is known at all */
    double embodied_g;    /* NAN: not counted in any row */
    double asap_g;        /* the same joules without pauses from `submitted` on; NAN: intensities are not known there */
    bool mixed;           /* average and marginal, or direct and life-cycle, are in one sum */
} ebb_ledger_sums_t;

/* submitted: wall time from which the job could have run; 0: the first row of work. */
EBB_API void ebb_ledger_add_up(const ebb_ledger_row_t *rows, int64_t n, double submitted, ebb_ledger_sums_t *sums);

/* ---- keeping books ---- */

typedef struct ebb_books_options {
    const char *path; /* of the ledger */
    int64_t ranks;    /* as in the rows */
    ebb_meter_options_t meter;
    const ebb_carbon_source_options_t *source; /* copied; NULL: intensity is not known */
    double pue;                                /* 0: 1 */
    double embodied_g;                         /* of making this host, gCO2e; 0: not counted */
    double lifetime_s;      /* over which that is spread: the job's part by its share of processor time,
                               the whole host if it uses GPUs */
    bool grid;              /* also book the grid's intensity from `since`, or the last row's end, until now */
    double since;           /* wall time; 0: only from the last row on */
    const char *prometheus; /* file to replace after each interval; NULL: none */
    const char *name;       /* of the job, for that file */
} ebb_books_options_t;

typedef struct ebb_books ebb_books_t;

/* Begin; a thread of the books' own appends a row every 1 to 10 s, and others ask the source. Nothing here waits for
 * them or fails because of them: rows wait in memory while the file cannot be written (told once), and while the first
 * answer is out (20 s at most). */
EBB_API ebb_status_t ebb_books_start(const ebb_books_options_t *options, ebb_books_t **books_p) EBB_MUST_CHECK;
/* Sums of this start. Any thread. */
EBB_API void ebb_books_energy(ebb_books_t *books, ebb_energy_t *energy);
/* As ebb_meter_gpus. */
EBB_API int ebb_books_gpus(ebb_books_t *books, ebb_gpu_use_t gpus[EBB_METER_GPUS]);
/* Last row, then the end; waits 2 s at most for a source that has never answered. books may be NULL. Tells whether all
 * rows are in the file. */
EBB_API ebb_status_t ebb_books_stop(ebb_books_t *books);

#ifdef __cplusplus
}
#endif
#endif
