/* Jobs that Slurm carries out: planned here, handed over as a chain of parts, and looked after.
 *
 * A part is given its end only once the next one is with Slurm: whatever happens between two calls of sbatch, the last
 * part that Slurm has runs to the end of the work. Ids in the queue are for people; what counts is the token in the
 * comments of the parts. One process at a time looks after the jobs of a state folder. */
#include "jobs/slurm.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/lock.h"
#include "carbon/settings.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SLOT_S        900.0
#define BUDGET_S      6.0 /* for all tries to ask for the forecast together */
#define LOCK_TRIES    120 /* of a second each */
#define MOST_ATTEMPTS 20  /* to hand over a job that leaves no trace */
#define NO_IDS        "-"

/* A job under our hands. */
typedef struct task {
    ebb_queue_t *queue;
    ebb_queue_job_t *job;
    ebb_slurm_place_t place;
    ebb_slurm_past_t past;
    const ebb_slurm_list_t *list;   /* of all jobs */
    int64_t waits, runs, cancelled; /* parts by what they do */
} task_t;

/* ---- plans ---- */

/* What the work done so far is of the whole, by the time that parts ran. */
static double share_done(const task_t *t, const ebb_queue_estimate_t *e)
{
    double length = e->work / e->size[e->base].rate;
    double done = t->past.running_s * ebb_clock_rate() / length;
    return done < 0.95 ? done : 0.95;
}

static ebb_status_t look_ahead(const task_t *t, ebb_question_t *q, ebb_carbon_forecast_t *f, ebb_plan_track_t *track)
{
    ebb_carbon_settings_t settings;
    size_t bytes;
    ebb_status_t status = ebb_carbon_settings_of(NULL, t->job->spec.environment, &settings);
    if (status == EBB_ENOMEM)
        return status;
    if (status != EBB_OK) {
        EBB_WARN("slurm", "%s: %s", settings.key, ebb_error()->message);
        ebb_error_clear();
    }
    settings.options.budget_s = BUDGET_S;
    int64_t n = (int64_t)ceil(fmax(q->latest_end - q->now, SLOT_S) / SLOT_S), now = (int64_t)q->now;
    status = ebb_carbon_look(&settings.options, now, now, (int64_t)SLOT_S, n, f);
    if (status != EBB_OK) { /* nothing of the grid keeps a job from being handed over */
        EBB_WARN("slurm", "%s; the job begins at once", ebb_error()->message);
        ebb_error_clear();
        *f = (ebb_carbon_forecast_t){0};
    }
    if (ebb_queue_recall(t->queue, settings.key, track, sizeof *track, &bytes) != EBB_OK || bytes != sizeof *track) {
        ebb_error_clear();
        *track = (ebb_plan_track_t){0};
    }
    ebb_carbon_settings_free(&settings);
    if (f->n > 0 && f->count[EBB_CARBON_NOTHING] < f->n)
        q->grid = (ebb_plan_horizon_t){.n = f->n, .slot_s = SLOT_S, .g_per_kwh = f->g};
    return EBB_OK;
}

static ebb_status_t note_plan(const task_t *t, const ebb_decision_t *d, const ebb_carbon_forecast_t *f)
{
    char source[256];
    snprintf(source, sizeof source, "%s%s%s", f->n > 0 ? f->source : "nothing", *f->zone ? ", " : "", f->zone);
    char *text = ebb_decision_json(d, t->job, ebb_wall_seconds(), source);
    ebb_status_t status =
        text ? ebb_queue_note(t->queue, t->job->id, text, NULL) : EBB_FAIL(EBB_ENOMEM, "out of memory: plan of a job");
    free(text);
    return status;
}

