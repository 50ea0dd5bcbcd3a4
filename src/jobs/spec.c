/* Specs: what may be asked for, and their form in the database, JSON. */
#include "internal.h"
#include "base/alloc.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MOST_RANKS 1000000

const char *const *ebb_queue_pause_names(void)
{
    static const char *const names[] = {"never", "freeze", "checkpoint", NULL};
    return names;
}

/* ---- what may be asked for ---- */

static ebb_status_t check_numbers(const ebb_queue_spec_t *s)
{
    const double number[] = {s->deadline, s->max_wait_s, s->hours, s->power_w, s->restart_s, s->pue};
    for (size_t i = 0; i < sizeof number / sizeof *number; i++)
        if (!isfinite(number[i]) || number[i] < 0)
            return EBB_FAIL(EBB_EINVAL, "job \"%.60s\": a time, power or factor is below 0 or not a number", s->name);
    if (s->pue != 0 && s->pue < 1)
        return EBB_FAIL(EBB_EINVAL, "job \"%.60s\": a power usage effectiveness is 1 or more", s->name);
    if (s->ranks < 1 || s->ranks > MOST_RANKS || s->cpus < 0 || s->gpus < 0)
        return EBB_FAIL(EBB_EINVAL, "job \"%.60s\": ranks must be 1 to %d, cpus and gpus not below 0", s->name,
                        MOST_RANKS);
    if (s->least_ranks < 1 || s->least_ranks > s->ranks || s->most_ranks < s->ranks || s->most_ranks > MOST_RANKS)
        return EBB_FAIL(EBB_EINVAL, "job \"%.60s\": %lld ranks must lie within the range %lld to %lld", s->name,
                        (long long)s->ranks, (long long)s->least_ranks, (long long)s->most_ranks);
    return EBB_OK;
}

ebb_status_t ebb_spec_check(const ebb_queue_spec_t *s)
{
    if (!s->name || !*s->name || strlen(s->name) > 200 || strpbrk(s->name, "/\n"))
        return EBB_FAIL(EBB_EINVAL, "a job's name has 1 to 200 characters, no slash and no line break");
    if (!s->word || !s->word[0] || !s->word[0][0])
        return EBB_FAIL(EBB_EINVAL, "job \"%.60s\": there is no command", s->name);
    if (!s->folder || s->folder[0] != '/')
        return EBB_FAIL(EBB_EINVAL, "job \"%.60s\": the folder must be an absolute path", s->name);
    EBB_TRY(check_numbers(s));
    if (s->policy == EBB_PLAN_ELASTIC && !s->run)
        return EBB_FAIL(EBB_EINVAL,
                        "job \"%.60s\": a command cannot be resized; policy elastic is for run files (run.yaml)",
                        s->name);
    if (s->run && !s->run_folder)
        return EBB_FAIL(EBB_EINVAL, "job \"%.60s\": the folder of the run is missing", s->name);
    if ((s->policy == EBB_PLAN_PAUSE || s->policy == EBB_PLAN_ELASTIC) && s->pause == EBB_PAUSE_NEVER)
        return EBB_FAIL(EBB_EINVAL, "job \"%.60s\": a job that cannot be paused can be deferred; choose policy defer",
                        s->name);
    return EBB_OK;
}

/* ---- to JSON ---- */

static ebb_status_t words_json(const char *name, char *const *word, bool skip_bad, json_t **json_p)
{
    *json_p = json_array();
    for (; word && *word; word++) {
        json_t *text = json_string(*word);
        if (!text && !skip_bad)
            return EBB_FAIL(EBB_EINVAL, "job \"%.60s\": a word of its command is not UTF-8", name);
        if (text)
            json_array_append_new(*json_p, text);
    }
    return EBB_OK;
}

static void set_text(json_t *json, const char *key, const char *text)
{
    if (text)
        json_object_set_new(json, key, json_string(text));
}

static void set_number(json_t *json, const char *key, double value)
{
    if (value != 0)
        json_object_set_new(json, key, json_real(value));
}

static void set_numbers(json_t *json, const ebb_queue_spec_t *s)
{
    set_number(json, "deadline", s->deadline);
    set_number(json, "max_wait_s", s->max_wait_s);
    set_number(json, "hours", s->hours);
    set_number(json, "power_w", s->power_w);
    set_number(json, "restart_s", s->restart_s);
    set_number(json, "pue", s->pue);
}

static ebb_status_t to_json(const ebb_queue_spec_t *s, json_t *json)
{
    json_t *words, *environment, *after = json_array();
    for (int64_t i = 0; i < s->n_after; i++)
        json_array_append_new(after, json_integer(s->after[i]));
    json_object_set_new(json, "after", after);
    ebb_status_t status = words_json(s->name, s->word, false, &words);
    json_object_set_new(json, "word", words);
    EBB_TRY(status);
    if (s->environment) {
        EBB_TRY(words_json(s->name, s->environment, true, &environment));
        json_object_set_new(json, "environment", environment);
    }
    set_text(json, "name", s->name);
    set_text(json, "folder", s->folder);
    set_text(json, "run_folder", s->run_folder);
    set_text(json, "profile", s->profile);
    set_text(json, "policy", ebb_plan_policy_name(s->policy));
    set_text(json, "pause", ebb_queue_pause_names()[s->pause]);
    set_numbers(json, s);
    json_object_set_new(json, "run", json_boolean(s->run));
    json_object_set_new(json, "rerun", json_boolean(s->rerun));
    const int64_t count[] = {s->ranks, s->least_ranks, s->most_ranks, s->cpus, s->gpus};
    static const char *const key[] = {"ranks", "least_ranks", "most_ranks", "cpus", "gpus"};
    for (int i = 0; i < 5; i++)
        json_object_set_new(json, key[i], json_integer(count[i]));
    if (!json_object_get(json, "name") || !json_object_get(json, "folder"))
        return EBB_FAIL(EBB_EINVAL, "a job's name and folder must be UTF-8");
    return EBB_OK;
}

