/* Doing something again and again, until a signal comes. */
#include "commands.h"

#include <signal.h>
#include <time.h>

void ebb_repeat(double every_s, void (*act)(void *user), void *user)
{
    sigset_t set;
    struct timespec wait = {.tv_sec = (time_t)every_s};
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    while (sigtimedwait(&set, NULL, &wait) < 0)
        act(user);
}
