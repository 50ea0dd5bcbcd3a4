/* manifest.json: written last, so that a data set opens only when it is whole; read first, and trusted only after its
 * numbers agree with each other and its checksum with its text. The SHA-256 of its bytes is the data set's hash. */
#include "shard/layout.h"
#include "base/alloc.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const value_names[] = {"f32", "f16", "u8", "i8", "u16", "i16", "i32"};
static const char *const target_names[] = {"none", "class", "real"};

/* ---- the checksum: XXH3-64 of the text in which its own digits are zeros ---- */

static const char checksum_key[] = "\"checksum\": \"", no_checksum[] = "0000000000000000";
enum { CHECKSUM_DIGITS = sizeof no_checksum - 1 };

/* Where its digits are, or NULL. Keys are sorted and no text comes before it, so the first hit is the key. */
static char *find_checksum(char *text)
{
    char *key = strstr(text, checksum_key);
    return key && strlen(key) > sizeof checksum_key - 1 + CHECKSUM_DIGITS ? key + sizeof checksum_key - 1 : NULL;
}

/* Checksum of a text, whose digits become zeros. */
static void compute_checksum(char *text, size_t bytes, char *digits_in_text, char digits[CHECKSUM_DIGITS + 1])
{
    memcpy(digits_in_text, no_checksum, CHECKSUM_DIGITS);
    snprintf(digits, CHECKSUM_DIGITS + 1, "%016llx", (unsigned long long)ebb_xxh3(text, bytes));
}

static ebb_status_t check_checksum(const char *file, char *text, size_t bytes)
{
    char stored[CHECKSUM_DIGITS + 1] = "", digits[CHECKSUM_DIGITS + 1];
    char *at = find_checksum(text);
    if (!at) /* written before there was one */
        return EBB_OK;
    memcpy(stored, at, CHECKSUM_DIGITS);
    compute_checksum(text, bytes, at, digits);
    return strcmp(stored, digits) == 0
               ? EBB_OK
               : EBB_FAIL(EBB_ECORRUPT,
                          "%s: its checksum does not fit its text: damaged or edited; restore it or pack again", file);
}

/* ---- writing ---- */

static ebb_status_t text_json(const char *text, const char *what, json_t **json_p)
{
    *json_p = json_string(text);
    return *json_p ? EBB_OK
                   : EBB_FAIL(EBB_EDATA, "%s \"%s\" is not valid UTF-8: convert the source to UTF-8", what, text);
}

static ebb_status_t add_classes(json_t *root, const ebb_dataset_plan_t *plan, const int64_t *class_rows)
{
    json_t *classes = json_array();
    json_object_set_new(root, "classes", classes);
    for (int64_t i = 0; i < plan->classes; i++) {
        json_t *name;
        EBB_TRY(text_json(plan->class_names[i], "class name", &name));
        json_array_append_new(classes, json_pack("{s:o, s:I}", "name", name, "rows", (json_int_t)class_rows[i]));
    }
    return EBB_OK;
}

static ebb_status_t add_fields(json_t *root, const ebb_dataset_plan_t *plan)
{
    json_t *fields = json_array();
    json_object_set_new(root, "fields", fields);
    for (int i = 0; i < plan->n_fields; i++) {
        const ebb_field_t *f = &plan->fields[i];
        json_t *name;
        EBB_TRY(text_json(f->name, "field name", &name));
        json_array_append_new(fields, json_pack("{s:o, s:i, s:i, s:b}", "name", name, "begin", (int)f->begin, "end",
                                                (int)f->end, "categorical", (int)f->categorical));
    }
    return EBB_OK;
}

static void add_shards(json_t *root, int n, const ebb_shard_summary_t *shards)
{
    json_t *list = json_array();
    json_int_t bytes = 0, nnz = 0;
    for (int i = 0; i < n; i++) {
        const ebb_shard_summary_t *s = &shards[i];
        json_array_append_new(list, json_pack("{s:s, s:I, s:I, s:I, s:I, s:s, s:[I, I]}", "file", s->file, "row0",
                                              (json_int_t)s->row0, "rows", (json_int_t)s->rows, "nnz",
                                              (json_int_t)s->nnz, "bytes", (json_int_t)s->bytes, "sha256", s->sha256,
                                              "index", (json_int_t)s->index_offset, (json_int_t)s->index_bytes));
        bytes += s->bytes;
        nnz += s->nnz;
    }
    json_object_set_new(root, "shards", list);
    json_object_set_new(root, "bytes", json_integer(bytes));
    json_object_set_new(root, "nnz", json_integer(nnz));
}

