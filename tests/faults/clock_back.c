/* Preloaded: a wall clock that goes back by a minute each time it is asked. */
#include <sys/time.h>
#include <time.h>
#include <sys/syscall.h>
#include <unistd.h>

static _Atomic long asked;

int clock_gettime(clockid_t clock, struct timespec *t)
{
    long outcome = syscall(SYS_clock_gettime, clock, t);
    if (outcome == 0 && clock == CLOCK_REALTIME)
        t->tv_sec -= 60 * ++asked;
    return (int)outcome;
}

time_t time(time_t *p)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    if (p)
        *p = t.tv_sec;
    return t.tv_sec;
}

int gettimeofday(struct timeval *restrict tv, void *restrict zone)
{
    struct timespec t;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &t);
    *tv = (struct timeval){t.tv_sec, t.tv_nsec / 1000};
    return 0;
}
