/* Sources: what to ask each service, where its token comes from, and the way from a request to the ladder. */
#include "carbon/internal.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/text.h"

#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

const char *const *ebb_carbon_source_names(void)
{
    static const char *const names[] = {"file", "neso", "electricitymaps", "watttime", "casdk", "typical", NULL};
    return names;
}

ebb_status_t ebb_carbon_source_kind(const char *name, const char *file, ebb_carbon_source_t *kind_p)
{
    *kind_p = file ? EBB_CARBON_FILE : EBB_CARBON_TYPICAL_DAY;
    const char *const *known = ebb_carbon_source_names();
    if (!name)
        return EBB_OK;
    for (int k = 0; known[k]; k++) {
        if (strcmp(name, known[k]) == 0) {
            *kind_p = (ebb_carbon_source_t)k;
            return EBB_OK;
        }
    }
    const char *near = ebb_text_nearest(name, known);
    return EBB_FAIL(EBB_EUSAGE, "unknown source \"%.60s\"%s%s%s", name, near ? "; did you mean " : "", near ? near : "",
                    near ? "?" : "; there are file, neso, electricitymaps, watttime, casdk and typical");
}

static const char *const homes[] = {
    [EBB_CARBON_NESO] = "https://api.carbonintensity.org.uk",
    [EBB_CARBON_ELECTRICITYMAPS] = "https://api.electricitymaps.com",
    [EBB_CARBON_WATTTIME] = "https://api.watttime.org",
    [EBB_CARBON_CASDK] = NULL,
    [EBB_CARBON_TYPICAL_DAY] = NULL,
};

/* ---- tokens ---- */

static ebb_status_t read_token_file(const char *path, char **token_p)
{
    struct stat st;
    size_t bytes;
    if (stat(path, &st) != 0)
        return ebb_file_error(path, "cannot read the token");
    if (st.st_mode & 077)
        return EBB_FAIL(EBB_EUSAGE, "%s: others can read this token; chmod 600 it", path);
    EBB_TRY(ebb_file_read_all(path, token_p, &bytes));
    (*token_p)[strcspn(*token_p, "\r\n")] = 0;
    return EBB_OK;
}

ebb_status_t ebb_carbon_token(const char *name, char **token_p)
{
    char file[128];
    const char *value = getenv(name);
    *token_p = NULL;
    if (value && *value) {
        *token_p = ebb_strdup(value);
        return *token_p ? EBB_OK : ebb_error()->status;
    }
    snprintf(file, sizeof file, "%.100s_FILE", name);
    value = getenv(file);
    return value && *value ? read_token_file(value, token_p) : EBB_OK;
}

void ebb_carbon_token_free(char *token)
{
    if (token)
        explicit_bzero(token, strlen(token));
    ebb_free(token);
}

/* ---- asking ---- */

typedef struct ask {
    const ebb_carbon_source_options_t *o;
    int64_t now;
    double deadline_s;
    ebb_carbon_read_options_t read;
    ebb_carbon_series_t *series;
    char bearer[4096]; /* secret */
} ask_t;

static const char *home(const ask_t *a)
{
    return a->o->url && *a->o->url ? a->o->url : homes[a->o->kind];
}

/* A zone in an address: letters, digits and -_. only, so that it cannot become a path or a query of its own. */
static ebb_status_t check_zone(const char *zone)
{
    if (!zone || !*zone || strlen(zone) > 60)
        return EBB_FAIL(EBB_EUSAGE, "carbon: this source needs a zone");
    for (const char *c = zone; *c; c++)
        if (!isalnum((unsigned char)*c) && !strchr("-_.", *c))
            return EBB_FAIL(EBB_EUSAGE, "carbon: \"%.60s\" is not a zone", zone);
    return EBB_OK;
}

static ebb_status_t get(const ask_t *a, const char *path, const char *header, const char *userpass, ebb_text_t *text,
                        long *code_p)
{
    char url[2048], place[300];
    int n = snprintf(url, sizeof url, "%s%s", home(a), path);
    if (n >= (int)sizeof url)
        return EBB_FAIL(EBB_EUSAGE, "carbon: the address is too long");
    snprintf(place, sizeof place, "%.*s", (int)strcspn(url, "?"), url);
    ebb_carbon_request_t request = {.url = url,
                                    .place = place,
                                    .header = header,
                                    .userpass = userpass,
                                    .timeout_s = a->o->timeout_s > 0 ? a->o->timeout_s : 5,
                                    .deadline_s = a->deadline_s,
                                    .tries = a->o->tries > 0 ? a->o->tries : 3};
    return ebb_carbon_http_get(&request, text, code_p);
}