static ebb_status_t decide(const task_t *t, const ebb_queue_estimate_t *e, ebb_decision_t *d)
{
    ebb_plan_track_t track;
    ebb_carbon_forecast_t forecast = {0};
    ebb_planner_t *planner;
    ebb_question_t q = {.job = t->job, .estimate = e, .now = ebb_wall_seconds(), .slots = INT64_MAX, .track = &track};
    t->job->done = share_done(t, e);
    t->job->begun = t->past.begun;
    q.left = (1 - t->job->done) * e->work;
    q.latest_end = ebb_queue_latest_end(t->job, e);
    EBB_TRY(look_ahead(t, &q, &forecast, &track));
    ebb_status_t status = ebb_planner_create(&planner);
    if (status == EBB_OK) {
        status = ebb_decide(planner, &q, d);
        ebb_planner_destroy(planner);
    }
    if (status == EBB_OK)
        status = note_plan(t, d, &forecast);
    ebb_carbon_forecast_free(&forecast);
    return status;
}

static ebb_status_t plan(const task_t *t, ebb_decision_t *d)
{
    ebb_queue_estimate_t e;
    EBB_TRY(ebb_queue_estimate(&t->job->spec, &e));
    ebb_status_t status = decide(t, &e, d);
    ebb_queue_estimate_free(&e);
    return status;
}

/* ---- handing over ---- */

/* Real seconds from now until a time of the wall clock. */
static double real_seconds_to(double time)
{
    return fmax(0, (time - ebb_wall_seconds()) / ebb_clock_rate());
}

/* "2/3: 14:30Z to 16:00Z on 4 ranks, -23 % gCO2e" */
static void describe(const ebb_decision_t *d, int64_t k, int64_t n, char *text, size_t size)
{
    char begin[32], end[32];
    const ebb_stretch_t *s = &d->stretch[k];
    ebb_format_utc(s->begin, begin, sizeof begin);
    ebb_format_utc(s->end, end, sizeof end);
    begin[16] = end[16] = 0;
    int used = snprintf(text, size, "%lld: planned %sZ to %sZ", (long long)n, begin, end);
    if (d->asap_grams > 0 && d->grams < d->asap_grams)
        snprintf(text + used, size - (size_t)used, ", saves %.0f %%", 100 * (1 - d->grams / d->asap_grams));
}

static ebb_status_t hand_over_part(const task_t *t, const ebb_decision_t *d, int64_t k, int64_t n, char id[32])
{
    char note[160], after[32];
    const ebb_stretch_t *s = &d->stretch[k];
    bool last = k + 1 == n;
    snprintf(after, sizeof after, "%s", id);
    describe(d, k, n, note, sizeof note);
    ebb_slurm_request_t request = {.job = t->job,
                                   .place = &t->place,
                                   .note = note,
                                   .after = after,
                                   .part = k + 1,
                                   .ranks = s->ranks,
                                   .begin_in_s = real_seconds_to(s->begin),
                                   .length_s = last ? 0 : (s->end - s->begin) / ebb_clock_rate()};
    EBB_TRY(ebb_slurm_set_end(&t->place, k + 1, 0));
    EBB_TRY(ebb_slurm_sbatch(&request, id));
    if (k == 0)
        return EBB_OK;
    return ebb_slurm_set_end(&t->place, k, ebb_system_seconds() + real_seconds_to(d->stretch[k - 1].end));
}

static ebb_status_t move(const task_t *t, ebb_queue_state_t to, const char *reason, const char *slurm, int code)
{
    ebb_queue_change_t change = {.id = t->job->id,
                                 .to = to,
                                 .reason = reason,
                                 .slurm = slurm,
                                 .exit_code = code,
                                 .ranks = t->past.ranks,
                                 .new_attempt = slurm != NULL};
    return ebb_queue_move(t->queue, &change, NULL);
}

static ebb_status_t hand_over_chain(const task_t *t, const ebb_decision_t *d)
{
    char id[32] = "";
    ebb_text_t ids = {0};
    int64_t n = d->n < EBB_SLURM_MOST_PARTS ? d->n : EBB_SLURM_MOST_PARTS;
    ebb_status_t status = EBB_OK;
    for (int64_t k = 0; k < n && status == EBB_OK; k++) {
        status = hand_over_part(t, d, k, n, id);
        if (status == EBB_OK)
            ebb_text_add(&ids, "%s%s", k > 0 ? "," : "", id);
    }
    if (ids.s && !ids.failed) {
        ebb_status_t moved = move(t, t->past.starts > 0 ? EBB_PAUSED : EBB_STARTING, "handed to Slurm", ids.s, 0);
        status = status != EBB_OK ? status : moved;
    }
    ebb_text_free(&ids);
    return status;
}