static ebb_status_t build(json_t *root, const ebb_dataset_plan_t *plan, int n_shards, const ebb_shard_summary_t *shards,
                          const int64_t *class_rows)
{
    json_t *name, *provenance = NULL;
    EBB_TRY(text_json(plan->name ? plan->name : "", "name", &name));
    json_object_set_new(root, "name", name);
    json_object_set_new(root, "checksum", json_string(no_checksum));
    json_object_set_new(root, "format", json_string("ebb-dataset"));
    json_object_set_new(root, "version", json_integer(EBB_MANIFEST_VERSION));
    json_object_set_new(root, "rows", json_integer(plan->rows));
    json_object_set_new(root, "cols", json_integer(plan->cols));
    json_object_set_new(root, "layout", json_string(plan->sparse ? "csr" : "dense"));
    json_object_set_new(root, "value_type", json_string(value_names[plan->value_type]));
    json_object_set_new(root, "target", json_string(target_names[plan->target]));
    json_object_set_new(root, "target_cols", json_integer(plan->target == EBB_TARGET_CLASS ? 1 : plan->target_cols));
    json_object_set_new(root, "weighted", json_boolean(plan->weighted));
    json_object_set_new(root, "chunk_elements", json_integer(ebb_chunk_elements(plan)));
    json_object_set_new(root, "level", json_integer(plan->level ? plan->level : 9));
    if (plan->target == EBB_TARGET_CLASS)
        EBB_TRY(add_classes(root, plan, class_rows));
    EBB_TRY(add_fields(root, plan));
    add_shards(root, n_shards, shards);
    if (plan->provenance)
        EBB_TRY(ebb_json_parse(plan->provenance, strlen(plan->provenance), "provenance", &provenance));
    json_object_set_new(root, "provenance", provenance ? provenance : json_object());
    return EBB_OK;
}

static ebb_status_t check_summaries(const ebb_dataset_plan_t *plan, int n_shards, const ebb_shard_summary_t *shards)
{
    int64_t rows = 0;
    for (int i = 0; i < n_shards; i++) {
        if (shards[i].index != i || shards[i].row0 != rows)
            return EBB_FAIL(EBB_EINVAL, "shard %d begins at row %lld, not %lld", i, (long long)shards[i].row0,
                            (long long)rows);
        rows += shards[i].rows;
    }
    if (rows != plan->rows)
        return EBB_FAIL(EBB_EINVAL, "shards hold %lld rows, the plan says %lld", (long long)rows,
                        (long long)plan->rows);
    return EBB_OK;
}

ebb_status_t ebb_manifest_write(const char *dir, const ebb_dataset_plan_t *plan, int n_shards,
                                const ebb_shard_summary_t *shards, const int64_t *class_rows)
{
    char path[PATH_MAX];
    EBB_TRY(check_summaries(plan, n_shards, shards));
    json_t *root = json_object();
    if (!root)
        return EBB_FAIL(EBB_ENOMEM, "out of memory for a manifest");
    ebb_status_t status = build(root, plan, n_shards, shards, class_rows);
    char *text = status == EBB_OK ? json_dumps(root, JSON_SORT_KEYS | JSON_INDENT(1)) : NULL;
    json_decref(root);
    EBB_TRY(status);
    if (!text)
        return EBB_FAIL(EBB_ENOMEM, "out of memory for a manifest");
    char digits[CHECKSUM_DIGITS + 1], *at = find_checksum(text);
    compute_checksum(text, strlen(text), at, digits);
    memcpy(at, digits, CHECKSUM_DIGITS);
    snprintf(path, sizeof path, "%s/manifest.json", dir);
    status = ebb_file_replace(path, text, strlen(text));
    free(text);
    return status;
}

/* ---- reading ---- */

#define BAD(...) EBB_FAIL(EBB_ECORRUPT, __VA_ARGS__)

static ebb_status_t get_choice(const json_t *root, const char *key, const char *origin, const char *const *names, int n,
                               int *value_p)
{
    const char *text;
    EBB_TRY(ebb_json_get_string(root, key, origin, &text));
    for (*value_p = 0; *value_p < n; (*value_p)++)
        if (strcmp(text, names[*value_p]) == 0)
            return EBB_OK;
    return BAD("%s: %s: unknown \"%.40s\"", origin, key, text);
}

/* An integer in [low, high]. */
static ebb_status_t get_count(const json_t *root, const char *key, const char *origin, int64_t low, int64_t high,
                              int64_t *value_p)
{
    EBB_TRY(ebb_json_get_i64(root, key, origin, value_p));
    if (*value_p < low || *value_p > high)
        return BAD("%s: %s: %lld is not in %lld .. %lld", origin, key, (long long)*value_p, (long long)low,
                   (long long)high);
    return EBB_OK;
}

