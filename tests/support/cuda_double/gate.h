/* For doubles of libraries that put work into streams which depends on other processes. Such work is of the thread that
 * put it there: nobody else may wait for the stream. Events come from any copy of the double in the process; work is
 * given to their streams and they are recorded anew by no other thread while a stream that awaits them is waited for.
 */
#ifndef EBB_TESTS_GATE_H
#define EBB_TESTS_GATE_H

#include <cuda_runtime.h>
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif
/* The stream stops where pass says false, and asks it again when it is next waited for. */
void ebb_double_gate(cudaStream_t stream, bool (*pass)(void *state), void *state);
/* Whether there is an event in the stream that has not been reached yet. */
bool ebb_double_awaits(cudaStream_t stream);
#ifdef __cplusplus
}
#endif
#endif
