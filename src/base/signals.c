/* Holds on signals: a depth and the mask from before, per thread. */
#include "base/signals.h"

#include <pthread.h>
#include <signal.h>

static _Thread_local int holds;
static _Thread_local sigset_t before;

void ebb_signals_hold(void)
{
    sigset_t all;
    if (holds++ > 0)
        return;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
}

void ebb_signals_release(void)
{
    if (--holds == 0)
        pthread_sigmask(SIG_SETMASK, &before, NULL);
}