static ebb_status_t hand_over(const task_t *t)
{
    ebb_decision_t d = {0};
    ebb_status_t status = plan(t, &d);
    if (status == EBB_OK)
        status = hand_over_chain(t, &d);
    ebb_decision_free(&d);
    return status;
}

/* ---- one process at a time ---- */

static ebb_status_t lock(const ebb_queue_t *queue, int tries, int *fd_p)
{
    char folder[PATH_MAX];
    ebb_status_t status = EBB_OK;
    snprintf(folder, sizeof folder, "%.4000s/slurm", ebb_queue_path(queue));
    EBB_TRY(ebb_file_mkdirs(folder));
    for (int i = 0; i < tries; i++) { /* each waits a second */
        ebb_error_clear();
        status = ebb_folder_lock(folder, "tend.lock", fd_p);
        if (status != EBB_EUSAGE)
            break;
    }
    return status;
}

/* ---- entering ---- */

static ebb_status_t check(const ebb_queue_spec_t *s, const ebb_slurm_options_t *o)
{
    bool array = false;
    for (char *const *word = o->sbatch; word && *word; word++) {
        if (**word != '-' || strchr(*word, '\n'))
            return EBB_FAIL(EBB_EUSAGE, "--sbatch: \"%.60s\" is not an option of sbatch, as in --partition=gpu", *word);
        array |= strncmp(*word, "--array", 7) == 0 || strncmp(*word, "-a", 2) == 0;
    }
    if (s->n_after > 0)
        return EBB_FAIL(EBB_EUSAGE, "under Slurm write --sbatch=--dependency=afterok:ID instead of --after");
    bool parts = s->policy == EBB_PLAN_PAUSE || s->policy == EBB_PLAN_ELASTIC;
    if (parts && s->pause != EBB_PAUSE_CHECKPOINT)
        return EBB_FAIL(EBB_EUSAGE, "under Slurm a command is deferred, or paused with --pause-by checkpoint");
    if (array && (parts || s->run))
        return EBB_FAIL(EBB_EUSAGE, "an array is of commands, with policy asap or defer");
    return EBB_OK;
}

static ebb_status_t place_and_hand_over(ebb_queue_t *queue, int64_t id, const ebb_slurm_options_t *options)
{
    ebb_queue_job_t job = {0};
    EBB_TRY(ebb_queue_get(queue, id, &job));
    task_t t = {.queue = queue, .job = &job};
    ebb_status_t status = ebb_slurm_place_make(ebb_queue_path(queue), &job, options);
    if (status == EBB_OK)
        status = ebb_slurm_place_open(ebb_queue_path(queue), id, &t.place);
    if (status == EBB_OK)
        status = hand_over(&t);
    if (status != EBB_OK && status != EBB_EUNAVAILABLE) { /* Slurm will not have it */
        char why[200];
        snprintf(why, sizeof why, "not handed to Slurm: %.170s", ebb_error()->message);
        ebb_queue_change_t change = {.id = id, .to = EBB_CANCELLED, .reason = why};
        status = ebb_queue_move(queue, &change, NULL) == EBB_OK ? EBB_FAIL(status, "%s", why) : status;
    }
    ebb_slurm_place_free(&t.place);
    ebb_queue_job_free(&job);
    return status;
}

ebb_status_t ebb_slurm_submit(ebb_queue_t *queue, const ebb_queue_spec_t *spec, const ebb_slurm_options_t *options,
                              int64_t *id_p)
{
    int fd;
    EBB_TRY(check(spec, options));
    EBB_TRY(lock(queue, LOCK_TRIES, &fd));
    ebb_status_t status = ebb_queue_submit(queue, spec, NO_IDS, id_p);
    if (status == EBB_OK)
        status = place_and_hand_over(queue, *id_p, options);
    close(fd);
    return status;
}

