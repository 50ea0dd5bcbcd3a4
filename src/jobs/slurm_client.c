/* Slurm's commands, as child processes. */
#include "jobs/slurm.h"
#include "base/alloc.h"
#include "base/child.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ANSWER_S   30.0
#define MOST_WORDS 192
#define SPARE_S    600.0 /* of a part's time limit, for starting and for the checkpoint */
#define SIGNAL_S   120   /* before a time limit */

/* Does this error mean that the controller is not there, rather than that it refused? */
static bool is_absent(const char *text)
{
    static const char *const signs[] = {"contact slurm controller",
                                        "Socket timed out",
                                        "Connection refused",
                                        "Unable to contact",
                                        "Zero Bytes were transmitted",
                                        "Transport endpoint",
                                        "slurm_receive_msg",
                                        "Connection timed out",
                                        "Connection reset by peer", /* killed while it was asked */
                                        "Broken pipe",
                                        "Communication connection failure",
                                        "Unexpected message received",
                                        "No route to host",
                                        "Network is unreachable",
                                        NULL};
    for (int i = 0; signs[i]; i++)
        if (strstr(text, signs[i]))
            return true;
    return false;
}

static ebb_status_t call(char *const *word, char *const *environment, ebb_text_t *out)
{
    ebb_text_t err = {0};
    int code;
    ebb_status_t status = ebb_child_run(word, environment, ANSWER_S, out, &err, &code);
    if (err.s)
        err.s[strcspn(err.s, "\n")] = 0;
    if (status == EBB_OK && code == 127)
        status = EBB_FAIL(EBB_EUNAVAILABLE, "%s: not found; is Slurm installed here?", word[0]);
    else if (status == EBB_OK && code != 0)
        status = EBB_FAIL(err.s && is_absent(err.s) ? EBB_EUNAVAILABLE : EBB_EUSAGE, "%s", err.s ? err.s : word[0]);
    ebb_text_free(&err);
    return status;
}

/* ---- squeue ---- */

static ebb_slurm_word_t word_of(const char *state)
{
    static const struct {
        const char *state;
        ebb_slurm_word_t word;
    } words[] = {{"PENDING", EBB_SLURM_WAITS},  {"REQUEUE", EBB_SLURM_WAITS},    {"SPECIAL_EXIT", EBB_SLURM_WAITS},
                 {"RUNNING", EBB_SLURM_RUNS},   {"CONFIGURING", EBB_SLURM_RUNS}, {"COMPLETING", EBB_SLURM_RUNS},
                 {"SUSPENDED", EBB_SLURM_RUNS}, {"RESIZING", EBB_SLURM_RUNS},    {"SIGNALING", EBB_SLURM_RUNS},
                 {"STAGE_OUT", EBB_SLURM_RUNS}, {"STOPPED", EBB_SLURM_RUNS},     {"CANCELLED", EBB_SLURM_CANCELLED}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strncmp(state, words[i].state, strlen(words[i].state)) == 0)
            return words[i].word;
    return EBB_SLURM_ENDED;
}

/* "12|RUNNING|2|None|ebb:0123abcd:2/3: ..."; others' lines are left. */
static ebb_status_t take_line(char *line, ebb_slurm_list_t *list)
{
    char *field[5], *rest = line;
    long long part;
    ebb_slurm_part_t p = {0};
    for (int i = 0; i < 5; i++)
        if (!(field[i] = i < 4 ? strsep(&rest, "|") : rest))
            return EBB_OK;
    if (sscanf(field[4], "ebb:%16[0-9a-f]:%lld/", p.token, &part) != 2)
        return EBB_OK;
    snprintf(p.id, sizeof p.id, "%s", field[0]);
    snprintf(p.reason, sizeof p.reason, "%s", field[3]);
    p.part = part;
    p.tasks = atoll(field[2]);
    p.word = word_of(field[1]);
    EBB_TRY(ebb_grow("jobs of Slurm", (void **)&list->part, &list->capacity, list->n + 1, sizeof *list->part));
    list->part[list->n++] = p;
    return EBB_OK;
}

ebb_status_t ebb_slurm_list(ebb_slurm_list_t *list)
{
    ebb_text_t out = {0};
    *list = (ebb_slurm_list_t){0};
    char *const word[] = {(char *)"squeue",
                          (char *)"--me",
                          (char *)"-h",
                          (char *)"-a",
                          (char *)"-t",
                          (char *)"all",
                          (char *)"-o%A|%T|%C|%r|%k",
                          NULL};
    ebb_status_t status = call(word, NULL, &out);
    char *rest = out.s, *line;
    while (status == EBB_OK && rest && (line = strsep(&rest, "\n")))
        status = take_line(line, list);
    ebb_text_free(&out);
    return status;
}

/* ---- sbatch ---- */

