/* Carbon intensity of the grid: series, files and services they come from, and what is believed when those fail.
 *
 *     ebb_carbon_series_t series = {0};
 *     ebb_carbon_read("gb.csv", NULL, &series);                                a file of any known form
 *     ebb_carbon_sample(&series, now, 1800, 48, g, NULL);                      48 half-hours from now; NAN where
 * unknown ebb_carbon_series_free(&series);
 *
 * Times are seconds since 1970 in UTC, whatever the file's own zone; a day on which clocks change has 23 or 25 hours
 * and nothing is repeated or missing. Intensities are gCO2e per kWh. What was measured, and how, stays with the
 * numbers: signal (average of the grid, or marginal) and scope (direct emissions, or life-cycle) are never mixed
 * silently.
 *
 * Nothing is invented: a null, a negative or absurd value, a zero (unless `zeros` says that they are real) and a hole
 * leave time without a value. What to believe there is the ladder's business, which says what it did.
 */
#ifndef EBB_CARBON_H
#define EBB_CARBON_H

#include <ebb/base.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ebb_carbon_signal {
    EBB_CARBON_SIGNAL_UNKNOWN,
    EBB_CARBON_AVERAGE,  /* emissions of the grid over its energy */
    EBB_CARBON_MARGINAL, /* of the plants that would follow a change of demand */
} ebb_carbon_signal_t;

typedef enum ebb_carbon_scope {
    EBB_CARBON_SCOPE_UNKNOWN,
    EBB_CARBON_DIRECT,    /* burning alone */
    EBB_CARBON_LIFECYCLE, /* with building plants and getting fuel */
} ebb_carbon_scope_t;

EBB_API const char *ebb_carbon_signal_name(ebb_carbon_signal_t signal); /* "average", "marginal", "unknown" */
EBB_API const char *ebb_carbon_scope_name(ebb_carbon_scope_t scope);    /* "direct", "life-cycle", "unknown" */
/* By name, as above or "lifecycle"; unknown for any other, and for NULL. */
EBB_API ebb_carbon_signal_t ebb_carbon_signal_named(const char *name);
EBB_API ebb_carbon_scope_t ebb_carbon_scope_named(const char *name);

/* A value that holds from begin to end (seconds). */
typedef struct ebb_carbon_point {
    int64_t begin, end;
    double g;       /* gCO2e per kWh, above 0 (or 0 where zeros are real) */
    bool forecast;  /* else what came true */
    bool estimated; /* the source itself says that it guessed */
} ebb_carbon_point_t;

typedef struct ebb_carbon_series {
    ebb_carbon_point_t *point; /* owned; by begin, not overlapping; steps may vary */
    int64_t n, capacity;
    char zone[64];    /* as the source names it; empty: it does not say */
    char source[160]; /* file or service */
    ebb_carbon_signal_t signal;
    ebb_carbon_scope_t scope;
    int64_t generated_at; /* when the source made it; 0: it does not say */
    /* what was found wrong and left out */
    int64_t nulls, zeros, bad, repeated;
    int64_t holes, hole_s; /* between the first and the last point */
} ebb_carbon_series_t;

/* How to read what does not say it itself. All may be 0. */
typedef struct ebb_carbon_read_options {
    const char *column; /* of a CSV file: the values. NULL: the only one, or "actual", "ci_direct", ... by name */
    const char *zone;   /* take rows or the column of this zone; EBB_EINVAL if the file has another */
    ebb_carbon_signal_t signal;
    ebb_carbon_scope_t scope;
    bool any;   /* every finite number is a value: prices */
    bool zeros; /* a zero is a value (surplus of wind on a marginal signal), not a lack of one */
} ebb_carbon_read_options_t;

/* Read a file, plain or gzip, whose form is found from its content:
 *   CSV with a heading: a column of times (ISO 8601 with any offset, none meaning UTC; or seconds since 1970) and one
 * of values; "to"/"end" columns, "estimated" and "zone" are understood; rows in any order; a time that comes twice with
 *     different values counts with their mean, which is what polled feeds need.
 *   JSON: the replies of UK NESO (national, regional), Electricity Maps v3 (latest, forecast, history), WattTime v3
 *     (forecast, historical), Carbon Aware SDK (emissions, forecasts), and Ebb's own {"zone", "points": [...]}.
 * Values in lb/MWh, kg/MWh or t/MWh are turned into g/kWh where the file says so. A point without an end lasts until
 * the next one, but no longer than the usual step of the series or an hour, whichever is longer. EBB_EDATA with place
 * and reason if not a single value is left; EBB_ENOINPUT if there is no file. */