/* Ask, and make a series of the answer. */
static ebb_status_t fetch(ask_t *a, const char *path, const char *header, long *code_p)
{
    char origin[300];
    ebb_text_t text = {0};
    ebb_status_t status = get(a, path, header, NULL, &text, code_p);
    snprintf(origin, sizeof origin, "%.100s%.*s", home(a), (int)strcspn(path, "?"), path);
    size_t blank = text.s ? strspn(text.s, " \t\r\n") : 0;
    if (status == EBB_OK && (!text.s || !strchr("{[", text.s[blank]) || !text.s[blank]))
        status = EBB_FAIL(EBB_EDATA, "%s: the answer is not JSON", origin);
    if (status == EBB_OK)
        status = ebb_carbon_parse(text.s, text.n, origin, &a->read, a->series);
    ebb_text_free(&text);
    return status;
}

static ebb_status_t ask_neso(ask_t *a)
{
    const char *zone = a->o->zone ? a->o->zone : "GB";
    char from[32], path[200];
    long code;
    ebb_format_utc((double)(a->now / 1800 * 1800), from, sizeof from);
    snprintf(from + 16, sizeof from - 16, "Z"); /* this service takes no seconds */
    EBB_TRY(check_zone(zone));
    a->read.zone = NULL;
    if (strncmp(zone, "GB-", 3) == 0) {
        bool region = strspn(zone + 3, "0123456789") == strlen(zone + 3);
        snprintf(path, sizeof path, "/regional/intensity/%s/fw48h/%s/%s", from, region ? "regionid" : "postcode",
                 zone + 3);
        a->read.zone = zone;
    } else {
        snprintf(path, sizeof path, "/intensity/%s/fw48h", from);
    }
    EBB_TRY(fetch(a, path, NULL, &code));
    snprintf(a->series->zone, sizeof a->series->zone, "%s", zone);
    return EBB_OK;
}

static ebb_status_t ask_electricitymaps(ask_t *a)
{
    char path[300], header[1200];
    long code;
    const char *kind = a->o->read.scope == EBB_CARBON_DIRECT ? "&emissionFactorType=direct" : "";
    EBB_TRY(check_zone(a->o->zone));
    if (!a->o->token)
        return EBB_FAIL(EBB_EUSAGE,
                        "carbon: electricitymaps needs a token in EBB_CARBON_TOKEN or EBB_CARBON_TOKEN_FILE");
    snprintf(header, sizeof header, "auth-token: %s", a->o->token);
    snprintf(path, sizeof path, "/v3/carbon-intensity/forecast?zone=%s%s", a->o->zone, kind);
    ebb_status_t status = fetch(a, path, header, &code);
    if (status != EBB_OK && (code == 401 || code == 403 || code == 404)) { /* free tokens have no forecast */
        ebb_error_clear();
        snprintf(path, sizeof path, "/v3/carbon-intensity/history?zone=%s%s", a->o->zone, kind);
        status = fetch(a, path, header, &code);
    }
    explicit_bzero(header, sizeof header);
    return status;
}

static ebb_status_t log_in(ask_t *a)
{
    ebb_text_t text = {0};
    json_t *root = NULL;
    const char *token = NULL;
    long code;
    ebb_status_t status = get(a, "/login", NULL, a->o->token, &text, &code);
    if (status == EBB_OK)
        status = ebb_json_parse(text.s ? text.s : "", text.n, "the answer to the login", &root);
    if (status == EBB_OK)
        status = ebb_json_get_string(root, "token", "the answer to the login", &token);
    if (status == EBB_OK)
        snprintf(a->bearer, sizeof a->bearer, "Authorization: Bearer %.4000s", token);
    json_decref(root);
    if (text.s)
        explicit_bzero(text.s, text.n);
    ebb_text_free(&text);
    return status;
}

static ebb_status_t ask_watttime(ask_t *a)
{
    char path[300];
    long code;
    EBB_TRY(check_zone(a->o->zone));
    if (!a->o->token)
        return EBB_FAIL(EBB_EUSAGE,
                        "carbon: watttime needs NAME:PASSWORD or a token in EBB_CARBON_TOKEN or EBB_CARBON_TOKEN_FILE");
    if (strchr(a->o->token, ':'))
        EBB_TRY(log_in(a));
    else
        snprintf(a->bearer, sizeof a->bearer, "Authorization: Bearer %.4000s", a->o->token);
    snprintf(path, sizeof path, "/v3/forecast?region=%s&signal_type=co2_moer", a->o->zone);
    ebb_status_t status = fetch(a, path, a->bearer, &code);
    explicit_bzero(a->bearer, sizeof a->bearer);
    return status;
}