ebb_status_t ebb_spec_write(const ebb_queue_spec_t *spec, char **text_p)
{
    json_t *json = json_object();
    ebb_status_t status = to_json(spec, json);
    *text_p = status == EBB_OK ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    return status != EBB_OK ? status : *text_p ? EBB_OK : EBB_FAIL(EBB_ENOMEM, "out of memory: job");
}

/* ---- and back ---- */

static ebb_status_t read_words(const json_t *list, char ***word_p)
{
    size_t n = json_array_size(list);
    EBB_TRY(EBB_NEW_ARRAY("words of a job", n + 1, word_p));
    for (size_t i = 0; i < n; i++) {
        (*word_p)[i] = (char *)json_string_value(json_array_get(list, i));
        if (!(*word_p)[i])
            return EBB_FAIL(EBB_EDATA, "a job of the queue has a word that is no text");
    }
    return EBB_OK;
}

static ebb_status_t read_after(const json_t *list, ebb_queue_spec_t *s, ebb_spec_memory_t *m)
{
    s->n_after = (int64_t)json_array_size(list);
    EBB_TRY(EBB_NEW_ARRAY("ids of jobs", s->n_after + 1, &m->after));
    for (int64_t i = 0; i < s->n_after; i++)
        m->after[i] = json_integer_value(json_array_get(list, (size_t)i));
    s->after = m->after;
    return EBB_OK;
}

static int choice(const char *text, int n, const char *(*name)(int))
{
    for (int i = 0; text && i < n; i++)
        if (strcmp(text, name(i)) == 0)
            return i;
    return 0;
}

static const char *policy_name(int i)
{
    return ebb_plan_policy_name((ebb_plan_policy_t)i);
}

static const char *pause_name(int i)
{
    return ebb_queue_pause_names()[i];
}

static int64_t count_of(const json_t *json, const char *key)
{
    return json_integer_value(json_object_get(json, key));
}

static double number_of(const json_t *json, const char *key)
{
    return json_number_value(json_object_get(json, key));
}

static const char *text_of(const json_t *json, const char *key)
{
    return json_string_value(json_object_get(json, key));
}

static ebb_status_t from_json(const json_t *json, ebb_queue_spec_t *s, ebb_spec_memory_t *m)
{
    const json_t *environment = json_object_get(json, "environment");
    *s = (ebb_queue_spec_t){.name = text_of(json, "name"),
                            .folder = text_of(json, "folder"),
                            .run_folder = text_of(json, "run_folder"),
                            .profile = text_of(json, "profile"),
                            .run = json_is_true(json_object_get(json, "run")),
                            .rerun = json_is_true(json_object_get(json, "rerun")),
                            .policy = (ebb_plan_policy_t)choice(text_of(json, "policy"), 4, policy_name),
                            .pause = (ebb_queue_pause_t)choice(text_of(json, "pause"), 3, pause_name),
                            .ranks = count_of(json, "ranks"),
                            .least_ranks = count_of(json, "least_ranks"),
                            .most_ranks = count_of(json, "most_ranks"),
                            .cpus = count_of(json, "cpus"),
                            .gpus = count_of(json, "gpus"),
                            .deadline = number_of(json, "deadline"),
                            .max_wait_s = number_of(json, "max_wait_s"),
                            .hours = number_of(json, "hours"),
                            .power_w = number_of(json, "power_w"),
                            .restart_s = number_of(json, "restart_s"),
                            .pue = number_of(json, "pue")};
    EBB_TRY(read_words(json_object_get(json, "word"), &m->word));
    s->word = m->word;
    EBB_TRY(read_after(json_object_get(json, "after"), s, m));
    if (environment)
        EBB_TRY(read_words(environment, &m->environment));
    s->environment = m->environment;
    return s->name && s->folder ? EBB_OK : EBB_FAIL(EBB_EDATA, "a job of the queue has no name or folder");
}

ebb_status_t ebb_spec_read(const char *text, ebb_queue_spec_t *spec, ebb_spec_memory_t **memory_p)
{
    EBB_TRY(EBB_NEW("texts of a job", memory_p));
    ebb_status_t status = ebb_json_parse(text, strlen(text), "a job of the queue", &(*memory_p)->json);
    if (status == EBB_OK)
        status = from_json((*memory_p)->json, spec, *memory_p);
    if (status != EBB_OK) {
        ebb_spec_free(*memory_p);
        *memory_p = NULL;
    }
    return status;
}

void ebb_spec_free(ebb_spec_memory_t *m)
{
    if (!m)
        return;
    ebb_free(m->word);
    ebb_free(m->environment);
    ebb_free(m->after);
    ebb_free(m->reason);
    ebb_free(m->gpu);
    ebb_free(m->plan);
    ebb_free(m->slurm);
    json_decref(m->json);
    ebb_free(m);
}
