/* A place in memory for what a launcher and its ranks leave behind: it vanishes as a whole when they are gone. */
#ifndef EBB_SUPERVISE_PLACE_H
#define EBB_SUPERVISE_PLACE_H

#include <ebb/base.h>

typedef struct ebb_place {
    char path[64];
    int mount_fd; /* a file system without a name, which the kernel frees with its last holder; -1: */
    int lock_fd;  /* a folder, locked while a process that inherited this lives */
} ebb_place_t;

/* A file system of its own; where the kernel gives none, a folder in shared memory. The path holds as long as this
 * process lives. */
ebb_status_t ebb_place_make(ebb_place_t *place);
/* A folder at any rate. Also removes those of supervisors that were killed together with all their helpers. */
ebb_status_t ebb_place_make_folder(ebb_place_t *place);
void ebb_place_remove(ebb_place_t *place);
/* Tell Open MPI's launcher to keep session files and shared memory there. Changes the environment. */
ebb_status_t ebb_place_use(const ebb_place_t *place);

#endif
