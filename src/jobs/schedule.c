/* When jobs run: plans, which other jobs they wait for, deadlines that are near, slots. */
#include "jobs/agent.h"
#include "jobs/internal.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DAY        86400.0
#define LONG_STEP  3600.0    /* of plans of more than four days */
#define PLAN_NS    200000000 /* for planning in one turn of the loop */
#define LEAST_LEFT 0.02      /* of the work, while a job is not done */
#define SHOWN      0.02      /* of the work, before progress is trusted to tell the rest */
#define PATIENT_S  3600.0    /* before a job that does not fit holds up smaller ones */

/* ---- how much is left ---- */

static int64_t last_step(const char *folder)
{
    char path[PATH_MAX], tail[8192];
    snprintf(path, sizeof path, "%s/metrics.jsonl", folder);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    off_t end = lseek(fd, 0, SEEK_END), begin = end > (off_t)sizeof tail - 1 ? end - (off_t)sizeof tail + 1 : 0;
    ssize_t n = pread(fd, tail, sizeof tail - 1, begin);
    close(fd);
    tail[n > 0 ? n : 0] = 0;
    int64_t step = -1;
    for (const char *s = tail; (s = strstr(s, "\"step\":")); s += 7)
        step = strtoll(s + 7, NULL, 10) > step ? strtoll(s + 7, NULL, 10) : step;
    return step;
}

/* Share of a run's steps that are done; -1: not known. */
static double progress(const ebb_queue_spec_t *spec)
{
    char path[PATH_MAX];
    json_t *json = NULL;
    if (!spec->run || !spec->run_folder)
        return -1;
    snprintf(path, sizeof path, "%s/run.json", spec->run_folder);
    if (!ebb_file_exists(path) || ebb_json_load(path, &json) != EBB_OK) {
        ebb_error_clear();
        return -1;
    }
    int64_t total = json_integer_value(json_object_get(json, "total_steps")), step = last_step(spec->run_folder);
    json_decref(json);
    return total > 0 && step > 0 ? fmin(1, (double)step / (double)total) : -1;
}

/* What its starts take: as was said, or as was seen if that is more. */
static double start_seconds(const ebb_task_t *t)
{
    return fmax(t->job.spec.restart_s, t->pace.start_s);
}

static void watch_pace(const ebb_agent_t *a, ebb_task_t *t, double p)
{
    double before = start_seconds(t);
    bool runs = t->job.state == EBB_RUNNING;
    if (!t->job.spec.run || t->scaler != 0)
        return;
    if (ebb_pace_see(&t->pace, runs ? t->job.running_since : 0, a->now, runs ? fmax(p, 0) : 0))
        t->length = ebb_task_rate(t) * t->pace.whole_s;
    if (start_seconds(t) > 1.1 * before + 1)
        ebb_agent_say(a, t, "its starts take %.0f s, which is planned with from now on", start_seconds(t));
}

static void look_at_work(const ebb_agent_t *a, ebb_task_t *t)
{
    double units = ebb_task_units(a, t), work = t->estimate.work, p = t->job.begun > 0 ? progress(&t->job.spec) : -1;
    watch_pace(a, t, p);
    t->left = work - units;
    if (p >= SHOWN && t->length > 0)
        t->left = t->length * (1 - p);
    else if (p >= SHOWN && units > 0)
        t->left = units * (1 - p) / p;
    t->overrun = p < SHOWN && t->left <= 0;
    t->left = fmax(t->left, LEAST_LEFT * work);
}

/* ---- other jobs ---- */