EBB_API ebb_status_t ebb_carbon_read(const char *path, const ebb_carbon_read_options_t *options,
                                     ebb_carbon_series_t *series);
/* The same from memory; origin begins the errors. */
EBB_API ebb_status_t ebb_carbon_parse(const char *text, size_t bytes, const char *origin,
                                      const ebb_carbon_read_options_t *options, ebb_carbon_series_t *series);
EBB_API void ebb_carbon_series_free(ebb_carbon_series_t *series);

/* Add a point (begin < end); then sort, join what overlaps, count holes. For series made by hand. */
EBB_API ebb_status_t ebb_carbon_add(ebb_carbon_series_t *series, const ebb_carbon_point_t *point);
EBB_API ebb_status_t ebb_carbon_settle(ebb_carbon_series_t *series);

/* Index of the point that holds at a time, or -1. O(log n). */
EBB_API int64_t ebb_carbon_find(const ebb_carbon_series_t *series, int64_t time);
/* Mean over each of n steps from `begin`, weighted by time; NAN where less than half of the step has a value.
 * known_p, if not NULL: how many steps have one. */
EBB_API void ebb_carbon_sample(const ebb_carbon_series_t *series, int64_t begin, int64_t step_s, int64_t n, double *g,
                               int64_t *known_p);

/* "2026-11-22T17:03Z", "2026-11-22 17:03:05.25+01:00", "1795367000" -> seconds. EBB_EDATA if it is no time. */
EBB_API ebb_status_t ebb_carbon_parse_time(const char *text, int64_t *time_p);

/* ---- typical days ---- */

/* A zone for which Ebb knows the mean of each hour of the day in each month. */
typedef struct ebb_carbon_zone {
    const char *name;  /* "DE", "US-CAL-CISO": Electricity Maps' names */
    const char *place; /* "Germany" */
    ebb_carbon_signal_t signal;
    ebb_carbon_scope_t scope;
    int year;
    const char *source;
    const uint16_t (*tenths)[24]; /* [month 0..11][hour of UTC]: tenths of a gram */
} ebb_carbon_zone_t;

/* All of them, ended by one whose name is NULL; a zone may come twice, as life-cycle and as direct emissions. */
EBB_API const ebb_carbon_zone_t *ebb_carbon_zones(void);
/* Scope unknown: the first of the name. Also knows other sources' names for a zone ("CAISO_NORTH", "GB-BS7"). NULL:
 * none. */
EBB_API const ebb_carbon_zone_t *ebb_carbon_zone(const char *name, ebb_carbon_scope_t scope);
/* Typical intensity at a time. */
EBB_API double ebb_carbon_typical(const ebb_carbon_zone_t *zone, int64_t time);

/* ---- the ladder ---- */

/* Where a value comes from, best first. */
typedef enum ebb_carbon_rung {
    EBB_CARBON_LIVE,      /* the source, now */
    EBB_CARBON_CACHED,    /* what it said earlier */
    EBB_CARBON_YESTERDAY, /* the same hour of the last day that is known (of seven) */
    EBB_CARBON_TYPICAL,   /* the zone's typical day */
    EBB_CARBON_NOTHING,   /* not known: start now, and never count it as clean */
} ebb_carbon_rung_t;
#define EBB_CARBON_RUNGS 5

EBB_API const char *ebb_carbon_rung_name(ebb_carbon_rung_t rung);

/* A forecast that can be planned on: every step has a value, and a rung that says what it is worth. */
typedef struct ebb_carbon_forecast {
    int64_t begin, step_s, n;
    double *g; /* n, owned; steps of rung NOTHING have the highest value of the others, or 0 if there are none */
    uint8_t *rung;
    int64_t count[EBB_CARBON_RUNGS]; /* steps by rung */
    char zone[64], source[160];
    ebb_carbon_signal_t signal;
    ebb_carbon_scope_t scope;
    double scale;      /* of the typical day, to the level of what is known; 1: none */
    char trouble[256]; /* why the live source was left; empty: it was not */
} ebb_carbon_forecast_t;

