/* What the parts of the stage share. */
#ifndef EBB_CARBON_INTERNAL_H
#define EBB_CARBON_INTERNAL_H

#include <ebb/carbon.h>
#include "base/text.h"

#define LATEST_S  253402300800 /* the year 10000 */
#define HIGHEST_G 5000.0       /* no grid is near it; oil shale alone is 1600 */

/* Add what a source says of a time. Values that are none (NAN), zero or impossible are counted and keep their place as
 * NAN until the series is settled. `end` 0: not known. */
ebb_status_t ebb_carbon_take(ebb_carbon_series_t *series, const ebb_carbon_read_options_t *options, int64_t begin,
                             int64_t end, double g, bool forecast, bool estimated);
ebb_status_t ebb_carbon_parse_csv(char *text, size_t bytes, const char *origin,
                                  const ebb_carbon_read_options_t *options, ebb_carbon_series_t *series);
ebb_status_t ebb_carbon_parse_json(const char *text, size_t bytes, const char *origin,
                                   const ebb_carbon_read_options_t *options, ebb_carbon_series_t *series);

/* One GET with tries, waits and limits. */
typedef struct ebb_carbon_request {
    const char *url;              /* with query */
    const char *place;            /* for messages: without query */
    const char *header;           /* "auth-token: ..." or NULL; secret */
    const char *userpass;         /* "name:password" or NULL; secret */
    double timeout_s, deadline_s; /* of a try; of all, on the clock of ebb_now_ns */
    int tries;
} ebb_carbon_request_t;

/* *code_p: the last HTTP status, 0 without an answer. EBB_OK for 2xx only; else EBB_EUNAVAILABLE with what the service
 * says. text: the body, freed by the caller either way. */
ebb_status_t ebb_carbon_http_get(const ebb_carbon_request_t *request, ebb_text_t *text, long *code_p);

/* The cache of a source: points of the last eight days and of the future. */
ebb_status_t ebb_carbon_cache_read(const ebb_carbon_source_options_t *options, ebb_carbon_series_t *series,
                                   double *age_s_p);
ebb_status_t ebb_carbon_cache_merge(const ebb_carbon_source_options_t *options, int64_t now,
                                    const ebb_carbon_series_t *fresh);

#endif
