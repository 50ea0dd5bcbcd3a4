/* What Linux tells of processes in /proc. Nothing here is an error: processes come and go. */
#ifndef EBB_BASE_PROC_H
#define EBB_BASE_PROC_H

#include <ebb/base.h>

#include <sys/types.h>

typedef struct ebb_proc_stat {
    char name[32], state; /* state: R, S, D, T, Z ... */
    pid_t parent;
    int64_t faults; /* that waited for a disk */
    int64_t ticks,
        child_ticks;  /* processor time, its own and that of children it has waited for; _SC_CLK_TCK a second */
    uint64_t started; /* ticks after the machine's start: with the pid the name of a process */
} ebb_proc_stat_t;

/* A file, as far as text has room, and a zero: the bytes without it; 0 where it cannot be read. */
size_t ebb_proc_read(const char *path, char *text, size_t size);
/* False: there is no such process. */
bool ebb_proc_stat(pid_t pid, ebb_proc_stat_t *stat);
/* How often a process's main thread gave its processor up to wait for something, and how often it was switched at all:
 * that, and when others had their turn. Both 0 where there is no such process. */
void ebb_proc_switches(pid_t pid, int64_t *sleeps_p, int64_t *switches_p);
/* The number that follows a word; 0 without it. */
int64_t ebb_proc_number(const char *text, const char *word);
/* The environment that a process began with: words NAME=VALUE, each with its zero; free with ebb_free. NULL when it
 * cannot be read. */
char *ebb_proc_environment(pid_t pid, size_t *bytes_p);
/* The value of a variable in it, or NULL. */
const char *ebb_proc_variable(const char *environment, size_t bytes, const char *name);

#endif
