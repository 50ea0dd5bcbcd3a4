#include "base/proc.h"
#include "base/alloc.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ENVIRONMENT = 1 << 20 };

size_t ebb_proc_read(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t n = 0;
    ssize_t got = 1;
    while (fd >= 0 && got > 0 && n < size - 1) {
        got = read(fd, text + n, size - 1 - n);
        n += got > 0 ? (size_t)got : 0;
    }
    if (fd >= 0)
        close(fd);
    text[n] = 0;
    return n;
}

/* Field 2, a name in parentheses, may hold anything; field 3 is the state, and all that follow are numbers. No more is
 * called than may be after a fork of one thread of several. */
bool ebb_proc_stat(pid_t pid, ebb_proc_stat_t *s)
{
    enum { FIRST = 4, PARENT = 4, FAULTS = 12, USER = 14, SYSTEM, CHILD_USER, CHILD_SYSTEM, STARTED = 22, FIELDS };
    char path[64], text[1024], *at;
    int64_t field[FIELDS];
    snprintf(path, sizeof path, "/proc/%ld/stat", (long)pid);
    (void)ebb_proc_read(path, text, sizeof text);
    const char *name = strchr(text, '(');
    char *end = strrchr(text, ')');
    if (!name || !end || strlen(end) < 5)
        return false;
    at = end + 4;
    for (int i = FIRST; i < FIELDS; i++)
        field[i] = strtoll(at, &at, 10);
    snprintf(s->name, sizeof s->name, "%.*s", (int)(end - name - 1), name + 1);
    s->state = end[2];
    s->parent = (pid_t)field[PARENT];
    s->faults = field[FAULTS];
    s->ticks = field[USER] + field[SYSTEM];
    s->child_ticks = field[CHILD_USER] + field[CHILD_SYSTEM];
    s->started = (uint64_t)field[STARTED];
    return s->started != 0;
}

int64_t ebb_proc_number(const char *text, const char *word)
{
    const char *at = strstr(text, word);
    return at ? strtoll(at + strlen(word), NULL, 10) : 0;
}

void ebb_proc_switches(pid_t pid, int64_t *sleeps_p, int64_t *switches_p)
{
    char path[64], text[4096];
    snprintf(path, sizeof path, "/proc/%ld/status", (long)pid);
    (void)ebb_proc_read(path, text, sizeof text);
    *sleeps_p = ebb_proc_number(text, "\nvoluntary_ctxt_switches:");
    *switches_p = *sleeps_p + ebb_proc_number(text, "\nnonvoluntary_ctxt_switches:");
}

char *ebb_proc_environment(pid_t pid, size_t *bytes_p)
{
    char path[64], *text;
    *bytes_p = 0;
    if (ebb_alloc("environment", ENVIRONMENT, (void **)&text) != EBB_OK) {
        ebb_error_clear();
        return NULL;
    }
    snprintf(path, sizeof path, "/proc/%ld/environ", (long)pid);
    *bytes_p = ebb_proc_read(path, text, ENVIRONMENT);
    if (*bytes_p > 0)
        return text;
    ebb_free(text);
    return NULL;
}

const char *ebb_proc_variable(const char *environment, size_t bytes, const char *name)
{
    size_t length = strlen(name);
    for (const char *at = environment; at < environment + bytes; at += strlen(at) + 1)
        if (strncmp(at, name, length) == 0 && at[length] == '=')
            return at + length + 1;
    return NULL;
}
