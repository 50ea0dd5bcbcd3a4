/* Signs of life of this process, for whoever watches over it: what it does, how far it is, and that it goes on.
 *
 * All of it is a handful of relaxed atomics, so that working threads may call it for every lane or chunk, and signal
 * handlers too. */
#ifndef EBB_BASE_PULSE_H
#define EBB_BASE_PULSE_H

#include <stdbool.h>
#include <stdint.h>

typedef struct ebb_pulse {
    uint64_t ticks;
    int64_t step;
    const char *stage;
    bool waiting; /* for other ranks */
    bool leaving; /* was told to end */
    bool steady;  /* does what it does over and over, so that what came before tells how long it may take */
    int64_t done; /* how often it has done so */
} ebb_pulse_t;

/* Some work was done: to be called at least every few seconds from whatever may take longer. */
void ebb_pulse_tick(void);
/* What the process does from now on, as in "exchanging gradients"; a literal. */
void ebb_pulse_stage(const char *stage);
void ebb_pulse_step(int64_t step);
/* Around calls that last as long as other ranks please. */
void ebb_pulse_wait(bool waiting);
void ebb_pulse_leave(void);
/* Around what is done over and over, as the steps of training. */
void ebb_pulse_steady(bool steady);
ebb_pulse_t ebb_pulse(void);

#endif
