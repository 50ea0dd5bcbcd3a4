/* Status names, and the calling thread's first error. */
#include <ebb/base.h>
#include "base/status.h"

#include <stdio.h>
#include <string.h>

static _Thread_local ebb_error_t current;
static int process_rank = -1;

void ebb_error_set_rank(int rank)
{
    process_rank = rank;
}

int ebb_process_rank(void)
{
    return process_rank;
}

const char *ebb_status_name(ebb_status_t status)
{
    switch (status) {
    case EBB_OK: return "ok";
    case EBB_END: return "end";
    case EBB_EUSAGE: return "usage";
    case EBB_EINVAL: return "invalid argument";
    case EBB_EDATA: return "bad data";
    case EBB_ECORRUPT: return "damaged data";
    case EBB_ENOINPUT: return "missing input";
    case EBB_ENONFINITE: return "not finite";
    case EBB_EIO: return "input/output error";
    case EBB_ENOSPC: return "no space left";
    case EBB_ENOMEM: return "out of memory";
    case EBB_EUNAVAILABLE: return "unavailable";
    case EBB_EPEER: return "peer failed";
    case EBB_ESTOPPED: return "stopped";
    case EBB_EBUG: return "internal error";
    }
    return "unknown";
}

int ebb_status_exit_code(ebb_status_t status)
{
    switch (status) {
    case EBB_OK:
    case EBB_END: return 0;
    case EBB_EUSAGE:
    case EBB_EINVAL: return 64; /* EX_USAGE */
    case EBB_EDATA:
    case EBB_ENONFINITE:
    case EBB_ECORRUPT: return 65; /* EX_DATAERR */
    case EBB_ENOINPUT: return 66;
    case EBB_EPEER:
    case EBB_EUNAVAILABLE: return 69;
    case EBB_EBUG: return 70;   /* EX_SOFTWARE */
    case EBB_ENOMEM: return 71; /* EX_OSERR */
    case EBB_ENOSPC:
    case EBB_EIO: return 74;
    case EBB_ESTOPPED: return 75; /* EX_TEMPFAIL: resume me */
    }
    return 70;
}

const ebb_error_t *ebb_error(void)
{
    return &current;
}

void ebb_error_clear(void)
{
    memset(&current, 0, sizeof current);
}

ebb_status_t ebb_error_set(const ebb_error_t *err)
{
    if (err != &current)
        current = *err;
    return current.status;
}

ebb_status_t ebb_error_record(ebb_status_t status, const char *file, int line, const char *fmt, ...)
{
    if (current.status != EBB_OK)
        return current.status;
    current.status = status;
    current.file = file;
    current.line = line;
    current.rank = process_rank;
    va_list args;
    va_start(args, fmt);
    vsnprintf(current.message, sizeof current.message, fmt, args);
    va_end(args);
    return status;
}

ebb_status_t ebb_error_prefix(const char *fmt, ...)
{
    char text[sizeof current.message];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof text)
        return current.status;
    snprintf(text + n, sizeof text - (size_t)n, "%s", current.message);
    memcpy(current.message, text, sizeof text);
    return current.status;
}

const char *ebb_version(void)
{
    return EBB_VERSION;
}
