/* Time. */
#include "base/clock.h"

#include <stdio.h>
#include <time.h>

int64_t ebb_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

double ebb_wall_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

void ebb_format_utc(double wall_seconds, char *text, size_t size)
{
    time_t seconds = (time_t)wall_seconds;
    struct tm tm;
    gmtime_r(&seconds, &tm);
    if (strftime(text, size, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0 && size > 0)
        text[0] = 0;
}
