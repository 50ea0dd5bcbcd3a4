/* What `ebb carbon` and `ebb plan` share: the options of a source of intensities, and the look through it. */
#ifndef EBB_APPS_CARBON_SOURCE_H
#define EBB_APPS_CARBON_SOURCE_H

#include "commands.h"
#include "base/json.h"
#include "carbon/settings.h"

#include <ebb/carbon.h>

/* Begins the options of a command. */
typedef struct source_options {
    bool json, no_cache, zeros;
    int scope, signal; /* of the choices below; 0: as the source says */
    char *source, *zone, *file, *column, *url, *at;
    double timeout;
} source_options_t;

extern const char *const ebb_scope_choices[], *const ebb_signal_choices[];

/* Which source, for a structure whose member `source` has the fields. */
#define SOURCE_NAME_OPTIONS(holder)                                                                                    \
    {.name = "source",                                                                                                 \
     .letter = 's',                                                                                                    \
     .type = EBB_OPT_STRING,                                                                                           \
     .offset = offsetof(holder, source.source),                                                                        \
     .unit = "name",                                                                                                   \
     .help = "where intensities come from: file, neso, electricitymaps, watttime, casdk or typical; without it "       \
             "$EBB_CARBON_SOURCE, else file if there is one, else typical"},                                           \
        {.name = "zone",                                                                                               \
         .letter = 'z',                                                                                                \
         .type = EBB_OPT_STRING,                                                                                       \
         .offset = offsetof(holder, source.zone),                                                                      \
         .unit = "zone",                                                                                               \
         .help = "zone of the grid, as the source names it; without it $EBB_CARBON_ZONE"},                             \
        {.name = "file",                                                                                               \
         .letter = 'f',                                                                                                \
         .type = EBB_OPT_STRING,                                                                                       \
         .offset = offsetof(holder, source.file),                                                                      \
         .unit = "file",                                                                                               \
         .help = "CSV or JSON of intensities, plain or .gz; without it $EBB_CARBON_FILE"},                             \
    {                                                                                                                  \
        .name = "url", .type = EBB_OPT_STRING, .offset = offsetof(holder, source.url), .unit = "url",                  \
        .help = "address of the service, without path; without it $EBB_CARBON_URL, else the service's own"             \
    }

#define SOURCE_OPTIONS(holder)                                                                                         \
    SOURCE_NAME_OPTIONS(holder),                                                                                       \
        {.name = "column",                                                                                             \
         .type = EBB_OPT_STRING,                                                                                       \
         .offset = offsetof(holder, source.column),                                                                    \
         .unit = "name",                                                                                               \
         .help = "column of a CSV file that has several; without it $EBB_CARBON_COLUMN"},                              \
        {.name = "scope",                                                                                              \
         .type = EBB_OPT_CHOICE,                                                                                       \
         .offset = offsetof(holder, source.scope),                                                                     \
         .def = "any",                                                                                                 \
         .choices = ebb_scope_choices,                                                                                 \
         .help = "emissions to count, where the source has both; what a file counts that does not say; without it "    \
                 "$EBB_CARBON_SCOPE"},                                                                                 \
        {.name = "signal",                                                                                             \
         .type = EBB_OPT_CHOICE,                                                                                       \
         .offset = offsetof(holder, source.signal),                                                                    \
         .def = "any",                                                                                                 \
         .choices = ebb_signal_choices,                                                                                \
         .help = "what the intensities of a file are that does not say; without it $EBB_CARBON_SIGNAL"},               \
        {.name = "zeros",                                                                                              \
         .type = EBB_OPT_FLAG,                                                                                         \
         .offset = offsetof(holder, source.zeros),                                                                     \
         .help = "a zero is an intensity, not a lack of data"},                                                        \
        {.name = "timeout",                                                                                            \
         .type = EBB_OPT_F64,                                                                                          \
         .offset = offsetof(holder, source.timeout),                                                                   \
         .def = "15",                                                                                                  \
         .unit = "seconds",                                                                                            \
         .min = 0.1,                                                                                                   \
         .max = 600,                                                                                                   \
         .help = "for all tries to reach the service together"},                                                       \
        {.name = "no-cache",                                                                                           \
         .type = EBB_OPT_FLAG,                                                                                         \
         .offset = offsetof(holder, source.no_cache),                                                                  \
         .help = "neither use nor keep answers in $EBB_CARBON_CACHE (~/.cache/ebb/carbon)"},                           \
        {.name = "at",                                                                                                 \
         .type = EBB_OPT_STRING,                                                                                       \
         .offset = offsetof(holder, source.at),                                                                        \
         .unit = "time",                                                                                               \
         .help = "as if it were that time, in UTC unless it says otherwise; without it now, or the beginning of a "    \
                 "file that "                                                                                          \
                 "does not reach to now"},                                                                             \
    {                                                                                                                  \
        .name = "json", .type = EBB_OPT_FLAG, .offset = offsetof(holder, source.json), .help = "print JSON"            \
    }

/* What books go by, which nothing fails: false where no source is named, or none that can be used, which is told. Free
 * the settings in any case. */
bool ebb_source_for_books(const source_options_t *options, ebb_carbon_settings_t *settings);
/* Steps from the time asked for; *begin_p. */
ebb_status_t ebb_source_look(const source_options_t *options, int64_t step_s, int64_t n, int64_t *begin_p,
                             ebb_carbon_forecast_t *forecast);
/* "live source neso GB, average, direct" and what lower rungs gave, one line each. */
void ebb_source_describe(const ebb_carbon_forecast_t *forecast, ebb_text_t *out);
/* zone, source, signal, scope, begin, step_s, rungs. */
json_t *ebb_source_json(const ebb_carbon_forecast_t *forecast);
/* "2026-11-22T17:30Z" */
const char *ebb_minute(int64_t time, char text[32]);

#endif
