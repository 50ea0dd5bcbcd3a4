/* Charts of columns for a terminal. */
#ifndef EBB_APPS_CHART_H
#define EBB_APPS_CHART_H

#include "base/text.h"

/* A value for each of n steps of step_s seconds from `begin` (seconds since 1970), at most `width` columns wide, with a
 * scale and hours of UTC. mark: NULL, or n characters, of which each column shows the greatest below itself (' ' is the
 * least). */
void ebb_chart(ebb_text_t *out, const double *value, const char *mark, int64_t n, int64_t begin, int64_t step_s,
               int width);

/* Can stdout show more than ASCII? By the locale's variables. */
bool ebb_stdout_is_utf8(void);

#endif
