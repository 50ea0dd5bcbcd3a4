/* How this rank is: its pulse, and whether it is busy where the pulse does not advance. */
#ifndef EBB_WATCH_SELF_H
#define EBB_WATCH_SELF_H

#include "watch/judge.h"

typedef struct ebb_watch_self {
    uint64_t ticks;
    int64_t cpu_ns, switches, looked_ns, busy_ns, progress_ns;
    int64_t longest_ns;  /* the longest standstill in a step */
    int64_t spin_cpu_ns; /* cpu_ns when the standstill began, or a thread was last seen to wait for a disk */
    bool steady;         /* at the last look: within a step */
} ebb_watch_self_t;

void ebb_watch_self_begin(ebb_watch_self_t *self, int64_t now_ns);
/* The process did not run for so long (it was stopped, or its machine): nothing is to be held against it. */
void ebb_watch_self_excuse(ebb_watch_self_t *self, int64_t ns);
void ebb_watch_self_look(ebb_watch_self_t *self, int rank, int64_t now_ns, int64_t limit_ns, ebb_watch_message_t *beat);

#endif
