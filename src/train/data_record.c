/* What a model must remember of its training data. */
#include "train/data_record.h"
#include "base/alloc.h"
#include "base/json.h"

#include <string.h>

struct ebb_data_record {
    ebb_dataset_info_t info;
    json_t *json; /* owns the strings */
    const char **class_names;
    int64_t *class_rows;
    ebb_field_t *fields;
};

char *ebb_data_record_write(const ebb_dataset_info_t *info)
{
    json_t *classes = json_array(), *class_rows = json_array(), *fields = json_array();
    for (int64_t c = 0; c < info->classes; c++) {
        json_array_append_new(classes, json_string(info->class_names[c]));
        json_array_append_new(class_rows, json_integer(info->class_rows[c]));
    }
    for (int f = 0; f < info->n_fields; f++) {
        const ebb_field_t *field = &info->fields[f];
        json_array_append_new(fields, json_pack("{s:s, s:i, s:i, s:b}", "name", field->name, "begin", (int)field->begin,
                                                "end", (int)field->end, "categorical", (int)field->categorical));
    }
    json_t *json = json_pack("{s:s, s:s, s:I, s:I, s:I, s:b, s:i, s:I, s:I, s:o, s:o, s:o}", "name", info->name, "hash",
                             info->hash, "rows", (json_int_t)info->rows, "cols", (json_int_t)info->cols, "nnz",
                             (json_int_t)info->nnz, "sparse", (int)info->sparse, "target", (int)info->target,
                             "target_cols", (json_int_t)info->target_cols, "classes", (json_int_t)info->classes,
                             "class_names", classes, "class_rows", class_rows, "fields", fields);
    if (!json)
        return NULL;
    char *text = ebb_json_dump(json);
    json_decref(json);
    return text;
}

static ebb_status_t read_classes(ebb_data_record_t *r)
{
    const json_t *names = json_object_get(r->json, "class_names"), *rows = json_object_get(r->json, "class_rows");
    if ((int64_t)json_array_size(names) != r->info.classes || (int64_t)json_array_size(rows) != r->info.classes)
        return EBB_FAIL(EBB_ECORRUPT, "the model's record of its data: class names and classes differ");
    EBB_TRY(EBB_NEW_ARRAY("class names", r->info.classes, &r->class_names));
    EBB_TRY(EBB_NEW_ARRAY("class rows", r->info.classes, &r->class_rows));
    for (int64_t c = 0; c < r->info.classes; c++) {
        r->class_names[c] = json_string_value(json_array_get(names, (size_t)c));
        r->class_rows[c] = json_integer_value(json_array_get(rows, (size_t)c));
        if (!r->class_names[c])
            return EBB_FAIL(EBB_ECORRUPT, "the model's record of its data: class %lld has no name", (long long)c);
    }
    r->info.class_names = r->class_names;
    r->info.class_rows = r->class_rows;
    return EBB_OK;
}

static ebb_status_t read_fields(ebb_data_record_t *r)
{
    const json_t *fields = json_object_get(r->json, "fields");
    r->info.n_fields = (int)json_array_size(fields);
    EBB_TRY(EBB_NEW_ARRAY("fields", r->info.n_fields, &r->fields));
    for (int f = 0; f < r->info.n_fields; f++) {
        const json_t *field = json_array_get(fields, (size_t)f);
        const char *name = json_string_value(json_object_get(field, "name"));
        int64_t begin = json_integer_value(json_object_get(field, "begin")),
                end = json_integer_value(json_object_get(field, "end"));
        if (!name || begin < 0 || begin > end || end > r->info.cols)
            return EBB_FAIL(EBB_ECORRUPT, "the model's record of its data: field %d is malformed", f);
        snprintf(r->fields[f].name, sizeof r->fields[f].name, "%s", name);
        r->fields[f].begin = (int32_t)begin;
        r->fields[f].end = (int32_t)end;
        r->fields[f].categorical = json_is_true(json_object_get(field, "categorical"));
    }
    r->info.fields = r->fields;
    return EBB_OK;
}

static ebb_status_t read_members(ebb_data_record_t *r)
{
    const char *origin = "the model's record of its data";
    int64_t target;
    EBB_TRY(ebb_json_get_string(r->json, "name", origin, &r->info.name));
    EBB_TRY(ebb_json_get_string(r->json, "hash", origin, &r->info.hash));
    EBB_TRY(ebb_json_get_i64(r->json, "rows", origin, &r->info.rows));
    EBB_TRY(ebb_json_get_i64(r->json, "cols", origin, &r->info.cols));
    EBB_TRY(ebb_json_get_i64(r->json, "nnz", origin, &r->info.nnz));
    EBB_TRY(ebb_json_get_i64(r->json, "target", origin, &target));
    EBB_TRY(ebb_json_get_i64(r->json, "target_cols", origin, &r->info.target_cols));
    EBB_TRY(ebb_json_get_i64(r->json, "classes", origin, &r->info.classes));
    r->info.target = (ebb_target_kind_t)target;
    r->info.sparse = json_is_true(json_object_get(r->json, "sparse"));
    if (target < EBB_TARGET_NONE || target > EBB_TARGET_REAL || r->info.cols < 1 || r->info.classes < 0)
        return EBB_FAIL(EBB_ECORRUPT, "%s: malformed", origin);
    EBB_TRY(read_classes(r));
    return read_fields(r);
}

ebb_status_t ebb_data_record_read(const char *json, ebb_data_record_t **record_p)
{
    ebb_data_record_t *r;
    *record_p = NULL;
    EBB_TRY(EBB_NEW("data record", &r));
    ebb_status_t status = ebb_json_parse(json, strlen(json), "the model's record of its data", &r->json);
    if (status == EBB_OK)
        status = read_members(r);
    if (status != EBB_OK) {
        ebb_data_record_free(r);
        return status;
    }
    *record_p = r;
    return EBB_OK;
}

void ebb_data_record_free(ebb_data_record_t *r)
{
    if (!r)
        return;
    json_decref(r->json);
    ebb_free(r->class_names);
    ebb_free(r->class_rows);
    ebb_free(r->fields);
    ebb_free(r);
}

const ebb_dataset_info_t *ebb_data_record_info(const ebb_data_record_t *record)
{
    return &record->info;
}
