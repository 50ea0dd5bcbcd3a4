/* Jobs of the queue that Slurm carries out.
 *
 * A job is handed over as one Slurm job for each stretch of its plan, in a chain: each has a begin time (sbatch
 * --begin), depends on the end of the one before, and has the number of tasks that the plan wants then. A part whose
 * stretch ends pauses its run by a checkpoint, and the next one goes on; the last has no end of its own. So everything
 * that is to happen lies with Slurm, and neither an agent nor this machine is needed for it.
 *
 * What the parts do is told by files in STATE/slurm/ID (a folder that all nodes see): lock (held while a part runs:
 * never two at a time), starts, exit (how the job ended: it is not begun again), held. The queue takes it from there. A
 * job that Slurm does not know and that has not ended, because its controller died before it had saved it, is handed
 * over again.
 *
 * Slurm is spoken to through sbatch, squeue, scancel and scontrol. EBB_EUNAVAILABLE: it does not answer; the same call
 * goes on from there later.
 */
#ifndef EBB_SLURM_H
#define EBB_SLURM_H

#include <ebb/jobs.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ebb_slurm_options {
    const char *self;    /* the program `ebb`, absolute, as the nodes find it */
    char *const *sbatch; /* more options of sbatch ("--partition=gpu", "--array=0-9"), ended by NULL; or NULL */
} ebb_slurm_options_t;

/* Enter a job, plan it, and hand it over. Where Slurm does not answer the job is in the queue all the same, and
 * ebb_slurm_tend hands it over. Arrays are for commands with policies asap and defer. */
EBB_API ebb_status_t ebb_slurm_submit(ebb_queue_t *queue, const ebb_queue_spec_t *spec,
                                      const ebb_slurm_options_t *options, int64_t *id_p) EBB_MUST_CHECK;

/* Bring the queue up to date with what Slurm and the parts say, carry out wishes, hand over what was lost; replan: also
 * give jobs that have not begun the times of a new plan (scontrol update). Does nothing if no job is Slurm's. */
EBB_API ebb_status_t ebb_slurm_tend(ebb_queue_t *queue, bool replan) EBB_MUST_CHECK;

/* End, hold (a running part pauses by a checkpoint), or let go again. */
EBB_API ebb_status_t ebb_slurm_cancel(ebb_queue_t *queue, const ebb_queue_job_t *job) EBB_MUST_CHECK;
EBB_API ebb_status_t ebb_slurm_hold(ebb_queue_t *queue, const ebb_queue_job_t *job) EBB_MUST_CHECK;
EBB_API ebb_status_t ebb_slurm_release(ebb_queue_t *queue, const ebb_queue_job_t *job) EBB_MUST_CHECK;

#ifdef __cplusplus
}
#endif
#endif
