/* The cache: one JSON file per source and zone, in Ebb's own form, replaced as a whole. It keeps eight days of the
 * past, which is what "yesterday's curve" stands on, and the newest forecast. A damaged one is as good as none. */
#include "carbon/internal.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"

#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define KEPT_S (8 * 86400)

ebb_status_t ebb_carbon_cache_folder(const char *own, const char *cache, const char *home, char *path, size_t size)
{
    int n = own && *own       ? snprintf(path, size, "%s", own)
            : cache && *cache ? snprintf(path, size, "%s/ebb/carbon", cache)
                              : snprintf(path, size, "%s/.cache/ebb/carbon", home && *home ? home : ".");
    return (size_t)n < size ? EBB_OK : EBB_FAIL(EBB_EUSAGE, "EBB_CARBON_CACHE: path too long");
}

static ebb_status_t path_of(const ebb_carbon_source_options_t *o, char path[PATH_MAX])
{
    char key[1024], zone[65] = "";
    int n = snprintf(key, sizeof key, "%d|%s|%s|%d", (int)o->kind, o->zone ? o->zone : "", o->url ? o->url : "",
                     (int)o->read.scope);
    for (size_t i = 0; o->zone && o->zone[i] && i < 64; i++) {
        zone[i] = isalnum((unsigned char)o->zone[i]) || o->zone[i] == '-' ? o->zone[i] : '_';
        zone[i + 1] = 0;
    }
    uint64_t hash = ebb_xxh3(key, (size_t)n < sizeof key ? (size_t)n : sizeof key - 1);
    if (snprintf(path, PATH_MAX, "%s/%s-%s-%08x.json", o->cache_dir, ebb_carbon_source_names()[o->kind], zone,
                 (unsigned)hash) >= PATH_MAX)
        return EBB_FAIL(EBB_EINVAL, "path too long: %.80s...", o->cache_dir);
    return EBB_OK;
}

ebb_status_t ebb_carbon_cache_read(const ebb_carbon_source_options_t *o, ebb_carbon_series_t *series, double *age_s_p)
{
    char path[PATH_MAX];
    struct stat st;
    ebb_carbon_read_options_t zeros = {.zeros = true};
    *series = (ebb_carbon_series_t){0};
    *age_s_p = 1e18;
    if (!o->cache_dir)
        return EBB_OK;
    EBB_TRY(path_of(o, path));
    if (stat(path, &st) != 0)
        return EBB_OK;
    ebb_status_t status = ebb_carbon_read(path, &zeros, series);
    if (status == EBB_ENOMEM)
        return status;
    if (status != EBB_OK) {
        EBB_DEBUG("carbon", "cache is left: %s", ebb_error()->message);
        ebb_error_clear();
        return EBB_OK;
    }
    double age = (ebb_system_seconds() - (double)st.st_mtime) * ebb_clock_rate();
    *age_s_p = age >= -1 ? age : 1e18; /* of the future: a clock is off */
    return EBB_OK;
}

static json_t *point_json(const ebb_carbon_point_t *p)
{
    return json_pack("{s:I, s:I, s:f, s:b, s:b}", "begin", (json_int_t)p->begin, "end", (json_int_t)p->end, "g", p->g,
                     "forecast", (int)p->forecast, "estimated", (int)p->estimated);
}

static json_t *merged_json(int64_t now, const ebb_carbon_series_t *fresh, const ebb_carbon_series_t *old)
{
    json_t *points = json_array();
    int64_t first = fresh->point[0].begin;
    for (int64_t i = 0; i < old->n; i++)
        if (old->point[i].begin >= now - KEPT_S && old->point[i].end <= first)
            json_array_append_new(points, point_json(&old->point[i]));
    for (int64_t i = 0; i < fresh->n; i++)
        if (fresh->point[i].begin >= now - KEPT_S)
            json_array_append_new(points, point_json(&fresh->point[i]));
    return json_pack("{s:s, s:s, s:s, s:s, s:I, s:o}", "zone", fresh->zone, "source", fresh->source, "signal",
                     ebb_carbon_signal_name(fresh->signal), "scope", ebb_carbon_scope_name(fresh->scope),
                     "generated_at", (json_int_t)fresh->generated_at, "points", points);
}

ebb_status_t ebb_carbon_cache_merge(const ebb_carbon_source_options_t *o, int64_t now, const ebb_carbon_series_t *fresh)
{
    char path[PATH_MAX];
    ebb_carbon_series_t old;
    double age;
    if (!o->cache_dir || fresh->n == 0)
        return EBB_OK;
    EBB_TRY(path_of(o, path));
    EBB_TRY(ebb_file_mkdirs(o->cache_dir));
    EBB_TRY(ebb_carbon_cache_read(o, &old, &age));
    json_t *json = merged_json(now, fresh, &old);
    ebb_carbon_series_free(&old);
    char *text = json ? ebb_json_dump(json) : NULL;
    json_decref(json);
    if (!text)
        return EBB_FAIL(EBB_ENOMEM, "out of memory: cache of intensities");
    ebb_status_t status = ebb_file_replace(path, text, strlen(text));
    free(text);
    return status;
}