/* ---- looking after ---- */

static bool is_ours(const task_t *t, const ebb_slurm_part_t *p)
{
    return strcmp(p->token, t->place.token) == 0;
}

/* Parts that were replaced by others were cancelled here. */
static bool is_current(const task_t *t, const ebb_slurm_part_t *p)
{
    size_t n = strlen(p->id);
    for (const char *id = t->job->slurm; id; id = strchr(id, ',') ? strchr(id, ',') + 1 : NULL)
        if (strncmp(id, p->id, n) == 0 && (id[n] == ',' || id[n] == 0))
            return true;
    return false;
}

static void count(task_t *t)
{
    for (int64_t i = 0; i < t->list->n; i++) {
        const ebb_slurm_part_t *p = &t->list->part[i];
        if (!is_ours(t, p))
            continue;
        t->waits += p->word == EBB_SLURM_WAITS;
        t->runs += p->word == EBB_SLURM_RUNS;
        t->cancelled += p->word == EBB_SLURM_CANCELLED && is_current(t, p);
    }
}

/* Parts that wait; running ones too. */
static ebb_status_t cancel_parts(const task_t *t, bool running)
{
    for (int64_t i = 0; i < t->list->n; i++) {
        const ebb_slurm_part_t *p = &t->list->part[i];
        if (is_ours(t, p) && (p->word == EBB_SLURM_WAITS || (running && p->word == EBB_SLURM_RUNS)))
            EBB_TRY(ebb_slurm_scancel(p));
    }
    return EBB_OK;
}

static ebb_status_t settle(const task_t *t, ebb_queue_state_t state, const char *reason)
{
    if (t->job->state != state)
        return move(t, state, reason, NULL, 0);
    if (state == EBB_RUNNING && t->past.ranks > 0 && t->past.ranks != t->job->ranks)
        return ebb_queue_resized(t->queue, t->job->id, t->past.ranks, t->job->done, reason);
    return strcmp(reason, t->job->reason) == 0 ? EBB_OK : ebb_queue_note(t->queue, t->job->id, NULL, reason);
}

static ebb_status_t end(const task_t *t, int code)
{
    EBB_TRY(cancel_parts(t, false));
    return move(
        t, code == 0 ? EBB_DONE : EBB_FAILED,
        code == 125 && !t->job->spec.rerun ? "lost with its node or controller while it ran, and not begun again" : "",
        NULL, code);
}

/* Nothing of it is with Slurm, and it has not ended. */
static ebb_status_t recover(const task_t *t)
{
    if (t->cancelled > 0)
        return move(t, EBB_CANCELLED, "cancelled in Slurm", NULL, 0);
    if (t->job->attempt >= MOST_ATTEMPTS)
        return move(t, EBB_FAILED, "given up: Slurm ends it, and it leaves no word", NULL, 1);
    if (strcmp(t->job->slurm, NO_IDS) != 0)
        EBB_WARN("slurm", "job %lld: Slurm has lost it; it is handed over again", (long long)t->job->id);
    return hand_over(t);
}

static const char *reason_to_wait(const task_t *t)
{
    for (int64_t i = 0; i < t->list->n; i++) {
        const ebb_slurm_part_t *p = &t->list->part[i];
        if (is_ours(t, p) && p->word == EBB_SLURM_WAITS && strcmp(p->reason, "Dependency") != 0)
            return strcmp(p->reason, "BeginTime") == 0 ? "in Slurm, until its planned time"
                                                       : "in Slurm, waits for resources";
    }
    return "in Slurm, waits";
}

