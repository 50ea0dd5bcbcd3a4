/* A progress line: redrawn in place on a terminal, a plain line every few seconds otherwise. */
#ifndef EBB_BASE_PROGRESS_H
#define EBB_BASE_PROGRESS_H

#include <ebb/base.h>

typedef struct ebb_progress ebb_progress_t;

/* what: "packing"; unit: "bytes" (formatted) or "rows" ...; total 0: unknown. enabled false: prints nothing. */
ebb_status_t ebb_progress_create(const char *what, const char *unit, int64_t total, bool enabled, ebb_progress_t **p_p);
/* done so far; thread-safe; prints at most 10 times a second (terminal) or every 5 s. */
void ebb_progress_update(ebb_progress_t *p, int64_t done);
/* Last line with the mean rate, then a newline. */
void ebb_progress_finish(ebb_progress_t *p);
void ebb_progress_destroy(ebb_progress_t *p);

/* One self-made line in the same manner, for callers with more than a bar (the training line): redraw on a terminal,
 * print plainly otherwise if `seconds` have passed since the last. final: always, with newline. */
void ebb_progress_line(double seconds, bool final, const char *text);
/* Clear a line that stands half-drawn on the terminal, because another message follows. For the log and for errors. */
void ebb_progress_interrupt(void);
bool ebb_is_terminal(int fd);        /* one that can do more than print: TERM=dumb says that it cannot */
bool ebb_progress_is_terminal(void); /* is stderr one? */

#endif
