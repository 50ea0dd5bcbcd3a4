/* Label sets: an array of labels with an open-addressed index. Counts and flags merge in any order, and sorting removes
 * the order of arrival, so the result depends neither on threads nor on ranks. */
#include "shard/import/labels.h"
#include "base/alloc.h"
#include "base/hash.h"
#include "base/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void ebb_labels_free(ebb_labels_t *set)
{
    ebb_free(set->label);
    ebb_free(set->slot);
    ebb_free(set->chars);
    memset(set, 0, sizeof *set);
}

void ebb_labels_clear(ebb_labels_t *set)
{
    set->n = set->n_chars = set->last = 0;
    set->overflow = set->fractions = false;
    if (set->slot)
        memset(set->slot, 0, (size_t)set->n_slots * sizeof *set->slot);
}

static uint64_t number_hash(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return ebb_mix64(bits);
}

static uint64_t label_hash(const ebb_labels_t *set, const ebb_label_t *l)
{
    return l->number ? number_hash(l->value) : ebb_xxh3(set->chars + l->text, (size_t)l->bytes);
}

static bool same_text(const ebb_labels_t *set, const ebb_label_t *l, const char *text, int64_t bytes)
{
    return !l->number && l->bytes == bytes && memcmp(set->chars + l->text, text, (size_t)bytes) == 0;
}

/* Slot of the label, or the empty one where it belongs; -1 without an index. */
static int64_t probe(const ebb_labels_t *set, uint64_t hash, const double *value, const char *text, int64_t bytes)
{
    if (set->n_slots == 0)
        return -1;
    int64_t i = (int64_t)(hash & (uint64_t)(set->n_slots - 1));
    for (; set->slot[i]; i = (i + 1) & (set->n_slots - 1)) {
        const ebb_label_t *l = &set->label[set->slot[i] - 1];
        if (value ? l->number && l->value == *value : same_text(set, l, text, bytes))
            break;
    }
    return i;
}

static ebb_status_t reindex(ebb_labels_t *set, int64_t n_slots)
{
    if (n_slots != set->n_slots) {
        ebb_free(set->slot);
        set->slot = NULL;
        set->n_slots = 0;
        EBB_TRY(EBB_NEW_ARRAY("label index", n_slots, &set->slot));
        set->n_slots = n_slots;
    }
    memset(set->slot, 0, (size_t)n_slots * sizeof *set->slot);
    for (int64_t k = 0; k < set->n; k++) {
        int64_t i = (int64_t)(label_hash(set, &set->label[k]) & (uint64_t)(n_slots - 1));
        while (set->slot[i])
            i = (i + 1) & (n_slots - 1);
        set->slot[i] = (int32_t)k + 1;
    }
    return EBB_OK;
}

static ebb_status_t add(ebb_labels_t *set, ebb_label_t label, const char *text)
{
    if (set->n >= EBB_LABELS_MAX) {
        set->overflow = true;
        return EBB_OK;
    }
    EBB_TRY(ebb_grow("labels", (void **)&set->label, &set->capacity, set->n + 1, sizeof *set->label));
    if (!label.number) {
        EBB_TRY(ebb_grow("label texts", (void **)&set->chars, &set->chars_capacity, set->n_chars + label.bytes + 1, 1));
        memcpy(set->chars + set->n_chars, text, (size_t)label.bytes);
        label.text = set->n_chars;
        set->n_chars += label.bytes;
    }
    set->last = set->n;
    set->label[set->n++] = label;
    if (set->n * 2 > set->n_slots)
        return reindex(set, set->n_slots ? set->n_slots * 2 : 64);
    int64_t i = (int64_t)(label_hash(set, &set->label[set->n - 1]) & (uint64_t)(set->n_slots - 1));
    while (set->slot[i])
        i = (i + 1) & (set->n_slots - 1);
    set->slot[i] = (int32_t)set->n;
    return EBB_OK;
}

ebb_status_t ebb_labels_note_number(ebb_labels_t *set, double value, int64_t rows)
{
    value += 0.0; /* -0 is 0 */
    if (set->last < set->n && set->label[set->last].number && set->label[set->last].value == value) {
        set->label[set->last].rows += rows;
        return EBB_OK;
    }
    set->fractions |= value != floor(value);
    int64_t i = probe(set, number_hash(value), &value, NULL, 0);
    if (i >= 0 && set->slot[i]) {
        set->last = set->slot[i] - 1;
        set->label[set->last].rows += rows;
        return EBB_OK;
    }
    return add(set, (ebb_label_t){.number = true, .value = value, .rows = rows}, NULL);
}

