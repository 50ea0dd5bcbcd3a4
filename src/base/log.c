/* The log: one write per line to stderr. */
#include <ebb/base.h>
#include "base/progress.h"
#include "base/status.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char *const level_names[] = {"error", "warn", "info", "debug", "trace", "data"};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static ebb_log_level_t level_now = EBB_LOG_INFO;
static bool all_ranks;
static int log_rank, log_ranks = 1;

static void read_environment(void)
{
    const char *text = getenv("EBB_LOG");
    for (int i = 0; text && i <= EBB_LOG_DATA; i++)
        if (strcasecmp(text, level_names[i]) == 0)
            level_now = (ebb_log_level_t)i;
    text = getenv("EBB_LOG_RANKS");
    all_ranks = text && strcmp(text, "all") == 0;
}

void ebb_log_set_level(ebb_log_level_t level)
{
    pthread_once(&once, read_environment);
    level_now = level;
}

void ebb_log_set_rank(int rank, int ranks)
{
    log_rank = rank;
    log_ranks = ranks;
    ebb_error_set_rank(rank);
}

bool ebb_log_enabled(ebb_log_level_t level)
{
    pthread_once(&once, read_environment);
    return level <= level_now && (level <= EBB_LOG_WARN || log_rank == 0 || all_ranks);
}

void ebb_log(ebb_log_level_t level, const char *stage, const char *fmt, ...)
{
    char line[1200];
    int n = log_ranks > 1 ? snprintf(line, sizeof line, "ebb[%d] ", log_rank) : snprintf(line, sizeof line, "ebb ");
    n += snprintf(line + n, sizeof line - (size_t)n, "%s: %s", stage,
                  level == EBB_LOG_ERROR  ? "error: "
                  : level == EBB_LOG_WARN ? "warning: "
                                          : "");
    va_list args;
    va_start(args, fmt);
    vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, args);
    va_end(args);
    strcat(line, "\n");
    ebb_progress_interrupt();
    fputs(line, stderr);
}
