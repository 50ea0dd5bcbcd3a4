/* Signs of life: process-wide, since what is watched over is the process. */
#include "base/pulse.h"

#include <stdatomic.h>

static atomic_uint_fast64_t ticks;
static atomic_int_fast64_t step_now, done_steady;
static _Atomic(const char *) stage_now = "starting";
static atomic_bool is_waiting, is_leaving, is_steady;

void ebb_pulse_tick(void)
{
    atomic_fetch_add_explicit(&ticks, 1, memory_order_relaxed);
}

void ebb_pulse_stage(const char *stage)
{
    atomic_store_explicit(&stage_now, stage, memory_order_relaxed);
    ebb_pulse_tick();
}

void ebb_pulse_step(int64_t step)
{
    atomic_store_explicit(&step_now, step, memory_order_relaxed);
    ebb_pulse_tick();
}

void ebb_pulse_wait(bool waiting)
{
    atomic_store_explicit(&is_waiting, waiting, memory_order_relaxed);
    ebb_pulse_tick();
}

void ebb_pulse_leave(void)
{
    atomic_store_explicit(&is_leaving, true, memory_order_relaxed);
}

void ebb_pulse_steady(bool steady)
{
    bool was = atomic_exchange_explicit(&is_steady, steady, memory_order_relaxed);
    if (was && !steady)
        atomic_fetch_add_explicit(&done_steady, 1, memory_order_relaxed);
}

ebb_pulse_t ebb_pulse(void)
{
    return (ebb_pulse_t){.ticks = atomic_load_explicit(&ticks, memory_order_relaxed),
                         .step = atomic_load_explicit(&step_now, memory_order_relaxed),
                         .stage = atomic_load_explicit(&stage_now, memory_order_relaxed),
                         .waiting = atomic_load_explicit(&is_waiting, memory_order_relaxed),
                         .steady = atomic_load_explicit(&is_steady, memory_order_relaxed),
                         .done = atomic_load_explicit(&done_steady, memory_order_relaxed),
                         .leaving = atomic_load_explicit(&is_leaving, memory_order_relaxed)};
}