static ebb_status_t give_new_times(const task_t *t, const ebb_decision_t *d)
{
    for (int64_t i = 0; i < t->list->n; i++) {
        const ebb_slurm_part_t *p = &t->list->part[i];
        if (!is_ours(t, p) || p->word != EBB_SLURM_WAITS)
            continue;
        const ebb_stretch_t *s = &d->stretch[p->part - 1];
        EBB_TRY(ebb_slurm_update(p, real_seconds_to(s->begin), t->job->spec.policy == EBB_PLAN_ELASTIC ? s->ranks : 0));
        if (p->part < d->n)
            EBB_TRY(ebb_slurm_set_end(&t->place, p->part, ebb_system_seconds() + real_seconds_to(s->end)));
    }
    return EBB_OK;
}

static bool same_parts(const task_t *t, const ebb_decision_t *d)
{
    int64_t highest = 0;
    for (int64_t i = 0; i < t->list->n; i++)
        if (is_ours(t, &t->list->part[i]) && t->list->part[i].word == EBB_SLURM_WAITS &&
            t->list->part[i].part > highest)
            highest = t->list->part[i].part;
    return d->n == t->waits && highest == d->n;
}

/* A job that has not begun: the same parts get other times, or other parts take their place. */
static ebb_status_t plan_again(const task_t *t)
{
    ebb_decision_t d = {0};
    ebb_status_t status = plan(t, &d);
    if (status == EBB_OK && same_parts(t, &d)) {
        status = give_new_times(t, &d);
    } else if (status == EBB_OK) {
        status = cancel_parts(t, false);
        if (status == EBB_OK)
            status = hand_over_chain(t, &d);
    }
    ebb_decision_free(&d);
    return status;
}

/* A controller that died just after a start starts the job again, which its node refuses. */
static ebb_status_t let_go_of_failed(const task_t *t)
{
    for (int64_t i = 0; i < t->list->n; i++)
        if (is_ours(t, &t->list->part[i]) && ebb_slurm_failed_to_launch(&t->list->part[i]))
            EBB_TRY(ebb_slurm_let_go(&t->list->part[i]));
    return EBB_OK;
}

static ebb_status_t look_after(task_t *t, bool replan)
{
    int code;
    count(t);
    ebb_slurm_past(&t->place, &t->past);
    if (ebb_slurm_exit(&t->place, &code) && !(t->place.is_array && t->waits + t->runs > 0))
        return end(t, code);
    if (t->job->wish == EBB_WISH_CANCEL) {
        EBB_TRY(cancel_parts(t, true));
        return move(t, EBB_CANCELLED, "by the user", NULL, 0);
    }
    if (ebb_slurm_is_held(&t->place)) {
        EBB_TRY(cancel_parts(t, false));
        return t->runs > 0 ? settle(t, EBB_PAUSING, "to be held") : settle(t, EBB_HELD, "by the user");
    }
    if (t->runs + t->waits == 0)
        return recover(t);
    EBB_TRY(let_go_of_failed(t));
    if (t->runs > 0)
        return settle(t, EBB_RUNNING, "in Slurm");
    EBB_TRY(settle(t, t->past.starts > 0 ? EBB_PAUSED : EBB_STARTING, reason_to_wait(t)));
    return replan && t->past.starts == 0 ? plan_again(t) : EBB_OK;
}

static ebb_status_t look_after_job(ebb_queue_t *queue, ebb_queue_job_t *job, const ebb_slurm_list_t *list, bool replan)
{
    task_t t = {.queue = queue, .job = job, .list = list};
    ebb_status_t status = ebb_slurm_place_open(ebb_queue_path(queue), job->id, &t.place);
    if (status == EBB_ENOINPUT) { /* died between entering it and handing it over */
        ebb_error_clear();
        return move(&t, EBB_FAILED, "its submission was broken off", NULL, 1);
    }
    if (status == EBB_OK)
        status = look_after(&t, replan);
    ebb_slurm_place_free(&t.place);
    return status;
}