static ebb_status_t check_version(const json_t *root, const char *origin)
{
    const char *format = json_string_value(json_object_get(root, "format"));
    int64_t version;
    if (!format || strcmp(format, "ebb-dataset") != 0)
        return EBB_FAIL(EBB_EDATA, "%s: is not the manifest of an ebb data set", origin);
    EBB_TRY(ebb_json_get_i64(root, "version", origin, &version));
    if (version > EBB_MANIFEST_VERSION)
        return EBB_FAIL(EBB_EDATA,
                        "%s: format version %lld was written by a newer ebb; this one reads up to %d: install a newer "
                        "ebb or pack again",
                        origin, (long long)version, EBB_MANIFEST_VERSION);
    return version < 1 ? BAD("%s: format version %lld", origin, (long long)version) : EBB_OK;
}

static ebb_status_t copy_text(const char *text, char **copy_p)
{
    *copy_p = ebb_strdup(text);
    return *copy_p ? EBB_OK : EBB_FAIL(EBB_ENOMEM, "out of memory for a name");
}

static ebb_status_t read_classes(const json_t *root, const char *origin, ebb_dataset_t *ds)
{
    const json_t *list = json_object_get(root, "classes");
    int64_t n = (int64_t)json_array_size(list), rows = 0;
    if (n < 1 || n > INT32_MAX)
        return BAD("%s: classes: a list of at least one is needed", origin);
    EBB_TRY(EBB_NEW_ARRAY("class names", n, &ds->class_names));
    EBB_TRY(EBB_NEW_ARRAY("class rows", n, &ds->class_rows));
    ds->info.classes = n;
    for (int64_t i = 0; i < n; i++) {
        const char *name;
        const json_t *item = json_array_get(list, (size_t)i);
        EBB_TRY(ebb_json_get_string(item, "name", origin, &name));
        EBB_TRY(copy_text(name, &ds->class_names[i]));
        EBB_TRY(get_count(item, "rows", origin, 0, ds->info.rows, &ds->class_rows[i]));
        rows += ds->class_rows[i];
    }
    return rows == ds->info.rows
               ? EBB_OK
               : BAD("%s: classes: their rows do not add up to %lld", origin, (long long)ds->info.rows);
}

static ebb_status_t read_fields(const json_t *root, const char *origin, ebb_dataset_t *ds)
{
    const json_t *list = json_object_get(root, "fields");
    size_t n = json_array_size(list);
    if (n > INT_MAX)
        return BAD("%s: fields: too many", origin);
    EBB_TRY(EBB_NEW_ARRAY("fields", n, &ds->fields));
    ds->info.n_fields = (int)n;
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(list, i);
        const char *name;
        int64_t begin, end;
        EBB_TRY(ebb_json_get_string(item, "name", origin, &name));
        EBB_TRY(get_count(item, "begin", origin, i > 0 ? ds->fields[i - 1].end : 0, ds->info.cols, &begin));
        EBB_TRY(get_count(item, "end", origin, begin, ds->info.cols, &end));
        ds->fields[i] = (ebb_field_t){.begin = (int32_t)begin,
                                      .end = (int32_t)end,
                                      .categorical = json_is_true(json_object_get(item, "categorical"))};
        snprintf(ds->fields[i].name, sizeof ds->fields[i].name, "%s", name);
    }
    return EBB_OK;
}

static ebb_status_t read_shard(const json_t *item, const char *origin, const char *folder, ebb_dataset_t *ds,
                               ebb_shard_t *s)
{
    char path[PATH_MAX];
    const char *file, *sha256;
    const json_t *index = json_object_get(item, "index");
    EBB_TRY(ebb_json_get_string(item, "file", origin, &file));
    if (strchr(file, '/') || file[0] == '.' || file[0] == 0)
        return BAD("%s: shards: \"%.60s\" is not the name of a file in this folder", origin, file);
    if (snprintf(path, sizeof path, "%s/%s", folder, file) >= (int)sizeof path)
        return EBB_FAIL(EBB_EINVAL, "path too long: %.80s...", folder);
    EBB_TRY(copy_text(path, &s->path));
    s->file = strrchr(s->path, '/') + 1;
    EBB_TRY(get_count(item, "row0", origin, 0, ds->info.rows, &s->row0));
    EBB_TRY(get_count(item, "rows", origin, 0, ds->info.rows - s->row0, &s->rows));
    EBB_TRY(get_count(item, "nnz", origin, 0, INT64_MAX / 16, &s->nnz));
    EBB_TRY(get_count(item, "bytes", origin, 1, INT64_MAX / 16, &s->bytes));
    EBB_TRY(ebb_json_get_string(item, "sha256", origin, &sha256));
    snprintf(s->sha256, sizeof s->sha256, "%s", sha256);
    s->index_offset = json_integer_value(json_array_get(index, 0));
    s->index_bytes = json_integer_value(json_array_get(index, 1));
    if (s->index_offset < 0 || s->index_offset > s->bytes || s->index_bytes < 72 || s->index_bytes % 8 != 0 ||
        s->index_bytes > s->bytes - s->index_offset)
        return BAD("%s: %s: index: does not lie inside the file", origin, file);
    return EBB_OK;
}

