/* Targets of foreign files: AnnData's categoricals, strings, whole numbers as classes, real numbers. */
#include "shard/foreign.h"
#include "base/alloc.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_CLASSES = 1000 }; /* more distinct whole numbers than this are a quantity, not classes */

/* ---- with the lock: find them, read what is text ---- */

static void free_texts(char **text, int64_t n)
{
    for (int64_t i = 0; text && i < n; i++)
        ebb_free(text[i]);
    ebb_free(text);
}

void ebb_foreign_clear(foreign_t *f)
{
    free_texts(f->categories, f->n_categories);
    free_texts(f->text, f->n_text);
}

static ebb_status_t copy_variable(const foreign_t *f, hid_t h5, hid_t type, hid_t space, char **text, int64_t n)
{
    char **value;
    ebb_status_t status = EBB_OK;
    EBB_TRY(EBB_NEW_ARRAY("strings", n, &value));
    if (n > 0 && H5Dread(h5, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, value) < 0)
        status = ebb_h5_error(f->path, "read strings");
    for (int64_t i = 0; status == EBB_OK && i < n; i++) {
        text[i] = ebb_strdup(value[i] ? value[i] : "");
        status = text[i] ? EBB_OK : EBB_FAIL(EBB_ENOMEM, "out of memory for strings");
    }
    if (n > 0)
        H5Dvlen_reclaim(type, space, H5P_DEFAULT, value);
    ebb_free(value);
    return status;
}

static ebb_status_t copy_fixed(const foreign_t *f, hid_t h5, hid_t type, char **text, int64_t n)
{
    size_t size = H5Tget_size(type);
    char *value;
    ebb_status_t status = EBB_OK;
    if (size == 0 || (uint64_t)n > (uint64_t)1 << 32 || size > (size_t)1 << 20)
        return EBB_FAIL(EBB_EDATA, "%s: strings are absurdly large", f->path);
    EBB_TRY(ebb_alloc("strings", size * (size_t)n + 1, (void **)&value));
    if (n > 0 && H5Dread(h5, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, value) < 0)
        status = ebb_h5_error(f->path, "read strings");
    for (int64_t i = 0; status == EBB_OK && i < n; i++) {
        size_t length = strnlen(value + size * (size_t)i, size);
        while (H5Tget_strpad(type) == H5T_STR_SPACEPAD && length > 0 && value[size * (size_t)i + length - 1] == ' ')
            length--;
        status = ebb_alloc("strings", length + 1, (void **)&text[i]);
        if (status == EBB_OK)
            memcpy(text[i], value + size * (size_t)i, length);
    }
    ebb_free(value);
    return status;
}

/* Numbers as text: categories may be those too. */
static ebb_status_t copy_numbers(const foreign_t *f, hid_t h5, char **text, int64_t n)
{
    double *value;
    char number[32];
    ebb_status_t status = EBB_OK;
    EBB_TRY(EBB_NEW_ARRAY("categories", n, &value));
    if (n > 0 && H5Dread(h5, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, value) < 0)
        status = ebb_h5_error(f->path, "read categories");
    for (int64_t i = 0; status == EBB_OK && i < n; i++) {
        snprintf(number, sizeof number, "%.10g", value[i]);
        text[i] = ebb_strdup(number);
        status = text[i] ? EBB_OK : EBB_FAIL(EBB_ENOMEM, "out of memory for categories");
    }
    ebb_free(value);
    return status;
}

/* A 1-D dataset as texts. */
static ebb_status_t read_texts(const foreign_t *f, const char *name, char ***text_p, int64_t *n_p)
{
    hid_t h5 = H5Dopen2(f->file, name, H5P_DEFAULT);
    if (h5 < 0)
        return ebb_h5_error(f->path, "open a dataset of the targets");
    hid_t type = H5Dget_type(h5), space = H5Dget_space(h5);
    int64_t n = H5Sget_simple_extent_npoints(space);
    ebb_status_t status =
        n < 0 ? EBB_FAIL(EBB_EDATA, "%s: %s: is empty", f->path, name) : EBB_NEW_ARRAY("strings", n, text_p);
    if (status == EBB_OK) {
        *n_p = n;
        if (H5Tget_class(type) != H5T_STRING)
            status = copy_numbers(f, h5, *text_p, n);
        else if (H5Tis_variable_str(type) > 0)
            status = copy_variable(f, h5, type, space, *text_p, n);
        else
            status = copy_fixed(f, h5, type, *text_p, n);
    }
    H5Sclose(space);
    H5Tclose(type);
    H5Dclose(h5);
    return status;
}

