/* Optimisers: update rules applied by each owner to its slice, so that optimiser state exists once over all ranks (as
 * in ZeRO stage 1, Rajbhandari et al. 2020). Rules: SGD with (Nesterov) momentum, AdaGrad (Duchi et al. 2011), Adam
 * (Kingma and Ba 2015), AdamW (Loshchilov and Hutter 2019), FTRL-proximal (McMahan et al. 2013). Rows of tables are
 * updated only in the steps that touch them ("lazy"), penalties and momentum included, whichever way they travelled.
 */
#ifndef EBB_OPTIM_H
#define EBB_OPTIM_H

#include <ebb/base.h>
#include <ebb/compute.h>
#include <ebb/model.h>
#include <ebb/sync.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ebb_schedule_kind {
    EBB_SCHEDULE_CONSTANT,
    EBB_SCHEDULE_STEP,
    EBB_SCHEDULE_COSINE,
    EBB_SCHEDULE_ONE_CYCLE
} ebb_schedule_kind_t;

/* Learning rate over steps. A linear warm-up comes first, for every kind: factor (step + 1) / warmup_steps, so that no
 * step is lost; the schedule proper counts from its end. one_cycle rises from 0.04 to 1 and falls to `final`, both
 * along half a cosine. */
typedef struct ebb_schedule {
    ebb_schedule_kind_t kind;
    int64_t warmup_steps;
    int64_t total_steps; /* cosine, one_cycle */
    int64_t every;       /* step: multiply by factor every so many steps */
    float factor;
    float final;   /* cosine: fraction of lr at the end; one_cycle (Smith 2018): likewise */
    float peak_at; /* one_cycle: fraction of the steps at which lr peaks; default 0.3 */
} ebb_schedule_t;

/* Factor of lr at step (from 0). Pure. */
EBB_API double ebb_schedule_factor(const ebb_schedule_t *schedule, int64_t step);

typedef struct ebb_optim_options {
    ebb_optim_hyper_t hyper; /* lr: base rate; scale and t are set per step */
    ebb_schedule_t schedule;
    float clip_norm; /* 0: no clipping */
} ebb_optim_options_t;

typedef struct ebb_optim ebb_optim_t;

/* EBB_EUSAGE: ftrl with a schedule other than constant, or with warm-up. */
EBB_API ebb_status_t ebb_optim_create(const ebb_optim_options_t *options, ebb_backend_t *backend, struct ebb_pool *pool,
                                      ebb_exec_t **exec, const ebb_layout_t *layout, int rank, int ranks,
                                      ebb_optim_t **optim_p) EBB_MUST_CHECK;
EBB_API void ebb_optim_destroy(ebb_optim_t *optim);
/* Once before the first step of a new run (not after a resume): derive states from the initial weights where the rule
 * needs it. FTRL computes weights from its state z; without a z that stands for them, a weight drawn at random would be
 * lost at its first step. */
EBB_API ebb_status_t ebb_optim_start(ebb_optim_t *optim, const ebb_weights_t *weights) EBB_MUST_CHECK;
/* Update this rank's floats and rows of `weights` from the sums. step: from 0; scale: 1 / global weight times the
 * clipping factor; lr_p: the rate used. Not collective. */
EBB_API ebb_status_t ebb_optim_step(ebb_optim_t *optim, int64_t step, double scale, const ebb_sums_t *sums,
                                    ebb_weights_t *weights, double *lr_p);
/* Of one bucket of the layout alone; the last one's brings the tables. */
EBB_API ebb_status_t ebb_optim_step_bucket(ebb_optim_t *optim, int bucket, int64_t step, double scale,
                                           const ebb_sums_t *sums, ebb_weights_t *weights, double *lr_p);
/* Multiply the base rate by factor from the next step on: 1 at first. Not for ftrl. */
EBB_API void ebb_optim_set_rate(ebb_optim_t *optim, double factor);
/* Clipping: factor min(1, clip / norm) for the mean gradient's norm sqrt(norm2) * scale. */
EBB_API double ebb_optim_clip(const ebb_optim_options_t *options, double norm2, double scale);

/* State arrays, for checkpoints: state i (0 .. count-1) has a name ("m", "v", "accum", ...). */
EBB_API int ebb_optim_state_count(const ebb_optim_t *optim);
EBB_API const char *ebb_optim_state_name(const ebb_optim_t *optim, int i);
/* This rank's part: dense (ebb_sync_own_floats) and each table's local rows. Device pointers. */
EBB_API float *ebb_optim_state_dense(ebb_optim_t *optim, int i);
EBB_API float *ebb_optim_state_table(ebb_optim_t *optim, int i, int table);

#ifdef __cplusplus
}
#endif
#endif
