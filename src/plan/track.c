/* The track record of a source of forecasts.
 *
 * Errors of day-ahead forecasts last for hours and repeat by the hour of the day. Constants were chosen on DACF's
 * forecasts of four regions in the second half of 2021 and are flat around their values. The skill is the slope of a
 * regression of what came true on what was forecast, both without their days' means: 1 for a perfect forecast, 0 for a
 * useless one. */
#include <ebb/plan.h>

#include <math.h>
#include <string.h>

#define DAY          86400
#define BIAS_RATE    0.05 /* of a day on the bias */
#define BIAS_SHARE   0.5
#define FADING       0.95 /* of an error in an hour */
#define SKILL_RATE   0.1  /* of a day on the skill */
#define DAYS_NEEDED  3
#define LEAST_SAVING 0.005

static int hour_of(int64_t time)
{
    return (int)(time / 3600 % 24);
}

static void end_day(ebb_plan_track_t *t)
{
    double error = 0, actual = 0, forecast = 0, covariance = 0, variance = 0;
    int n = 0;
    for (int h = 0; h < 24; h++) {
        if (t->actual[h] > 0) {
            error += t->actual[h] - t->forecast[h];
            actual += t->actual[h];
            forecast += t->forecast[h];
            n++;
        }
    }
    for (int h = 0; h < 24 && n == 24; h++) {
        double e = t->actual[h] - t->forecast[h] - error / n, f = t->forecast[h] - forecast / n;
        t->bias[h] += BIAS_RATE * (e - t->bias[h]);
        covariance += f * (t->actual[h] - actual / n);
        variance += f * f;
    }
    if (n == 24) {
        t->covariance += SKILL_RATE * (covariance - t->covariance);
        t->variance += SKILL_RATE * (variance - t->variance);
        t->days++;
    }
    memset(t->actual, 0, sizeof t->actual);
}

void ebb_plan_track_see(ebb_plan_track_t *t, int64_t hour, double actual, double forecast)
{
    int h = hour_of(hour);
    if (!(actual > 0) || !(forecast > 0) || !isfinite(actual) || !isfinite(forecast))
        return;
    if (hour / DAY != t->day) {
        end_day(t);
        t->day = hour / DAY;
    }
    t->actual[h] = actual;
    t->forecast[h] = forecast;
    t->error = actual - forecast - BIAS_SHARE * t->bias[h];
    t->seen_until = hour;
}

void ebb_plan_track_correct(const ebb_plan_track_t *t, int64_t begin, double slot_s, int64_t n, double *g)
{
    for (int64_t i = 0; i < n; i++) {
        int64_t time = begin + (int64_t)((double)i * slot_s);
        double hours = (double)(time / 3600 - t->seen_until / 3600);
        double error = t->seen_until > 0 && hours >= 0 && hours < DAY / 3600.0 * 2 ? t->error * pow(FADING, hours) : 0;
        g[i] = fmax(0.1 * g[i], g[i] + BIAS_SHARE * t->bias[hour_of(time)] + error);
    }
}

double ebb_plan_track_skill(const ebb_plan_track_t *t)
{
    if (t->days < DAYS_NEEDED || !(t->variance > 0))
        return 1;
    return fmax(0, fmin(1, t->covariance / t->variance));
}

bool ebb_plan_is_worth_waiting(const ebb_plan_track_t *t, double saving)
{
    return saving * ebb_plan_track_skill(t) >= LEAST_SAVING;
}