static ebb_status_t read_shards(const json_t *root, const char *origin, const char *folder, ebb_dataset_t *ds)
{
    const json_t *list = json_object_get(root, "shards");
    size_t n = json_array_size(list);
    int64_t rows = 0;
    if (!json_is_array(list) || n > INT_MAX)
        return BAD("%s: shards: a list is needed", origin);
    EBB_TRY(EBB_NEW_ARRAY("shards", n, &ds->shard));
    ds->info.n_shards = (int)n;
    for (size_t i = 0; i < n; i++) {
        ebb_shard_t *s = &ds->shard[i];
        EBB_TRY(read_shard(json_array_get(list, i), origin, folder, ds, s));
        if (s->row0 != rows)
            return BAD("%s: %s: begins at row %lld, not %lld", origin, s->file, (long long)s->row0, (long long)rows);
        rows += s->rows;
        if (__builtin_add_overflow(ds->info.nnz, s->nnz, &ds->info.nnz) ||
            __builtin_add_overflow(ds->info.bytes, s->bytes, &ds->info.bytes))
            return BAD("%s: shards: absurd sizes", origin);
    }
    return rows == ds->info.rows
               ? EBB_OK
               : BAD("%s: shards hold %lld rows of %lld", origin, (long long)rows, (long long)ds->info.rows);
}

static ebb_status_t read_root(const json_t *root, const char *origin, const char *folder, ebb_dataset_t *ds)
{
    const char *name;
    int layout, type, target;
    static const char *const layouts[] = {"csr", "dense"};
    EBB_TRY(check_version(root, origin));
    EBB_TRY(ebb_json_get_string(root, "name", origin, &name));
    EBB_TRY(copy_text(name, &ds->name));
    EBB_TRY(get_count(root, "rows", origin, 0, INT64_MAX / 16, &ds->info.rows));
    EBB_TRY(get_count(root, "cols", origin, 1, INT32_MAX, &ds->info.cols));
    EBB_TRY(get_choice(root, "layout", origin, layouts, 2, &layout));
    EBB_TRY(get_choice(root, "value_type", origin, value_names, 7, &type));
    EBB_TRY(get_choice(root, "target", origin, target_names, 3, &target));
    EBB_TRY(get_count(root, "chunk_elements", origin, 1, EBB_MOST_CHUNK_ELEMENTS, &ds->info.chunk_elements));
    ds->info.sparse = layout == 0;
    ds->info.value_type = (ebb_value_type_t)type;
    ds->info.target = (ebb_target_kind_t)target;
    ds->info.weighted = json_is_true(json_object_get(root, "weighted"));
    if (ds->info.target == EBB_TARGET_REAL)
        EBB_TRY(get_count(root, "target_cols", origin, 1, EBB_MOST_CHUNK_ELEMENTS, &ds->info.target_cols));
    if (ds->info.target == EBB_TARGET_CLASS) {
        ds->info.target_cols = 1;
        EBB_TRY(read_classes(root, origin, ds));
    }
    EBB_TRY(read_fields(root, origin, ds));
    return read_shards(root, origin, folder, ds);
}

ebb_status_t ebb_manifest_parse(const char *text, size_t bytes, const char *folder, ebb_dataset_t *ds)
{
    char origin[PATH_MAX];
    json_t *root;
    snprintf(origin, sizeof origin, "%s/manifest.json", folder);
    EBB_TRY(ebb_json_parse(text, bytes, origin, &root));
    ebb_status_t status = read_root(root, origin, folder, ds);
    json_decref(root);
    EBB_TRY(status);
    ebb_sha256_t *sha;
    EBB_TRY(ebb_sha256_create(&sha));
    ebb_sha256_update(sha, text, bytes);
    ebb_sha256_final(sha, ds->hash);
    ebb_sha256_destroy(sha);
    return EBB_OK;
}

ebb_status_t ebb_manifest_read(const char *path, ebb_dataset_t *ds)
{
    char file[PATH_MAX], *text;
    size_t bytes;
    snprintf(file, sizeof file, "%s/manifest.json", path);
    EBB_TRY(ebb_file_read_all(file, &text, &bytes));
    ebb_status_t status = ebb_manifest_parse(text, bytes, path, ds);
    if (status == EBB_OK)
        status = check_checksum(file, text, bytes); /* last: what is wrong in particular says more */
    ebb_free(text);
    return status;
}