static ebb_status_t look_after_all(ebb_queue_t *queue, bool replan)
{
    ebb_queue_list_t jobs = {0};
    ebb_slurm_list_t list = {0};
    int64_t ours = 0;
    EBB_TRY(ebb_queue_read(queue, EBB_QUEUE_LIVE, &jobs));
    for (int64_t i = 0; i < jobs.n; i++)
        ours += *jobs.job[i].slurm != 0;
    ebb_status_t status = ours > 0 ? ebb_slurm_list(&list) : EBB_OK;
    for (int64_t i = 0; i < jobs.n && ours > 0 && status == EBB_OK; i++)
        if (*jobs.job[i].slurm)
            status = look_after_job(queue, &jobs.job[i], &list, replan);
    ebb_free(list.part);
    ebb_queue_list_free(&jobs);
    return status;
}

ebb_status_t ebb_slurm_tend(ebb_queue_t *queue, bool replan)
{
    char folder[PATH_MAX];
    int fd;
    snprintf(folder, sizeof folder, "%.4000s/slurm", ebb_queue_path(queue));
    if (!ebb_file_is_dir(folder))
        return EBB_OK;
    ebb_status_t status = lock(queue, 1, &fd);
    if (status == EBB_EUSAGE) { /* somebody else is at it */
        ebb_error_clear();
        return EBB_OK;
    }
    EBB_TRY(status);
    status = look_after_all(queue, replan);
    close(fd);
    return status;
}

/* ---- wishes ---- */

/* Do something with a job's parts as they are now, under the lock. */
static ebb_status_t with_parts(ebb_queue_t *queue, const ebb_queue_job_t *job, ebb_status_t (*act)(task_t *))
{
    ebb_queue_job_t now = {0};
    ebb_slurm_list_t list = {0};
    int fd;
    EBB_TRY(lock(queue, LOCK_TRIES, &fd));
    task_t t = {.queue = queue, .job = &now, .list = &list};
    ebb_status_t status = ebb_queue_get(queue, job->id, &now);
    if (status == EBB_OK)
        status = ebb_slurm_place_open(ebb_queue_path(queue), job->id, &t.place);
    if (status == EBB_OK)
        status = ebb_slurm_list(&list);
    if (status == EBB_OK) {
        count(&t);
        ebb_slurm_past(&t.place, &t.past);
        status = act(&t);
    }
    ebb_slurm_place_free(&t.place);
    ebb_free(list.part);
    ebb_queue_job_free(&now);
    close(fd);
    return status;
}

static ebb_status_t cancel(task_t *t)
{
    EBB_TRY(cancel_parts(t, true));
    return move(t, EBB_CANCELLED, "by the user", NULL, 0);
}

ebb_status_t ebb_slurm_cancel(ebb_queue_t *queue, const ebb_queue_job_t *job)
{
    EBB_TRY(ebb_queue_wish(queue, job->id, EBB_WISH_CANCEL)); /* holds if Slurm does not answer now */
    return with_parts(queue, job, cancel);
}

static ebb_status_t hold(task_t *t)
{
    if (t->runs > 0 && t->job->spec.pause != EBB_PAUSE_CHECKPOINT)
        return EBB_FAIL(EBB_EUSAGE, "job %lld runs in Slurm and cannot be paused; cancel it, or let it end",
                        (long long)t->job->id);
    EBB_TRY(ebb_slurm_set_held(&t->place, true));
    EBB_TRY(cancel_parts(t, false));
    for (int64_t i = 0; i < t->list->n; i++)
        if (is_ours(t, &t->list->part[i]) && t->list->part[i].word == EBB_SLURM_RUNS)
            EBB_TRY(ebb_slurm_signal(&t->list->part[i]));
    return t->runs > 0 ? settle(t, EBB_PAUSING, "to be held") : settle(t, EBB_HELD, "by the user");
}

ebb_status_t ebb_slurm_hold(ebb_queue_t *queue, const ebb_queue_job_t *job)
{
    return with_parts(queue, job, hold);
}

static ebb_status_t release(task_t *t)
{
    if (!ebb_slurm_is_held(&t->place))
        return EBB_OK;
    EBB_TRY(ebb_slurm_set_held(&t->place, false));
    return hand_over(t);
}

ebb_status_t ebb_slurm_release(ebb_queue_t *queue, const ebb_queue_job_t *job)
{
    return with_parts(queue, job, release);
}
