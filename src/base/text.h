/* Text: growing buffers, human figures, suggestions. */
#ifndef EBB_BASE_TEXT_H
#define EBB_BASE_TEXT_H

#include <ebb/base.h>

typedef struct ebb_text {
    char *s; /* zero-terminated once something was added; owned */
    size_t n, capacity;
    bool failed; /* out of memory; later additions do nothing */
} ebb_text_t;

void ebb_text_add(ebb_text_t *t, const char *fmt, ...) EBB_PRINTF(2, 3);
void ebb_text_append(ebb_text_t *t, const char *bytes, size_t n);
void ebb_text_free(ebb_text_t *t);

/* "1.5 GB", "12.3 M", "1:02:03". Return text. */
const char *ebb_format_bytes(double bytes, char *text, size_t size);
const char *ebb_format_count(double count, char *text, size_t size);
const char *ebb_format_duration(double seconds, char *text, size_t size);

/* "512M", "1.5GiB", "65536" -> bytes (powers of 1024; "MB" is 10^6). */
ebb_status_t ebb_parse_bytes(const char *text, int64_t *bytes_p);
ebb_status_t ebb_parse_i64(const char *text, int64_t *value_p); /* whole string */
ebb_status_t ebb_parse_f64(const char *text, double *value_p);  /* whole string; finite */

/* "90s", "30m", "24h", "1.5d", "1h30m" -> seconds; a number without a unit is refused unless it is 0. */
ebb_status_t ebb_parse_duration(const char *text, double *seconds_p);

/* The candidate (NULL-terminated list) nearest to word by edit distance, or NULL if none is near. */
const char *ebb_text_nearest(const char *word, const char *const *candidates);

#endif
