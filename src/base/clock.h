/* Time.
 *
 * Energy, carbon, plans, jobs and records take their wall time from ebb_wall_seconds(), which can be made to run fast:
 * with EBB_CLOCK=BEGIN:ORIGIN:RATE in the environment it is BEGIN at the moment when the system's clock is ORIGIN (both
 * seconds since 1970), and advances RATE seconds in each real one. All processes that inherit the variable agree. For
 * tests and rehearsals: a day's plan passes in seconds. Time-outs, throughput and progress are real time always.
 */
#ifndef EBB_BASE_CLOCK_H
#define EBB_BASE_CLOCK_H

#include <stddef.h>
#include <stdint.h>

int64_t ebb_now_ns(void);        /* monotonic, real */
double ebb_system_seconds(void); /* since 1970, UTC, real: to compare with times of files */
double ebb_wall_seconds(void);   /* since 1970, UTC; of EBB_CLOCK where it is set */
double ebb_clock_rate(void);     /* seconds of ebb_wall_seconds in a real one; 1 without EBB_CLOCK */
/* "2026-11-22T17:03:05Z" */
void ebb_format_utc(double wall_seconds, char *text, size_t size);

#endif
