/* The books of a training run: one meter on each host, kept by its first rank, in the ledger of the run's folder. */
#ifndef EBB_APPS_RUN_BOOKS_H
#define EBB_APPS_RUN_BOOKS_H

#include <ebb/comm.h>
#include <ebb/ledger.h>
#include <ebb/report.h>
#include <ebb/train.h>

typedef struct run_books {
    ebb_books_t *books; /* NULL on ranks that are not the first of their host */
    ebb_pids_t pids;    /* of the host's ranks */
    char *gpus;         /* that they see, together; NULL: all of the host */
    double cpu_seconds; /* of this rank: at the beginning, then in between */
    /* of the host in this start, once they have stopped; on its first rank */
    ebb_energy_t energy;
    int n_used;
    ebb_gpu_use_t used[EBB_METER_GPUS]; /* the GPUs that worked for the run */
} run_books_t;

/* Begin. Nothing but memory fails it: a source that cannot be used is told, and intensity booked as unknown.
 * submitted: wall time from which the run could have run; 0: not known. Collective. */
ebb_status_t run_books_start(ebb_comm_t *comm, const ebb_run_config_t *config, double submitted, run_books_t *books);
/* How busy this host's GPUs of the run have been so far: seconds over all of them, and busy ones of them. false: not
 * known. Any rank by itself; waits for nothing. */
bool run_books_gpus(const run_books_t *books, double *seconds_p, double *busy_p);
/* Last rows. Any rank by itself. */
void run_books_stop(run_books_t *books);
/* After training, books stopped: the ledger's sums, all starts together, into energy.* and carbon.* of the record, on
 * rank 0; *sums. And into energy.starts what each rank of this start was charged: of its host's joules of the job, of
 * processors by its processor time, of GPUs alike; into energy.gpus how busy the GPUs of this start were. Collective.
 */
ebb_status_t run_books_record(ebb_comm_t *comm, ebb_record_t *record, double submitted, const run_books_t *books,
                              ebb_ledger_sums_t *sums);
/* Remove the ledger of an earlier run of the folder. */
ebb_status_t run_books_remove(const char *folder);
/* When the job was submitted, as its agent tells it in EBB_JOB_SUBMITTED (seconds since 1970), else as the record of an
 * earlier start has it; else 0. Kept in the record. */
double run_books_submitted(ebb_record_t *record);

#endif
