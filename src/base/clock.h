/* Time. */
#ifndef EBB_BASE_CLOCK_H
#define EBB_BASE_CLOCK_H

#include <stddef.h>
#include <stdint.h>

int64_t ebb_now_ns(void);      /* monotonic */
double ebb_wall_seconds(void); /* since 1970, UTC */
/* "2026-11-22T17:03:05Z" */
void ebb_format_utc(double wall_seconds, char *text, size_t size);

#endif