static ebb_status_t ask_casdk(ask_t *a)
{
    char path[300];
    long code;
    EBB_TRY(check_zone(a->o->zone));
    if (!home(a))
        return EBB_FAIL(EBB_EUSAGE, "carbon: casdk needs the url of a Carbon Aware SDK web API");
    snprintf(path, sizeof path, "/emissions/forecasts/current?location=%s", a->o->zone);
    return fetch(a, path, NULL, &code);
}

static ebb_status_t ask_service(ask_t *a)
{
    switch (a->o->kind) {
    case EBB_CARBON_NESO: return ask_neso(a);
    case EBB_CARBON_ELECTRICITYMAPS: return ask_electricitymaps(a);
    case EBB_CARBON_WATTTIME: return ask_watttime(a);
    case EBB_CARBON_CASDK: return ask_casdk(a);
    default: return EBB_FAIL(EBB_EINVAL, "carbon: source %d cannot be asked", (int)a->o->kind);
    }
}

ebb_status_t ebb_carbon_ask(const ebb_carbon_source_options_t *o, int64_t now, ebb_carbon_series_t *series)
{
    double budget = o->budget_s > 0 ? o->budget_s : 15;
    ask_t a = {
        .o = o, .now = now, .deadline_s = (double)ebb_now_ns() * 1e-9 + budget, .read = o->read, .series = series};
    *series = (ebb_carbon_series_t){0};
    a.read.zone = o->zone;
    if (o->kind == EBB_CARBON_FILE) {
        if (!o->file)
            return EBB_FAIL(EBB_EUSAGE, "carbon: the source \"file\" needs a file");
        return ebb_carbon_read(o->file, &a.read, series);
    }
    EBB_TRY(ask_service(&a));
    if (ebb_carbon_cache_merge(o, now, series) != EBB_OK) { /* a full disk is no reason to know nothing */
        EBB_WARN("carbon", "no cache: %s", ebb_error()->message);
        ebb_error_clear();
    }
    return EBB_OK;
}

/* ---- down the ladder ---- */

typedef struct sight {
    ebb_carbon_series_t live, cached;
    char trouble[256];
} sight_t;

/* Wrong arguments and lack of memory are the caller's; all else is trouble of the source. */
static ebb_status_t ask_or_note(const ebb_carbon_source_options_t *o, int64_t now, sight_t *s)
{
    ebb_status_t status = ebb_carbon_ask(o, now, &s->live);
    bool callers = status == EBB_EUSAGE || status == EBB_EINVAL || status == EBB_ENOMEM ||
                   (o->kind == EBB_CARBON_FILE && status == EBB_ENOINPUT);
    if (status == EBB_OK || callers)
        return status;
    snprintf(s->trouble, sizeof s->trouble, "%s", ebb_error()->message);
    ebb_error_clear();
    return EBB_OK;
}

/* A young answer needs no asking. */
static ebb_status_t see(const ebb_carbon_source_options_t *o, int64_t now, sight_t *s)
{
    double age, young = o->max_age_s > 0 ? o->max_age_s : 300;
    if (o->kind == EBB_CARBON_TYPICAL_DAY)
        return EBB_OK;
    if (o->kind == EBB_CARBON_FILE)
        return ask_or_note(o, now, s);
    EBB_TRY(ebb_carbon_cache_read(o, &s->cached, &age));
    if (s->cached.n > 0 && age <= young && s->cached.point[s->cached.n - 1].end > now) {
        s->live = s->cached;
        s->cached = (ebb_carbon_series_t){0};
        return EBB_OK;
    }
    return ask_or_note(o, now, s);
}

ebb_status_t ebb_carbon_look(const ebb_carbon_source_options_t *o, int64_t now, int64_t begin, int64_t step_s,
                             int64_t n, ebb_carbon_forecast_t *forecast)
{
    sight_t s = {0};
    *forecast = (ebb_carbon_forecast_t){0};
    ebb_status_t status = see(o, now, &s);
    ebb_carbon_scope_t scope = s.live.n > 0 ? s.live.scope : s.cached.n > 0 ? s.cached.scope : o->read.scope;
    const char *zone = o->zone ? o->zone : o->kind == EBB_CARBON_NESO ? "GB" : s.live.zone;
    ebb_carbon_ladder_t ladder = {.live = &s.live,
                                  .cached = &s.cached,
                                  .typical = *zone ? ebb_carbon_zone(zone, scope) : NULL,
                                  .trouble = s.trouble};
    if (status == EBB_OK)
        status = ebb_carbon_climb_down(&ladder, begin, step_s, n, forecast);
    ebb_carbon_series_free(&s.live);
    ebb_carbon_series_free(&s.cached);
    return status;
}
