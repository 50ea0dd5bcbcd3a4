/* The one reader of EBB_CARBON_*. */
#include "carbon/settings.h"
#include "base/alloc.h"
#include "base/text.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct reader {
    char *const *environment;
    ebb_status_t status; /* the first trouble, whose error is kept */
} reader_t;

static const char *variable(const reader_t *r, const char *name)
{
    size_t n = strlen(name);
    for (char *const *v = r->environment; v && *v; v++)
        if (strncmp(*v, name, n) == 0 && (*v)[n] == '=' && (*v)[n + 1])
            return *v + n + 1;
    const char *own = getenv(name);
    return own && *own ? own : NULL;
}

static const char *word(const reader_t *r, const char *said, const char *name)
{
    return said && *said ? said : variable(r, name);
}

static void note(reader_t *r, ebb_status_t status)
{
    if (r->status == EBB_OK)
        r->status = status;
}

static void copy(reader_t *r, const char *value, char **text_p)
{
    *text_p = value ? ebb_strdup(value) : NULL;
    if (value && !*text_p)
        note(r, EBB_FAIL(EBB_ENOMEM, "out of memory: source of intensities"));
}

static void find_scope(reader_t *r, const char *said, ebb_carbon_scope_t *scope_p)
{
    const char *text = word(r, said, "EBB_CARBON_SCOPE");
    *scope_p = ebb_carbon_scope_named(text);
    if (text && strcmp(text, "any") != 0 && *scope_p == EBB_CARBON_SCOPE_UNKNOWN)
        note(r, EBB_FAIL(EBB_EUSAGE, "EBB_CARBON_SCOPE: \"%.40s\" is none of any, direct, lifecycle", text));
}

static void find_signal(reader_t *r, const char *said, ebb_carbon_signal_t *signal_p)
{
    const char *text = word(r, said, "EBB_CARBON_SIGNAL");
    *signal_p = ebb_carbon_signal_named(text);
    if (text && strcmp(text, "any") != 0 && *signal_p == EBB_CARBON_SIGNAL_UNKNOWN)
        note(r, EBB_FAIL(EBB_EUSAGE, "EBB_CARBON_SIGNAL: \"%.40s\" is none of any, average, marginal", text));
}

static void find_cache(reader_t *r, ebb_carbon_settings_t *s)
{
    char path[PATH_MAX];
    ebb_status_t status = ebb_carbon_cache_folder(variable(r, "EBB_CARBON_CACHE"), variable(r, "XDG_CACHE_HOME"),
                                                  variable(r, "HOME"), path, sizeof path);
    note(r, status);
    copy(r, status == EBB_OK ? path : NULL, &s->cache);
}

static void make_key(reader_t *r, ebb_carbon_settings_t *s)
{
    ebb_text_t key = {0};
    const char *const text[] = {s->file, s->column, s->url};
    const ebb_carbon_read_options_t *read = &s->options.read;
    ebb_text_add(&key, "%s %s", ebb_carbon_source_names()[s->options.kind], s->zone ? s->zone : "-");
    for (size_t i = 0; i < sizeof text / sizeof *text; i++)
        if (text[i])
            ebb_text_add(&key, " %s", text[i]);
    if (read->scope != EBB_CARBON_SCOPE_UNKNOWN)
        ebb_text_add(&key, " %s", ebb_carbon_scope_name(read->scope));
    if (read->signal != EBB_CARBON_SIGNAL_UNKNOWN)
        ebb_text_add(&key, " %s", ebb_carbon_signal_name(read->signal));
    s->key = key.s;
    if (key.failed)
        note(r, EBB_FAIL(EBB_ENOMEM, "out of memory: source of intensities"));
}

ebb_status_t ebb_carbon_settings_of(const ebb_carbon_words_t *said, char *const *environment, ebb_carbon_settings_t *s)
{
    static const ebb_carbon_words_t nothing;
    const ebb_carbon_words_t *w = said ? said : &nothing;
    reader_t r = {.environment = environment};
    *s = (ebb_carbon_settings_t){0};
    copy(&r, word(&r, w->source, "EBB_CARBON_SOURCE"), &s->source);
    copy(&r, word(&r, w->zone, "EBB_CARBON_ZONE"), &s->zone);
    copy(&r, word(&r, w->file, "EBB_CARBON_FILE"), &s->file);
    copy(&r, word(&r, w->url, "EBB_CARBON_URL"), &s->url);
    copy(&r, word(&r, w->column, "EBB_CARBON_COLUMN"), &s->column);
    find_scope(&r, w->scope, &s->options.read.scope);
    find_signal(&r, w->signal, &s->options.read.signal);
    note(&r, ebb_carbon_source_kind(s->source, s->file, &s->options.kind));
    find_cache(&r, s);
    note(&r, ebb_carbon_token("EBB_CARBON_TOKEN", &s->token));
    s->options.zone = s->zone;
    s->options.file = s->file;
    s->options.url = s->url;
    s->options.token = s->token;
    s->options.cache_dir = s->cache;
    s->options.read.column = s->column;
    make_key(&r, s);
    if (r.status == EBB_ENOMEM)
        ebb_carbon_settings_free(s);
    return r.status;
}

void ebb_carbon_settings_free(ebb_carbon_settings_t *s)
{
    ebb_free(s->source);
    ebb_free(s->zone);
    ebb_free(s->file);
    ebb_free(s->url);
    ebb_free(s->column);
    ebb_free(s->cache);
    ebb_free(s->key);
    ebb_carbon_token_free(s->token);
    *s = (ebb_carbon_settings_t){0};
}
