/* A folder in shared memory for what a launcher and its ranks leave there: removed as a whole when they are gone. */
#ifndef EBB_SUPERVISE_PLACE_H
#define EBB_SUPERVISE_PLACE_H

#include <ebb/base.h>

typedef struct ebb_place {
    char path[64];
    int lock_fd; /* held while a process that inherited it lives */
} ebb_place_t;

/* Also removes those of supervisors that were killed together with all their helpers. */
ebb_status_t ebb_place_make(ebb_place_t *place);
void ebb_place_remove(ebb_place_t *place);
/* Tell Open MPI's launcher to keep session files and shared memory there. Changes the environment. */
ebb_status_t ebb_place_use(const ebb_place_t *place);

#endif
