/* Learning rates over steps and the clipping factor: pure functions. */
#include <ebb/optim.h>

#include <math.h>

#define PI                3.14159265358979323846
#define ONE_CYCLE_START   0.04 /* fraction of the peak at which a cycle starts */
#define ONE_CYCLE_PEAK_AT 0.3

/* Half a cosine from a at u = 0 to b at u = 1. */
static double ease(double a, double b, double u)
{
    return b + (a - b) * 0.5 * (1.0 + cos(PI * u));
}

static double one_cycle(const ebb_schedule_t *schedule, double u)
{
    double peak = schedule->peak_at > 0.0f && schedule->peak_at < 1.0f ? (double)schedule->peak_at : ONE_CYCLE_PEAK_AT;
    if (u < peak)
        return ease(ONE_CYCLE_START, 1.0, u / peak);
    return ease(1.0, (double)schedule->final, (u - peak) / (1.0 - peak));
}

double ebb_schedule_factor(const ebb_schedule_t *schedule, int64_t step)
{
    if (step < schedule->warmup_steps)
        return (double)(step + 1) / (double)schedule->warmup_steps;
    int64_t since = step - schedule->warmup_steps;
    int64_t span = schedule->total_steps - schedule->warmup_steps;
    double u = since >= span ? 1.0 : (double)since / (double)span;
    switch (schedule->kind) {
    case EBB_SCHEDULE_CONSTANT: return 1.0;
    case EBB_SCHEDULE_STEP:
        return schedule->every > 0 ? pow((double)schedule->factor, (double)(since / schedule->every)) : 1.0;
    case EBB_SCHEDULE_COSINE: return ease(1.0, (double)schedule->final, u);
    case EBB_SCHEDULE_ONE_CYCLE: return one_cycle(schedule, u);
    }
    return 1.0;
}

double ebb_optim_clip(const ebb_optim_options_t *options, double norm2, double scale)
{
    double norm = sqrt(norm2) * fabs(scale);
    if (options->clip_norm <= 0.0f || !(norm > (double)options->clip_norm))
        return 1.0;
    return (double)options->clip_norm / norm;
}
