/* Other programs, run to their end without a shell. */
#ifndef EBB_BASE_CHILD_H
#define EBB_BASE_CHILD_H

#include "base/text.h"

/* Run a program found in PATH and take what it prints. word, environment: ended by NULL; environment NULL: ours. It is
 * killed with its process group after timeout_s. *code_p as a shell says it: 128 + number for a signal, 127 if it
 * cannot be started. out, err: zeroed, to be freed by the caller in any case. EBB_EUNAVAILABLE: the time was up. The
 * calling process must not wait for just any child meanwhile. */
ebb_status_t ebb_child_run(char *const *word, char *const *environment, double timeout_s, ebb_text_t *out,
                           ebb_text_t *err, int *code_p) EBB_MUST_CHECK;

#endif