static bool is_text(const foreign_t *f, const char *name)
{
    hid_t h5 = H5Dopen2(f->file, name, H5P_DEFAULT), type = H5Dget_type(h5);
    bool text = H5Tget_class(type) == H5T_STRING;
    H5Tclose(type);
    H5Dclose(h5);
    return text;
}

static ebb_status_t check_rows(const foreign_t *f, const char *name, int64_t rows)
{
    if (rows != f->n_targets)
        return EBB_FAIL(EBB_EDATA, "%s: %s: %lld targets for %lld rows", f->path, name, (long long)rows,
                        (long long)f->n_targets);
    return EBB_OK;
}

ebb_status_t ebb_foreign_index_targets(foreign_t *f, const char *name)
{
    char codes[300], categories[300];
    const char *leaf = strrchr(name, '/');
    snprintf(codes, sizeof codes, "%.200s/codes", name);
    snprintf(categories, sizeof categories, "%.200s/categories", name);
    if (ebb_foreign_has(f->file, name, H5I_GROUP)) {
        if (!ebb_foreign_has(f->file, codes, H5I_DATASET) || !ebb_foreign_has(f->file, categories, H5I_DATASET))
            return EBB_FAIL(EBB_EDATA, "%s: %s: is a group, but not a categorical column (codes and categories)",
                            f->path, name);
        EBB_TRY(ebb_foreign_index(f, codes, EBB_ROLE_Y));
        EBB_TRY(read_texts(f, categories, &f->categories, &f->n_categories));
        return check_rows(f, codes, f->ds->shard[0].array[EBB_ROLE_Y].rows);
    }
    if (!ebb_foreign_has(f->file, name, H5I_DATASET))
        return EBB_FAIL(EBB_EDATA, "%s: has no targets at %s: h5ls -r lists what there is", f->path, name);
    if (is_text(f, name)) {
        EBB_TRY(read_texts(f, name, &f->text, &f->n_text));
        return check_rows(f, name, f->n_text);
    }
    EBB_TRY(ebb_foreign_index(f, name, EBB_ROLE_Y));
    if (leaf) { /* AnnData before 0.8 kept categories beside the columns */
        snprintf(categories, sizeof categories, "%.*s/__categories%.100s", (int)(leaf - name < 150 ? leaf - name : 150),
                 name, leaf);
        if (ebb_foreign_has(f->file, categories, H5I_DATASET))
            EBB_TRY(read_texts(f, categories, &f->categories, &f->n_categories));
    }
    return check_rows(f, name, f->ds->shard[0].array[EBB_ROLE_Y].rows);
}

/* ---- without the lock: read numbers, number classes ---- */

static ebb_status_t keep_classes(foreign_t *f, int64_t n)
{
    ebb_dataset_t *ds = f->ds;
    EBB_TRY(EBB_NEW_ARRAY("class names", n, &ds->class_names));
    EBB_TRY(EBB_NEW_ARRAY("class rows", n, &ds->class_rows));
    ds->info.classes = n;
    ds->info.target = EBB_TARGET_CLASS;
    ds->info.target_cols = 1;
    ds->info.class_names = (const char *const *)ds->class_names;
    ds->info.class_rows = ds->class_rows;
    return ds->labels ? EBB_OK : EBB_NEW_ARRAY("labels", f->n_targets, &ds->labels);
}

static ebb_status_t keep_name(foreign_t *f, int64_t i, const char *name)
{
    f->ds->class_names[i] = ebb_strdup(name);
    return f->ds->class_names[i] ? EBB_OK : EBB_FAIL(EBB_ENOMEM, "out of memory for class names");
}

