/* The processes below this one. Linux: read from /proc. */
#ifndef EBB_SUPERVISE_TREE_H
#define EBB_SUPERVISE_TREE_H

#include <ebb/base.h>
#include <sys/types.h>

typedef struct ebb_process {
    pid_t pid, parent;
    char state; /* as in /proc/PID/stat */
} ebb_process_t;

typedef struct ebb_tree {
    ebb_process_t *process;
    int64_t n, capacity;
} ebb_tree_t;

/* All that descend from this process and run, or are stopped; an empty tree must be zeroed before the first reading. */
ebb_status_t ebb_tree_read(ebb_tree_t *tree);
void ebb_tree_free(ebb_tree_t *tree);
/* Is it a rank of a job, as launchers tell ranks by their environment? */
bool ebb_process_is_rank(pid_t pid);
bool ebb_process_catches(pid_t pid, int number);
/* SIGKILL to all descendants until none is left, collecting them; how many are left after `seconds`. This process must
 * be their subreaper. */
int ebb_tree_kill(double seconds);

#endif
