/* Time. */
#include "base/clock.h"

#include <ebb/base.h>

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static struct {
    double begin, origin, rate; /* rate 0: the system's clock */
} fast;
static pthread_once_t read_once = PTHREAD_ONCE_INIT;

static void read_environment(void)
{
    const char *text = getenv("EBB_CLOCK");
    double begin, origin, rate;
    char rest;
    if (!text || !*text)
        return;
    if (sscanf(text, "%lf:%lf:%lf%c", &begin, &origin, &rate, &rest) == 3 && isfinite(begin) && isfinite(origin) &&
        isfinite(rate) && rate > 0) {
        fast.begin = begin;
        fast.origin = origin;
        fast.rate = rate;
    } else {
        EBB_WARN("base", "EBB_CLOCK=%s is not BEGIN:ORIGIN:RATE; the system's clock is used", text);
    }
}

int64_t ebb_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

double ebb_system_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

double ebb_wall_seconds(void)
{
    double now = ebb_system_seconds();
    pthread_once(&read_once, read_environment);
    return fast.rate > 0 ? fast.begin + (now - fast.origin) * fast.rate : now;
}

double ebb_clock_rate(void)
{
    pthread_once(&read_once, read_environment);
    return fast.rate > 0 ? fast.rate : 1;
}

void ebb_format_utc(double wall_seconds, char *text, size_t size)
{
    time_t seconds = (time_t)wall_seconds;
    struct tm tm;
    gmtime_r(&seconds, &tm);
    if (strftime(text, size, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0 && size > 0)
        text[0] = 0;
}
