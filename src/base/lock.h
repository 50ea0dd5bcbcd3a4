/* Locks on folders, held by one process and ended with it. */
#ifndef EBB_BASE_LOCK_H
#define EBB_BASE_LOCK_H

#include <ebb/base.h>

/* Lock by the file `file` in the folder, waiting a second at most; EBB_EUSAGE names the holder. The lock ends when *fd_p is closed, in every
 * process that inherited it. */
ebb_status_t ebb_folder_lock(const char *folder, const char *file, int *fd_p) EBB_MUST_CHECK;
/* Whether somebody holds it now. */
bool ebb_folder_locked(const char *folder, const char *file);

#endif