typedef struct words {
    char *word[MOST_WORDS];
    ebb_text_t text[16];
    int n, n_texts;
} words_t;

static void add(words_t *w, const char *word)
{
    if (w->n + 1 < MOST_WORDS)
        w->word[w->n++] = (char *)word;
}

static void add_format(words_t *w, const char *fmt, ...) EBB_PRINTF(2, 3);
static void add_format(words_t *w, const char *fmt, ...)
{
    char text[PATH_MAX + 256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    ebb_text_t *t = &w->text[w->n_texts++];
    ebb_text_add(t, "%s", text);
    if (t->s)
        add(w, t->s);
}

/* Options that come later hold, so that the user's do. */
static void compose(const ebb_slurm_request_t *r, words_t *w)
{
    const ebb_queue_spec_t *s = &r->job->spec;
    add(w, "sbatch");
    add(w, "--parsable");
    add_format(w, "--job-name=%s", s->name);
    add_format(w, "--comment=ebb:%s:%lld/%s", r->place->token, (long long)r->part, r->note);
    add_format(w, "--chdir=%s", s->folder);
    add_format(w, "--output=%s/log%s", r->place->path, r->place->is_array ? "-%a" : "");
    add(w, "--open-mode=append");
    add_format(w, "--ntasks=%lld", (long long)(s->run ? r->ranks : 1));
    add_format(w, "--cpus-per-task=%lld", (long long)(s->cpus > 0 ? s->cpus : 1));
    if (s->gpus > 0)
        add_format(w, "--gpus-per-task=%lld", (long long)s->gpus);
    if (r->begin_in_s >= 1)
        add_format(w, "--begin=now+%.0f", floor(r->begin_in_s));
    if (r->length_s > 0)
        add_format(w, "--time=%.0f", ceil((r->length_s + SPARE_S) / 60));
    if (*r->after)
        add_format(w, "--dependency=afterany:%s", r->after);
    if (s->pause == EBB_PAUSE_CHECKPOINT)
        add_format(w, "--signal=B:USR1@%d", SIGNAL_S);
    add(w, s->rerun ? "--requeue" : "--no-requeue");
    for (char **o = r->place->option; o && *o; o++)
        add(w, *o);
    add_format(w, "%s/job.sh", r->place->path);
    add_format(w, "%lld", (long long)r->part);
}

ebb_status_t ebb_slurm_sbatch(const ebb_slurm_request_t *r, char id[32])
{
    words_t *w;
    ebb_text_t out = {0};
    EBB_TRY(EBB_NEW("words of sbatch", &w));
    compose(r, w);
    ebb_status_t status = call(w->word, r->job->spec.environment, &out);
    if (status == EBB_OK && (!out.s || sscanf(out.s, "%31[0-9]", id) != 1))
        status = EBB_FAIL(EBB_EUNAVAILABLE, "sbatch gave no job id");
    for (int i = 0; i < w->n_texts; i++)
        ebb_text_free(&w->text[i]);
    ebb_text_free(&out);
    ebb_free(w);
    return status;
}

/* ---- the others ---- */

static ebb_status_t order(char *const *word)
{
    ebb_text_t out = {0};
    ebb_status_t status = call(word, NULL, &out);
    ebb_text_free(&out);
    return status;
}

ebb_status_t ebb_slurm_scancel(const ebb_slurm_part_t *part)
{
    return order((char *const[]){(char *)"scancel", (char *)part->id, NULL});
}

ebb_status_t ebb_slurm_signal(const ebb_slurm_part_t *part)
{
    return order(
        (char *const[]){(char *)"scancel", (char *)"--batch", (char *)"--signal=USR1", (char *)part->id, NULL});
}

ebb_status_t ebb_slurm_update(const ebb_slurm_part_t *part, double begin_in_s, int64_t tasks)
{
    char id[64], start[64], number[64];
    snprintf(id, sizeof id, "JobId=%s", part->id);
    snprintf(start, sizeof start, "StartTime=now+%.0fseconds", fmax(0, floor(begin_in_s)));
    snprintf(number, sizeof number, "NumTasks=%lld", (long long)tasks);
    char *word[] = {(char *)"scontrol", (char *)"update", id, start, tasks > 0 ? number : NULL, NULL};
    return order(word);
}

/* "launch failed requeued held"; by a person it is "JobHeldUser" or "JobHeldAdmin". */
bool ebb_slurm_failed_to_launch(const ebb_slurm_part_t *part)
{
    return part->word == EBB_SLURM_WAITS && strncmp(part->reason, "launch", 6) == 0;
}

ebb_status_t ebb_slurm_let_go(const ebb_slurm_part_t *part)
{
    return order((char *const[]){(char *)"scontrol", (char *)"release", (char *)part->id, NULL});
}
