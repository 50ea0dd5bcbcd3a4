/* How `ebb scale` and the supervisor of a run talk: files in the run's folder, so that it works from every machine that
 * sees the folder, and whoever may write there may ask. One request at a time. */
#ifndef EBB_SUPERVISE_CHANNEL_H
#define EBB_SUPERVISE_CHANNEL_H

#include <ebb/base.h>

#define EBB_SUPERVISE_LOCK "supervisor.lock"

typedef struct ebb_scale_request {
    char id[40]; /* "": none */
    int ranks;
} ebb_scale_request_t;

/* Remove what an earlier supervisor or asker left. */
void ebb_channel_clear(const char *folder);
/* Take a request away, if there is one; false for none, and for what is not a request. */
bool ebb_channel_take(const char *folder, ebb_scale_request_t *request);
/* Tell the asker how things stand; final: and that this is the end of it. */
void ebb_channel_answer(const char *folder, const ebb_scale_request_t *request, bool final, bool good,
                        const char *text);

#endif