static int compare_texts(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static ebb_status_t number_texts(foreign_t *f)
{
    int64_t rows = f->n_targets, n = 0;
    char **sorted;
    ebb_status_t status;
    EBB_TRY(EBB_NEW_ARRAY("class names", rows, &sorted));
    memcpy(sorted, f->text, (size_t)rows * sizeof *sorted);
    qsort(sorted, (size_t)rows, sizeof *sorted, compare_texts);
    for (int64_t i = 0; i < rows; i++)
        if (i == 0 || strcmp(sorted[i], sorted[n - 1]) != 0)
            sorted[n++] = sorted[i];
    EBB_TRY_GOTO(status, keep_classes(f, n), done);
    for (int64_t i = 0; i < n && status == EBB_OK; i++)
        status = keep_name(f, i, sorted[i]);
    for (int64_t i = 0; i < rows && status == EBB_OK; i++) {
        char **found = bsearch(&f->text[i], sorted, (size_t)n, sizeof *sorted, compare_texts);
        f->ds->labels[i] = (int32_t)(found - sorted);
        f->ds->class_rows[found - sorted]++;
    }
done:
    ebb_free(sorted);
    return status;
}

static ebb_status_t take_codes(foreign_t *f, ebb_reader_t *reader)
{
    int64_t rows = f->n_targets;
    EBB_TRY(keep_classes(f, f->n_categories));
    for (int64_t i = 0; i < f->n_categories; i++)
        EBB_TRY(keep_name(f, i, f->categories[i]));
    EBB_TRY(ebb_reader_take(reader, 0, EBB_ROLE_Y, 0, rows, EBB_ELEM_I32, f->ds->labels));
    for (int64_t i = 0; i < rows; i++) {
        int32_t code = f->ds->labels[i];
        if (code < 0 || code >= f->n_categories)
            return EBB_FAIL(EBB_EDATA, "%s: %s: row %lld has %s: leave out such rows before training", f->path,
                            f->ds->shard[0].array[EBB_ROLE_Y].name, (long long)i,
                            code == -1 ? "no category" : "an unknown category");
        f->ds->class_rows[code]++;
    }
    return EBB_OK;
}

/* Distinct values of whole numbers, sorted, or 0 if they are not classes. */
static int64_t distinct(const float *value, int64_t rows, double *sorted)
{
    int64_t n = 0;
    for (int64_t i = 0; i < rows; i++) {
        if (value[i] != floorf(value[i]) || !isfinite(value[i]))
            return 0;
        sorted[i] = value[i];
    }
    qsort(sorted, (size_t)rows, sizeof *sorted, compare_doubles);
    for (int64_t i = 0; i < rows; i++)
        if (i == 0 || sorted[i] != sorted[n - 1])
            sorted[n++] = sorted[i];
    return n <= MOST_CLASSES ? n : 0;
}

static ebb_status_t number_values(foreign_t *f, const double *sorted, int64_t n)
{
    char name[32];
    EBB_TRY(keep_classes(f, n));
    for (int64_t i = 0; i < n; i++) {
        snprintf(name, sizeof name, "%.10g", sorted[i]);
        EBB_TRY(keep_name(f, i, name));
    }
    for (int64_t i = 0; i < f->n_targets; i++) {
        double value = f->ds->reals[i];
        const double *found = bsearch(&value, sorted, (size_t)n, sizeof *sorted, compare_doubles);
        f->ds->labels[i] = (int32_t)(found - sorted);
        f->ds->class_rows[found - sorted]++;
    }
    ebb_free(f->ds->reals);
    f->ds->reals = NULL;
    return EBB_OK;
}

static ebb_status_t take_numbers(foreign_t *f, ebb_reader_t *reader)
{
    const ebb_array_t *a = &f->ds->shard[0].array[EBB_ROLE_Y];
    double *sorted;
    EBB_TRY(EBB_NEW_ARRAY("targets", a->rows * a->cols, &f->ds->reals));
    EBB_TRY(ebb_reader_take(reader, 0, EBB_ROLE_Y, 0, a->rows, EBB_ELEM_F32, f->ds->reals));
    f->ds->info.target = EBB_TARGET_REAL;
    f->ds->info.target_cols = a->cols;
    if (a->cols > 1)
        return EBB_OK;
    EBB_TRY(EBB_NEW_ARRAY("targets", a->rows, &sorted));
    int64_t n = distinct(f->ds->reals, a->rows, sorted);
    ebb_status_t status = n > 0 ? number_values(f, sorted, n) : EBB_OK;
    ebb_free(sorted);
    return status;
}

ebb_status_t ebb_foreign_read_targets(foreign_t *f)
{
    ebb_reader_t *reader;
    if (f->text)
        return number_texts(f);
    if (!f->ds->shard[0].array[EBB_ROLE_Y].present)
        return EBB_OK;
    EBB_TRY(ebb_reader_create(f->ds, 0, &reader));
    ebb_status_t status = f->categories ? take_codes(f, reader) : take_numbers(f, reader);
    ebb_reader_destroy(reader);
    return status;
}
