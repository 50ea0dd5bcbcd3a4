/* What a plan needs to know of a job: how long, on how many ranks, at what power. */
#include "internal.h"
#include "base/alloc.h"
#include "base/file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_HOURS 1.0
#define WATTS_A_RANK  150.0
#define NEXT_RANK     0.9 /* of what the rank before adds */
#define FIXED_POWER   0.3 /* share of the base's power that does not depend on the number of ranks */
#define MOST_SIZES    256
#define RESERVE       0.05 /* of the work, for estimates that are a little short */
#define RESERVE_S     60.0
#define DAY           86400.0

static ebb_status_t add_size(ebb_queue_estimate_t *e, int64_t *capacity_p, int64_t ranks, double rate, double power)
{
    EBB_TRY(ebb_grow("sizes of a job", (void **)&e->size, capacity_p, e->n + 1, sizeof *e->size));
    e->size[e->n++] = (ebb_plan_size_t){ranks, rate, power};
    return EBB_OK;
}

/* ---- measured ---- */

static json_t *load_profile(const ebb_queue_spec_t *spec)
{
    char path[PATH_MAX + 16];
    json_t *json = NULL;
    if (!spec->profile && !spec->run_folder)
        return NULL;
    if (spec->profile)
        snprintf(path, sizeof path, "%s", spec->profile);
    else
        snprintf(path, sizeof path, "%s/profile.json", spec->run_folder);
    if (!ebb_file_exists(path))
        return NULL;
    if (ebb_json_load(path, &json) != EBB_OK) {
        EBB_WARN("jobs", "profile left out: %s", ebb_error()->message);
        ebb_error_clear();
    }
    return json;
}

static int by_ranks(const void *a, const void *b)
{
    int64_t x = ((const ebb_plan_size_t *)a)->ranks, y = ((const ebb_plan_size_t *)b)->ranks;
    return (x > y) - (x < y);
}

static bool is_wanted(const ebb_queue_spec_t *spec, int64_t ranks)
{
    bool elastic = spec->policy == EBB_PLAN_ELASTIC;
    return ranks == spec->ranks || (elastic && ranks >= spec->least_ranks && ranks <= spec->most_ranks);
}

/* Sizes of the profile in the job's range; none of them counts if the base is not there. */
static ebb_status_t measured_sizes(const ebb_queue_spec_t *spec, const json_t *profile, ebb_queue_estimate_t *e)
{
    const json_t *row;
    size_t i;
    int64_t capacity = 0;
    json_array_foreach(json_object_get(profile, "sizes"), i, row)
    {
        int64_t ranks = json_integer_value(json_object_get(row, "ranks"));
        double rate = json_number_value(json_object_get(row, "rows_per_s"));
        double power = json_number_value(json_object_get(row, "watts"));
        if (is_wanted(spec, ranks) && rate > 0 && power > 0 && isfinite(rate) && isfinite(power))
            EBB_TRY(add_size(e, &capacity, ranks, rate, power));
    }
    if (e->n > 0)
        qsort(e->size, (size_t)e->n, sizeof *e->size, by_ranks);
    for (int64_t k = 0; k < e->n; k++)
        if (e->size[k].ranks == spec->ranks) {
            e->base = k;
            e->measured = true;
        }
    if (!e->measured)
        e->n = 0;
    return EBB_OK;
}

/* ---- by default ---- */

/* Work per second of n ranks, of which one does 1. */
static double rate_of(int64_t ranks)
{
    return (1 - pow(NEXT_RANK, (double)ranks)) / (1 - NEXT_RANK);
}

static ebb_status_t assumed_sizes(const ebb_queue_spec_t *spec, ebb_queue_estimate_t *e)
{
    bool elastic = spec->policy == EBB_PLAN_ELASTIC;
    int64_t least = elastic ? spec->least_ranks : spec->ranks, most = elastic ? spec->most_ranks : spec->ranks;
    int64_t capacity = 0, step = 1 + (most - least) / MOST_SIZES;
    double power = spec->power_w > 0 ? spec->power_w : WATTS_A_RANK * (double)spec->ranks;
    for (int64_t r = least; r <= most; r++) {
        if ((r - least) % step != 0 && r != spec->ranks && r != most)
            continue;
        if (r == spec->ranks)
            e->base = e->n;
        double watts = power * (FIXED_POWER + (1 - FIXED_POWER) * (double)r / (double)spec->ranks);
        EBB_TRY(add_size(e, &capacity, r, rate_of(r), watts));
    }
    return EBB_OK;
}

ebb_status_t ebb_queue_estimate(const ebb_queue_spec_t *spec, ebb_queue_estimate_t *e)
{
    *e = (ebb_queue_estimate_t){0};
    json_t *profile = load_profile(spec);
    ebb_status_t status = measured_sizes(spec, profile, e);
    double rows = json_number_value(json_object_get(profile, "rows"));
    if (status == EBB_OK && !e->measured)
        status = assumed_sizes(spec, e);
    if (status != EBB_OK) {
        json_decref(profile);
        ebb_queue_estimate_free(e);
        return status;
    }
    e->guessed = !(spec->hours > 0) && !(e->measured && rows > 0);
    e->work = (spec->hours > 0 ? spec->hours : DEFAULT_HOURS) * 3600 * e->size[e->base].rate;
    if (!(spec->hours > 0) && e->measured && rows > 0)
        e->work = rows;
    json_decref(profile);
    return EBB_OK;
}

void ebb_queue_estimate_free(ebb_queue_estimate_t *e)
{
    ebb_free(e->size);
    *e = (ebb_queue_estimate_t){0};
}

double ebb_queue_latest_end(const ebb_queue_job_t *job, const ebb_queue_estimate_t *e)
{
    double length = e->work / e->size[e->base].rate;
    if (!(job->spec.deadline > 0))
        return job->submitted + length + DAY;
    return job->spec.deadline - RESERVE * (1 - job->done) * length - RESERVE_S;
}
