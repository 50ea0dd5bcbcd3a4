/* The source of intensities that an environment names. */
#include "jobs/settings.h"
#include "base/alloc.h"
#include "base/text.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BUDGET_S 6.0 /* for all tries together */

static const char *variable(char *const *environment, const char *name)
{
    size_t n = strlen(name);
    for (; environment && *environment; environment++)
        if (strncmp(*environment, name, n) == 0 && (*environment)[n] == '=' && (*environment)[n + 1])
            return *environment + n + 1;
    const char *own = getenv(name);
    return own && *own ? own : NULL;
}

static ebb_status_t copy(char *const *environment, const char *name, char **text_p)
{
    const char *value = variable(environment, name);
    *text_p = value ? ebb_strdup(value) : NULL;
    return value && !*text_p ? EBB_FAIL(EBB_ENOMEM, "out of memory: %s", name) : EBB_OK;
}

/* A name that is not known counts as none: it was refused where it was given. */
static ebb_carbon_source_t kind_of(const ebb_carbon_settings_t *s)
{
    ebb_carbon_source_t kind;
    if (ebb_carbon_source_kind(s->source, s->file, &kind) != EBB_OK)
        ebb_error_clear();
    return kind;
}

static ebb_status_t find_cache(char *const *environment, ebb_carbon_settings_t *s)
{
    char path[PATH_MAX];
    EBB_TRY(ebb_carbon_cache_folder(variable(environment, "EBB_CARBON_CACHE"), variable(environment, "XDG_CACHE_HOME"),
                                    variable(environment, "HOME"), path, sizeof path));
    s->cache = ebb_strdup(path);
    return s->cache ? EBB_OK : EBB_FAIL(EBB_ENOMEM, "out of memory: EBB_CARBON_CACHE");
}

static ebb_status_t make_key(ebb_carbon_settings_t *s)
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
    return key.failed ? EBB_FAIL(EBB_ENOMEM, "out of memory: source") : EBB_OK;
}

static ebb_status_t fill(char *const *environment, ebb_carbon_settings_t *s)
{
    EBB_TRY(copy(environment, "EBB_CARBON_SOURCE", &s->source));
    EBB_TRY(copy(environment, "EBB_CARBON_ZONE", &s->zone));
    EBB_TRY(copy(environment, "EBB_CARBON_FILE", &s->file));
    EBB_TRY(copy(environment, "EBB_CARBON_URL", &s->url));
    EBB_TRY(copy(environment, "EBB_CARBON_COLUMN", &s->column));
    EBB_TRY(find_cache(environment, s));
    if (ebb_carbon_token("EBB_CARBON_TOKEN", &s->token) != EBB_OK) {
        EBB_WARN("agent", "%s", ebb_error()->message);
        ebb_error_clear();
    }
    s->options = (ebb_carbon_source_options_t){.kind = kind_of(s),
                                               .zone = s->zone,
                                               .file = s->file,
                                               .url = s->url,
                                               .token = s->token,
                                               .cache_dir = s->cache,
                                               .budget_s = BUDGET_S};
    s->options.read =
        (ebb_carbon_read_options_t){.column = s->column,
                                    .scope = ebb_carbon_scope_named(variable(environment, "EBB_CARBON_SCOPE")),
                                    .signal = ebb_carbon_signal_named(variable(environment, "EBB_CARBON_SIGNAL"))};
    return make_key(s);
}

ebb_status_t ebb_carbon_settings_of(char *const *environment, ebb_carbon_settings_t *s)
{
    *s = (ebb_carbon_settings_t){0};
    ebb_status_t status = fill(environment, s);
    if (status != EBB_OK)
        ebb_carbon_settings_free(s);
    return status;
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
