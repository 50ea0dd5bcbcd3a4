/* Status, errors and log: what every other header of Ebb uses.
 *
 * Every function that can fail returns ebb_status_t. On failure the first error of the calling thread is kept with
 * the file and line that found it, a sentence, and for data the place (shard, dataset, chunk, row). Callers forward a
 * failure with EBB_TRY(); whoever handles it reads ebb_error(), then calls ebb_error_clear(). Destroy functions accept
 * NULL and cannot fail. Nothing in the library exits the process.
 */
#ifndef EBB_BASE_H
#define EBB_BASE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EBB_API                __attribute__((visibility("default")))
#define EBB_PRINTF(fmt, first) __attribute__((format(printf, fmt, first)))
#define EBB_MUST_CHECK         __attribute__((warn_unused_result))

/* Outcome of a call, grouped by who can recover. */
typedef enum ebb_status {
    EBB_OK = 0,
    EBB_END = 1, /* the end of an epoch or of a stream; not an error */
    /* the caller: a wrong command line or run file, an argument out of range */
    EBB_EUSAGE = 10,
    EBB_EINVAL = 11,
    /* the data: malformed or damaged; a file that is not there */
    EBB_EDATA = 20,
    EBB_ECORRUPT = 21,
    EBB_ENOINPUT = 22,
    EBB_ENONFINITE = 23, /* training met a loss, gradient, weight or state that is not a finite number */
    /* the machine */
    EBB_EIO = 30,
    EBB_ENOSPC = 31,
    EBB_ENOMEM = 32,
    EBB_EUNAVAILABLE = 33, /* a service, device or library is not here */
    /* a peer rank failed, or the run was told to stop and can be resumed */
    EBB_EPEER = 40,
    EBB_ESTOPPED = 41,
    /* Ebb itself */
    EBB_EBUG = 50,
} ebb_status_t;

/* Lower-case English name of a status, "ok" for EBB_OK. */
EBB_API const char *ebb_status_name(ebb_status_t status);

/* Exit code of sysexits.h for a status: 0, 64 usage, 65 data, 66 input, 69 unavailable, 70 bug, 71 memory, 74 I/O,
 * 75 stopped and resumable. */
EBB_API int ebb_status_exit_code(ebb_status_t status);

/* The error of a failed call. Strings are truncated to fit. */
typedef struct ebb_error {
    ebb_status_t status;
    const char *file; /* source file and line that found it */
    int line;
    int rank;          /* rank that found it, -1 before there were ranks */
    char message[512]; /* what is wrong, where, and the cure if there is one; no final full stop or newline */
} ebb_error_t;

/* The calling thread's first error since the last clear; status is EBB_OK when there is none. */
EBB_API const ebb_error_t *ebb_error(void);
EBB_API void ebb_error_clear(void);
/* Make err the calling thread's error: carries a worker thread's or a peer rank's error to the caller. */
EBB_API ebb_status_t ebb_error_set(const ebb_error_t *err);
/* Record an error and return status; an error that is already there wins. Use EBB_FAIL. */
EBB_API ebb_status_t ebb_error_record(ebb_status_t status, const char *file, int line, const char *fmt, ...)
    EBB_PRINTF(4, 5);
/* Put words before the message of the current error ("shard-00003.h5: X/data: chunk 7: "), then return its status. */
EBB_API ebb_status_t ebb_error_prefix(const char *fmt, ...) EBB_PRINTF(1, 2);

#define EBB_FAIL(status, ...) ebb_error_record((status), __FILE__, __LINE__, __VA_ARGS__)

/* Forward a failure. EBB_END is forwarded too. */
#define EBB_TRY(call)                                                                                                  \
    do {                                                                                                               \
        ebb_status_t ebb_try_ = (call);                                                                                \
        if (ebb_try_ != EBB_OK)                                                                                        \
            return ebb_try_;                                                                                           \
    } while (0)

/* The same where something must be released first: status is assigned, then the ladder of labels runs. */
#define EBB_TRY_GOTO(status, call, label)                                                                              \
    do {                                                                                                               \
        (status) = (call);                                                                                             \
        if ((status) != EBB_OK)                                                                                        \
            goto label;                                                                                                \
    } while (0)

/* Log levels: error and warn always matter; info is per run, debug per object, trace per step, data per batch. */
typedef enum ebb_log_level {
    EBB_LOG_ERROR,
    EBB_LOG_WARN,
    EBB_LOG_INFO,
    EBB_LOG_DEBUG,
    EBB_LOG_TRACE,
    EBB_LOG_DATA,
} ebb_log_level_t;

/* Set what is printed to stderr; environment EBB_LOG=level sets the start value (default info). Rank 0 alone prints
 * below warn, unless EBB_LOG_RANKS=all. */
EBB_API void ebb_log_set_level(ebb_log_level_t level);
EBB_API bool ebb_log_enabled(ebb_log_level_t level);
EBB_API void ebb_log_set_rank(int rank, int ranks);
/* One line: "ebb[rank] stage: message". Lower case, no newline. Thread-safe. */
EBB_API void ebb_log(ebb_log_level_t level, const char *stage, const char *fmt, ...) EBB_PRINTF(3, 4);

#define EBB_LOG(level, stage, ...)                                                                                     \
    do {                                                                                                               \
        if (ebb_log_enabled(level))                                                                                    \
            ebb_log((level), (stage), __VA_ARGS__);                                                                    \
    } while (0)
#define EBB_WARN(stage, ...)  EBB_LOG(EBB_LOG_WARN, stage, __VA_ARGS__)
#define EBB_INFO(stage, ...)  EBB_LOG(EBB_LOG_INFO, stage, __VA_ARGS__)
#define EBB_DEBUG(stage, ...) EBB_LOG(EBB_LOG_DEBUG, stage, __VA_ARGS__)

/* "0.1.0". */
EBB_API const char *ebb_version(void);

#ifdef __cplusplus
}
#endif
#endif
