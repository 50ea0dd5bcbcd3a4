/* What benchmarks share: repeated timing with median and spread, the machine's line. */
#ifndef EBB_TESTS_BENCH_H
#define EBB_TESTS_BENCH_H

#include <ebb/compute.h>
#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BENCH_REPEATS = 15 };

typedef struct timing {
    double median, low, high; /* seconds per call; low and high: quartiles */
} timing_t;

/* Wall time; with EBB_BENCH_CLOCK=cpu the thread's own time, for a machine that is busy with other things. */
static inline int64_t bench_now_ns(void)
{
    const char *clock = getenv("EBB_BENCH_CLOCK");
    struct timespec t;
    if (!clock || strcmp(clock, "cpu") != 0)
        return ebb_now_ns();
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Time of one call of run(user): calls are bundled to at least 2 ms, after a warm-up. */
static inline timing_t bench_time(void (*run)(void *), void *user)
{
    double t[BENCH_REPEATS];
    run(user);
    int64_t start = bench_now_ns(), calls = 0;
    while (bench_now_ns() - start < 2000000) {
        run(user);
        calls++;
    }
    for (int i = 0; i < BENCH_REPEATS; i++) {
        start = bench_now_ns();
        for (int64_t c = 0; c < calls; c++)
            run(user);
        t[i] = 1e-9 * (double)(bench_now_ns() - start) / (double)calls;
    }
    qsort(t, BENCH_REPEATS, sizeof *t, compare_doubles);
    return (timing_t){t[BENCH_REPEATS / 2], t[BENCH_REPEATS / 4], t[3 * BENCH_REPEATS / 4]};
}

/* End the benchmark when a call fails: a number from a failed call would be a lie. */
static inline void bench_ok(ebb_status_t status)
{
    if (status == EBB_OK)
        return;
    fprintf(stderr, "%s: %s\n", ebb_status_name(status), ebb_error()->message);
    exit(1);
}

static inline ebb_backend_t *bench_backend(void)
{
    ebb_backend_t *b;
    char text[256];
    bench_ok(ebb_backend_open("cpu", 0, &b));
    bench_ok(b->ops->describe(b->dev, text, sizeof text));
    printf("%s; median of %d, spread = quartile distance / median\n", text, BENCH_REPEATS);
    return b;
}

static inline double bench_spread(timing_t t)
{
    return 100 * (t.high - t.low) / t.median;
}

static inline float *bench_floats(int64_t n)
{
    float *p = aligned_alloc(64, (size_t)(n + 16) / 16 * 64);
    for (int64_t i = 0; i < n; i++)
        p[i] = (float)(i * 2654435761u % 1000) * 0.002f - 1;
    return p;
}

#endif
