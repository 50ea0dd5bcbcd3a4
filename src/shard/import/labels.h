/* A set of distinct labels, numbers or texts. The scan collects what occurs; the write looks class numbers up. */
#ifndef EBB_SHARD_IMPORT_LABELS_H
#define EBB_SHARD_IMPORT_LABELS_H

#include <ebb/base.h>

enum { EBB_LABELS_MAX = 65536, EBB_LABEL_BYTES = 256 };

typedef struct ebb_label {
    bool number;
    double value; /* of a number */
    int64_t text; /* of a text: offset into the set's characters */
    int32_t bytes;
    int64_t rows; /* how often it was noted */
} ebb_label_t;

/* Zero-initialise. */
typedef struct ebb_labels {
    int64_t n, capacity;
    ebb_label_t *label;
    int32_t *slot; /* hash table of label numbers + 1 */
    int64_t n_slots;
    char *chars;
    int64_t n_chars, chars_capacity;
    bool overflow;  /* more than EBB_LABELS_MAX distinct ones occurred; no class set */
    bool fractions; /* a number that is not an integer */
    int64_t last;   /* label found last */
} ebb_labels_t;

void ebb_labels_free(ebb_labels_t *set);
void ebb_labels_clear(ebb_labels_t *set);
ebb_status_t ebb_labels_note_number(ebb_labels_t *set, double value, int64_t rows);
ebb_status_t ebb_labels_note_text(ebb_labels_t *set, const char *text, int64_t bytes, int64_t rows);
ebb_status_t ebb_labels_merge(ebb_labels_t *set, const ebb_labels_t *other);
/* Class number, or -1. */
int64_t ebb_labels_find_number(const ebb_labels_t *set, double value);
int64_t ebb_labels_find_text(const ebb_labels_t *set, const char *text, int64_t bytes);
/* Numbers ascending, then texts by bytes. Rebuilds the index. */
ebb_status_t ebb_labels_sort(ebb_labels_t *set);
/* Name of label i into name[EBB_LABEL_BYTES + 1]: a number as it is commonly written. */
void ebb_labels_name(const ebb_labels_t *set, int64_t i, char *name);

/* For exchange between ranks: one line-free record per label; *bytes_p is its length, free with ebb_free. */
ebb_status_t ebb_labels_pack(const ebb_labels_t *set, char **data_p, int64_t *bytes_p);
ebb_status_t ebb_labels_unpack(ebb_labels_t *set, const char *data, int64_t bytes);

#endif
