/* What the parts of the stage share. */
#ifndef EBB_CARBON_INTERNAL_H
#define EBB_CARBON_INTERNAL_H

#include <ebb/carbon.h>

#define HIGHEST_G 5000.0 /* no grid is near it; oil shale alone is 1600 */

/* Add what a source says of a time. Values that are none (NAN), zero or impossible are counted and keep their place as
 * NAN until the series is settled. `end` 0: not known. */
ebb_status_t ebb_carbon_take(ebb_carbon_series_t *series, const ebb_carbon_read_options_t *options, int64_t begin,
                             int64_t end, double g, bool forecast, bool estimated);
ebb_status_t ebb_carbon_parse_csv(char *text, size_t bytes, const char *origin,
                                  const ebb_carbon_read_options_t *options, ebb_carbon_series_t *series);
ebb_status_t ebb_carbon_parse_json(const char *text, size_t bytes, const char *origin,
                                   const ebb_carbon_read_options_t *options, ebb_carbon_series_t *series);

#endif