/* What the ladder stands on. Any may be NULL. */
typedef struct ebb_carbon_ladder {
    const ebb_carbon_series_t *live, *cached, *history;
    const ebb_carbon_zone_t *typical;
    const char *trouble; /* why there is no live series */
} ebb_carbon_ladder_t;

/* n steps from begin. A live series that does not reach `begin` (stale, or of a clock that is off), and one whose
 * values are all the same (stuck; a day and more), is not used, and `trouble` says so. Each step down is logged once.
 */
EBB_API ebb_status_t ebb_carbon_climb_down(const ebb_carbon_ladder_t *ladder, int64_t begin, int64_t step_s, int64_t n,
                                           ebb_carbon_forecast_t *forecast);
EBB_API void ebb_carbon_forecast_free(ebb_carbon_forecast_t *forecast);

/* ---- sources ---- */

typedef enum ebb_carbon_source {
    EBB_CARBON_FILE,            /* `file` */
    EBB_CARBON_NESO,            /* zones GB, GB-<first half of a postcode>, GB-<number of a region> */
    EBB_CARBON_ELECTRICITYMAPS, /* v3; a token; the forecast, or where the token has no right to it the last day */
    EBB_CARBON_WATTTIME,        /* v3; NAME:PASSWORD, or a token; marginal */
    EBB_CARBON_CASDK,           /* Carbon Aware SDK; `url` of the web API */
    EBB_CARBON_TYPICAL_DAY,
} ebb_carbon_source_t;

/* "file", "neso", "electricitymaps", "watttime", "casdk", "typical"; NULL-terminated. */
EBB_API const char *const *ebb_carbon_source_names(void);
/* By name; NULL: a file if one is given, else the typical day. EBB_EUSAGE names the nearest there is; *kind_p then is
 * what no name would give. */
EBB_API ebb_status_t ebb_carbon_source_kind(const char *name, const char *file, ebb_carbon_source_t *kind_p);
/* Where answers are kept: `own` (EBB_CARBON_CACHE) if given, else ebb/carbon below `cache` (XDG_CACHE_HOME), else below
 * .cache of `home`. Empty counts as not given. EBB_EUSAGE: does not fit. */
EBB_API ebb_status_t ebb_carbon_cache_folder(const char *own, const char *cache, const char *home, char *path,
                                             size_t size);

/* What to ask, and how long. Texts are borrowed; 0 and NULL stand for the defaults. */
typedef struct ebb_carbon_source_options {
    ebb_carbon_source_t kind;
    const char *zone;
    const char *file;
    const char *url;       /* of the service, without path; NULL: its own */
    const char *token;     /* never logged, never cached; sent to https:// and to this machine only */
    const char *cache_dir; /* NULL: no cache */
    ebb_carbon_read_options_t read;
    double timeout_s; /* of one request (5) */
    double budget_s;  /* of all tries and waits together (15) */
    int tries; /* (3); again after no answer, 408, 429 and 5xx, after 0.25 s doubled, times 0.5 to 1.5 at random */
    double max_age_s; /* an answer as young as this is taken from the cache without asking (300) */
} ebb_carbon_source_options_t;

/* Ask a source for what it knows around `now`. EBB_EUNAVAILABLE, EBB_EDATA: no usable answer within the budget, and
 * why; the place in the error is the service's address without query and token. Writes the cache. */
EBB_API ebb_status_t ebb_carbon_ask(const ebb_carbon_source_options_t *options, int64_t now,
                                    ebb_carbon_series_t *series);

/* The ladder from the source down: asks (or takes a young answer from the cache), then fills n steps from `begin`.
 * Fails only for arguments that are wrong and for memory; every trouble of the source ends in a lower rung. */
EBB_API ebb_status_t ebb_carbon_look(const ebb_carbon_source_options_t *options, int64_t now, int64_t begin,
                                     int64_t step_s, int64_t n, ebb_carbon_forecast_t *forecast);

/* A token from the environment variable NAME, or from the file named by NAME_FILE, which nobody else may read
 * (0600); without either *token_p is NULL. The caller frees with ebb_carbon_token_free, which wipes it. */
EBB_API ebb_status_t ebb_carbon_token(const char *name, char **token_p);
EBB_API void ebb_carbon_token_free(char *token);

#ifdef __cplusplus
}
#endif
#endif