static ebb_task_t *task_of(const ebb_agent_t *a, int64_t id)
{
    for (int64_t low = 0, high = a->n; low < high;) {
        int64_t middle = (low + high) / 2;
        if (a->task[middle]->job.id == id)
            return a->task[middle];
        if (a->task[middle]->job.id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

/* Also: what waits for a job that will never be done is cancelled. */
static bool others_are_done(ebb_agent_t *a, ebb_task_t *t)
{
    ebb_queue_job_t other = {0};
    char why[96];
    for (int64_t i = 0; i < t->job.spec.n_after; i++) {
        if (ebb_queue_get(a->queue, t->job.spec.after[i], &other) != EBB_OK) {
            ebb_agent_forgive();
            return false;
        }
        ebb_queue_state_t state = other.state;
        ebb_queue_job_free(&other);
        if (state == EBB_DONE)
            continue;
        if (EBB_QUEUE_BIT(state) & EBB_QUEUE_OVER) {
            snprintf(why, sizeof why, "job %lld, which it waits for, is %s", (long long)t->job.spec.after[i],
                     ebb_queue_state_name(state));
            ebb_agent_say(a, t, "cancelled: %s", why);
            ebb_task_move(a, t, &(ebb_queue_change_t){.to = EBB_CANCELLED, .reason = why});
        }
        return false;
    }
    return true;
}

static int64_t waits_for(const ebb_agent_t *a, const ebb_task_t *t)
{
    for (int64_t i = 0; i < t->job.spec.n_after; i++)
        if (task_of(a, t->job.spec.after[i]))
            return t->job.spec.after[i];
    return 0;
}

static double length_left(const ebb_task_t *t)
{
    return t->left / t->estimate.size[t->estimate.base].rate;
}

/* A job must end in time for those that wait for it; they have higher ids. */
static void spread_deadlines(ebb_agent_t *a)
{
    for (int64_t i = 0; i < a->n; i++) {
        ebb_task_t *t = a->task[i];
        bool firm = t->job.spec.deadline > 0;
        t->latest_end = firm ? ebb_queue_latest_end(&t->job, &t->estimate) : INFINITY;
    }
    for (int64_t i = a->n - 1; i >= 0; i--) {
        const ebb_task_t *t = a->task[i];
        for (int64_t k = 0; k < t->job.spec.n_after; k++) {
            ebb_task_t *first = task_of(a, t->job.spec.after[k]);
            if (first && first->latest_end > t->latest_end - length_left(t))
                first->latest_end = t->latest_end - length_left(t);
        }
    }
}

/* ---- plans ---- */

static bool can_pause(const ebb_task_t *t)
{
    return t->job.spec.pause != EBB_PAUSE_NEVER && !t->overrun &&
           (t->job.spec.policy == EBB_PLAN_PAUSE || t->job.spec.policy == EBB_PLAN_ELASTIC);
}

static bool needs_plan(const ebb_task_t *t)
{
    bool idle = t->job.state == EBB_QUEUED || t->job.state == EBB_PAUSED;
    return idle || (t->job.state == EBB_RUNNING && t->scaler == 0);
}

static bool is_due(const ebb_agent_t *a, const ebb_task_t *t)
{
    if (t->version < 0)
        return true;
    int64_t version = t->outlook ? ebb_outlook_version(t->outlook) : 0;
    return version != t->version || floor(a->now / EBB_OUTLOOK_STEP) > floor(t->planned / EBB_OUTLOOK_STEP);
}

static double planned_end(const ebb_task_t *t)
{
    return isfinite(t->latest_end) ? t->latest_end : ebb_queue_latest_end(&t->job, &t->estimate);
}

/* The grid from now on, into a->grid; what the planner is asked. */
static ebb_status_t ask(ebb_agent_t *a, ebb_task_t *t, ebb_question_t *q)
{
    double span = fmax(planned_end(t) - a->now, length_left(t)), step = span > 20 * DAY ? LONG_STEP : EBB_OUTLOOK_STEP;
    int64_t n = (int64_t)ceil(fmax(span, 1) / step);
    EBB_TRY(ebb_grow("hours of the grid", (void **)&a->grid, &a->grid_capacity, n, sizeof *a->grid));
    bool known = t->outlook && ebb_outlook_sample(t->outlook, a->now, step, n, a->grid);
    *q = (ebb_question_t){.job = &t->job,
                          .estimate = &t->estimate,
                          .now = a->now,
                          .left = t->left,
                          .latest_end = planned_end(t),
                          .start_s = t->pace.start_s,
                          .slots = a->options->slots,
                          .grid = {.n = n, .slot_s = step, .g_per_kwh = known ? a->grid : NULL},
                          .track = t->outlook ? ebb_outlook_track(t->outlook) : NULL};
    return EBB_OK;
}

static void plan(ebb_agent_t *a, ebb_task_t *t)
{
    ebb_question_t q;
    ebb_status_t status = EBB_OK;
    if (t->job.spec.policy != EBB_PLAN_ASAP)
        status = ebb_outlook_find(a->outlooks, &t->job.spec, planned_end(t), &t->outlook);
    if (status == EBB_OK && t->outlook && ebb_outlook_waits(t->outlook)) {
        t->wanted = t->job.state == EBB_RUNNING ? t->job.ranks : 0;
        t->until = INFINITY;
        return;
    }
    if (status == EBB_OK)
        status = ask(a, t, &q);
    if (status == EBB_OK)
        status = ebb_decide(a->planner, &q, &t->decision);
    if (status != EBB_OK) { /* whatever it is, no job waits for it */
        ebb_agent_forgive();
        t->decision.n = 0;
        t->decision.blind = true;
    }
    t->version = t->outlook ? ebb_outlook_version(t->outlook) : 0;
    t->planned = a->now;
    t->new_plan = true;
}

static void read_plan(const ebb_agent_t *a, ebb_task_t *t)
{
    if (t->version < 0)
        return;
    t->wanted = ebb_decision_at(&t->decision, a->now, &t->until);
    if (t->decision.n == 0) {
        t->wanted = t->job.spec.ranks;
        t->until = INFINITY;
    }
}

static void judge_urgency(ebb_agent_t *a)
{
    ebb_demand_t **demand;
    int64_t n = 0;
    if (a->n == 0 || EBB_NEW_ARRAY("demands", a->n, &demand) != EBB_OK)
        return;
    for (int64_t i = 0; i < a->n; i++) {
        ebb_task_t *t = a->task[i];
        double need = (double)(t->job.ranks * t->job.spec.cpus), slots = (double)a->options->slots;
        bool runs = ebb_task_has_processes(t) && !ebb_task_is_frozen(t);
        t->demand = (ebb_demand_t){.latest_end = t->latest_end,
                                   .length = length_left(t) + (runs ? 0 : start_seconds(t)),
                                   .slots = fmin(need, slots),
                                   .running = runs};
        if (t->job.state != EBB_HELD)
            demand[n++] = &t->demand;
    }
    double margin = fmax(60, 4 * a->tick_s * ebb_clock_rate());
    ebb_find_urgent(demand, n, a->now, (double)a->options->slots, margin);
    ebb_free(demand);
}

void ebb_agent_plan(ebb_agent_t *a)
{
    int64_t begin = ebb_now_ns();
    for (int64_t i = 0; i < a->n; i++) {
        ebb_task_t *t = a->task[i];
        if (t->left <= 0 || t->job.state == EBB_RUNNING)
            look_at_work(a, t);
        if (!t->ready && !waits_for(a, t))
            t->ready = t->job.begun > 0 || others_are_done(a, t);
    }
    spread_deadlines(a);
    for (int64_t i = 0; i < a->n; i++) {
        ebb_task_t *t = a->task[i];
        if (needs_plan(t) && is_due(a, t) && ebb_now_ns() - begin < PLAN_NS) {
            look_at_work(a, t);
            plan(a, t);
        }
        read_plan(a, t);
    }
    judge_urgency(a);
}

/* ---- slots ---- */

typedef struct room {
    int64_t slots, used;
    bool gpu[EBB_MOST_GPUS]; /* in use */
} room_t;

static int64_t need(const room_t *r, const ebb_task_t *t, int64_t ranks)
{
    int64_t n = ranks * t->job.spec.cpus;
    return n < r->slots ? n : r->slots; /* what is larger than the machine takes all of it */
}

static void occupy(room_t *r, const ebb_task_t *t)
{
    if (!ebb_task_is_frozen(t))
        r->used += need(r, t, t->scaler && t->scaled_to > t->job.ranks ? t->scaled_to : t->job.ranks);
    for (const char *g = t->job.gpu; *g; g += strcspn(g, ",") + (strchr(g, ',') ? 1 : 0))
        if (atoi(g) >= 0 && atoi(g) < EBB_MOST_GPUS)
            r->gpu[atoi(g)] = true;
}

/* Devices for the job; false: there are not enough. */
static bool find_gpus(const ebb_agent_t *a, const room_t *r, const ebb_task_t *t, int64_t ranks, char *text,
                      size_t size)
{
    int64_t wanted = ranks * t->job.spec.gpus;
    text[0] = 0;
    for (int g = 0; g < a->options->gpus && g < EBB_MOST_GPUS && wanted > 0; g++)
        if (!r->gpu[g]) {
            snprintf(text + strlen(text), size - strlen(text), "%s%d", *text ? "," : "", g);
            wanted--;
        }
    return wanted == 0;
}

/* Ranks to start with: as planned; elastic: the most of its sizes that there is room for. */
static int64_t ranks_that_fit(const room_t *r, const ebb_task_t *t)
{
    int64_t ranks = t->wanted > 0 ? t->wanted : t->job.spec.ranks, best = 0;
    if (t->demand.urgent && ranks < t->job.spec.ranks)
        ranks = t->job.spec.ranks;
    if (t->job.spec.policy != EBB_PLAN_ELASTIC || r->used + need(r, t, ranks) <= r->slots)
        return ranks;
    for (int64_t i = 0; i < t->estimate.n; i++)
        if (t->estimate.size[i].ranks <= ranks && r->used + need(r, t, t->estimate.size[i].ranks) <= r->slots)
            best = t->estimate.size[i].ranks;
    return best > 0 ? best : ranks;
}

static void steer_running(ebb_agent_t *a, room_t *r, ebb_task_t *t)
{
    int64_t ranks = ebb_ranks_from_now(t->wanted, t->job.ranks, t->demand.urgent);
    int64_t before = need(r, t, t->job.ranks), now = ranks > 0 ? need(r, t, ranks) : 0;
    if (t->scaler != 0 || ebb_now_ns() < t->not_before_ns)
        return;
    if (ranks == 0 && can_pause(t)) {
        ebb_task_pause(a, t);
    } else if (ranks > 0 && ranks != t->job.ranks && t->job.spec.policy == EBB_PLAN_ELASTIC &&
               r->used - before + now <= r->slots) {
        ebb_task_scale(a, t, ranks);
        r->used += now > before ? now - before : 0;
    }
}

static bool may_start(const ebb_task_t *t)
{
    return (t->job.state == EBB_QUEUED || t->job.state == EBB_PAUSED) && t->job.wish == EBB_WISH_NONE && t->ready &&
           ebb_now_ns() >= t->not_before_ns && (t->demand.urgent || t->wanted > 0);
}

static void set_why(ebb_task_t *t, const char *fmt, ...) EBB_PRINTF(2, 3);
static void set_why(ebb_task_t *t, const char *fmt, ...)
{
    char text[sizeof t->why];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (strcmp(text, t->why) != 0)
        t->new_plan = true;
    snprintf(t->why, sizeof t->why, "%s", text);
}

/* True if what comes later must wait as well. */
static bool start_if_it_fits(ebb_agent_t *a, room_t *r, ebb_task_t *t)
{
    char gpu[4 * EBB_MOST_GPUS];
    int64_t ranks = ranks_that_fit(r, t);
    if (ebb_task_is_frozen(t))
        ranks = t->job.ranks;
    if (r->used + need(r, t, ranks) > r->slots) {
        set_why(t, "waits for slots: %lld needed, %lld of %lld in use", (long long)need(r, t, ranks),
                (long long)r->used, (long long)r->slots);
        return t->demand.urgent || a->now - t->job.changed > PATIENT_S;
    }
    if (!ebb_task_is_frozen(t) && !find_gpus(a, r, t, ranks, gpu, sizeof gpu)) {
        set_why(t, "waits for GPUs: %lld needed of %lld", (long long)ranks * (long long)t->job.spec.gpus,
                (long long)a->options->gpus);
        return false;
    }
    if (ebb_task_is_frozen(t))
        ebb_task_go_on(a, t);
    else
        ebb_task_start(a, t, ranks, gpu);
    occupy(r, t);
    return false;
}

static double latest_start(const ebb_task_t *t)
{
    return t->latest_end - t->demand.length;
}

static int by_haste(const void *x, const void *y)
{
    const ebb_task_t *a = *(ebb_task_t *const *)x, *b = *(ebb_task_t *const *)y;
    if (a->demand.urgent != b->demand.urgent)
        return a->demand.urgent ? -1 : 1;
    double p = latest_start(a), q = latest_start(b);
    return p < q ? -1 : p > q ? 1 : a->job.id < b->job.id ? -1 : 1;
}

static void explain_waiting(const ebb_agent_t *a, ebb_task_t *t)
{
    char until[32];
    int64_t other = waits_for(a, t);
    double saved = t->decision.asap_grams > 0 ? 100 * (1 - t->decision.grams / t->decision.asap_grams) : 0;
    if (t->job.state != EBB_QUEUED && t->job.state != EBB_PAUSED)
        return;
    ebb_format_utc(t->until, until, sizeof until);
    until[16] = 0;
    if (other)
        set_why(t, "waits for job %lld", (long long)other);
    else if (t->version < 0)
        set_why(t, "asks for the forecast");
    else if (t->wanted == 0 && isfinite(t->until))
        set_why(t, "%s %sZ: saves %.0f %%", t->job.begun > 0 ? "goes on" : "starts", until, saved);
}

void ebb_agent_schedule(ebb_agent_t *a)
{
    room_t room = {.slots = a->options->slots};
    ebb_task_t **candidate;
    int64_t n = 0;
    bool blocked = false;
    if (a->n == 0 || EBB_NEW_ARRAY("jobs to start", a->n, &candidate) != EBB_OK)
        return;
    for (int64_t i = 0; i < a->n; i++)
        if (ebb_task_has_processes(a->task[i]))
            occupy(&room, a->task[i]);
    for (int64_t i = 0; i < a->n; i++)
        if (a->task[i]->job.state == EBB_RUNNING)
            steer_running(a, &room, a->task[i]);
        else if (may_start(a->task[i]))
            candidate[n++] = a->task[i];
        else
            explain_waiting(a, a->task[i]);
    qsort(candidate, (size_t)n, sizeof *candidate, by_haste);
    for (int64_t i = 0; i < n && !blocked; i++)
        blocked = start_if_it_fits(a, &room, candidate[i]);
    ebb_free(candidate);
}

/* ---- what the queue is told ---- */

static ebb_status_t note(ebb_agent_t *a, ebb_task_t *t)
{
    char source[256] = "no forecast is needed";
    if (t->outlook)
        ebb_outlook_describe(t->outlook, source, sizeof source);
    char *text = t->version >= 0 ? ebb_decision_json(&t->decision, &t->job, t->planned, source) : NULL;
    ebb_status_t status = ebb_queue_note(a->queue, t->job.id, text, t->why);
    free(text);
    return status;
}

void ebb_agent_note(ebb_agent_t *a)
{
    bool any = false;
    for (int64_t i = 0; i < a->n; i++)
        any |= a->task[i]->new_plan;
    if (!any)
        return;
    ebb_status_t status = ebb_queue_begin(a->queue);
    for (int64_t i = 0; i < a->n && status == EBB_OK; i++)
        if (a->task[i]->new_plan)
            status = note(a, a->task[i]);
    status = ebb_queue_commit(a->queue, status);
    for (int64_t i = 0; i < a->n; i++)
        a->task[i]->new_plan = false;
    if (status != EBB_OK)
        ebb_agent_forgive();
}
