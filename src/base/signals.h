/* Times in which a thread takes no signals. */
#ifndef EBB_BASE_SIGNALS_H
#define EBB_BASE_SIGNALS_H

/* Signals to this thread wait until the last hold is released, those to the process go to a thread that takes them, or
 * wait for one. Holds nest; only the outermost costs system calls (two, some 0.3 microseconds). Threads of an ebb_pool
 * but the caller hold signals back all their lives. */
void ebb_signals_hold(void);
void ebb_signals_release(void);

#endif