ebb_status_t ebb_labels_note_text(ebb_labels_t *set, const char *text, int64_t bytes, int64_t rows)
{
    if (set->last < set->n && same_text(set, &set->label[set->last], text, bytes)) {
        set->label[set->last].rows += rows;
        return EBB_OK;
    }
    int64_t i = probe(set, ebb_xxh3(text, (size_t)bytes), NULL, text, bytes);
    if (i >= 0 && set->slot[i]) {
        set->last = set->slot[i] - 1;
        set->label[set->last].rows += rows;
        return EBB_OK;
    }
    if (bytes > EBB_LABEL_BYTES) {
        set->overflow = true;
        return EBB_OK;
    }
    return add(set, (ebb_label_t){.bytes = (int32_t)bytes, .rows = rows}, text);
}

ebb_status_t ebb_labels_merge(ebb_labels_t *set, const ebb_labels_t *other)
{
    for (int64_t i = 0; i < other->n; i++) {
        const ebb_label_t *l = &other->label[i];
        EBB_TRY(l->number ? ebb_labels_note_number(set, l->value, l->rows)
                          : ebb_labels_note_text(set, other->chars + l->text, l->bytes, l->rows));
    }
    set->overflow |= other->overflow;
    set->fractions |= other->fractions;
    return EBB_OK;
}

int64_t ebb_labels_find_number(const ebb_labels_t *set, double value)
{
    value += 0.0;
    int64_t i = probe(set, number_hash(value), &value, NULL, 0);
    return i < 0 ? -1 : set->slot[i] - 1;
}

int64_t ebb_labels_find_text(const ebb_labels_t *set, const char *text, int64_t bytes)
{
    int64_t i = probe(set, ebb_xxh3(text, (size_t)bytes), NULL, text, bytes);
    return i < 0 ? -1 : set->slot[i] - 1;
}

static int compare(const void *pa, const void *pb, void *user)
{
    const ebb_labels_t *set = user;
    const ebb_label_t *a = pa, *b = pb;
    if (a->number != b->number)
        return a->number ? -1 : 1;
    if (a->number)
        return (a->value > b->value) - (a->value < b->value);
    int32_t n = a->bytes < b->bytes ? a->bytes : b->bytes;
    int order = memcmp(set->chars + a->text, set->chars + b->text, (size_t)n);
    return order ? order : a->bytes - b->bytes;
}

ebb_status_t ebb_labels_sort(ebb_labels_t *set)
{
    if (set->n == 0)
        return EBB_OK;
    qsort_r(set->label, (size_t)set->n, sizeof *set->label, compare, set);
    return reindex(set, set->n_slots);
}

void ebb_labels_name(const ebb_labels_t *set, int64_t i, char *name)
{
    const ebb_label_t *l = &set->label[i];
    if (!l->number) {
        memcpy(name, set->chars + l->text, (size_t)l->bytes);
        name[l->bytes] = 0;
        return;
    }
    bool signs = set->n == 2 && fabs(set->label[0].value) == 1 && set->label[0].value == -set->label[1].value;
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(name, EBB_LABEL_BYTES, signs ? "%+.*g" : "%.*g", digits, l->value);
        if (strtod(name, NULL) == l->value)
            return;
    }
}

/* Records: kind, rows, value or byte count, text. */
ebb_status_t ebb_labels_pack(const ebb_labels_t *set, char **data_p, int64_t *bytes_p)
{
    int64_t bytes = 2;
    for (int64_t i = 0; i < set->n; i++)
        bytes += 17 + (set->label[i].number ? 0 : set->label[i].bytes);
    EBB_TRY(ebb_alloc("packed labels", (size_t)bytes, (void **)data_p));
    char *p = *data_p;
    *p++ = set->overflow;
    *p++ = set->fractions;
    for (int64_t i = 0; i < set->n; i++) {
        const ebb_label_t *l = &set->label[i];
        int64_t n = l->bytes;
        *p++ = l->number;
        memcpy(p, &l->rows, 8);
        memcpy(p + 8, l->number ? (const void *)&l->value : (const void *)&n, 8);
        p += 16;
        if (!l->number) {
            memcpy(p, set->chars + l->text, (size_t)n);
            p += n;
        }
    }
    *bytes_p = bytes;
    return EBB_OK;
}

ebb_status_t ebb_labels_unpack(ebb_labels_t *set, const char *data, int64_t bytes)
{
    const char *p = data + 2, *end = data + bytes;
    while (p < end) {
        bool number = *p++;
        int64_t rows, n;
        double value;
        memcpy(&rows, p, 8);
        memcpy(&n, p + 8, 8);
        memcpy(&value, p + 8, 8);
        p += 16;
        EBB_TRY(number ? ebb_labels_note_number(set, value, rows) : ebb_labels_note_text(set, p, n, rows));
        p += number ? 0 : n;
    }
    set->overflow |= data[0] != 0;
    set->fractions |= data[1] != 0;
    return EBB_OK;
}
