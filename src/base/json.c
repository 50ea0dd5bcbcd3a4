/* Helpers over jansson: errors that name the place, and a canonical dump. */
#include "base/json.h"
#include "base/alloc.h"
#include "base/file.h"

#include <string.h>

ebb_status_t ebb_json_parse(const char *text, size_t bytes, const char *origin, json_t **json_p)
{
    json_error_t error;
    *json_p = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
    if (!*json_p)
        return EBB_FAIL(EBB_EDATA, "%s:%d:%d: not valid JSON: %s", origin, error.line, error.column, error.text);
    return EBB_OK;
}

ebb_status_t ebb_json_load(const char *path, json_t **json_p)
{
    char *text;
    size_t bytes;
    *json_p = NULL;
    EBB_TRY(ebb_file_read_all(path, &text, &bytes));
    ebb_status_t status = ebb_json_parse(text, bytes, path, json_p);
    ebb_free(text);
    return status;
}

static const char *type_name(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "a list";
    case JSON_STRING: return "a text";
    case JSON_INTEGER: return "a whole number";
    case JSON_REAL: return "a real number";
    case JSON_TRUE:
    case JSON_FALSE: return "a truth value";
    case JSON_NULL: return "null";
    }
    return "unknown";
}

static ebb_status_t get(const json_t *object, const char *key, const char *origin, const json_t **value_p)
{
    if (!json_is_object(object))
        return EBB_FAIL(EBB_EDATA, "%s: expected an object with \"%s\"", origin, key);
    *value_p = json_object_get(object, key);
    if (!*value_p)
        return EBB_FAIL(EBB_EDATA, "%s: \"%s\" is missing", origin, key);
    return EBB_OK;
}

ebb_status_t ebb_json_get_i64(const json_t *object, const char *key, const char *origin, int64_t *value_p)
{
    const json_t *value;
    EBB_TRY(get(object, key, origin, &value));
    if (!json_is_integer(value))
        return EBB_FAIL(EBB_EDATA, "%s: \"%s\" must be a whole number, not %s", origin, key, type_name(value));
    *value_p = json_integer_value(value);
    return EBB_OK;
}

ebb_status_t ebb_json_get_string(const json_t *object, const char *key, const char *origin, const char **value_p)
{
    const json_t *value;
    EBB_TRY(get(object, key, origin, &value));
    if (!json_is_string(value))
        return EBB_FAIL(EBB_EDATA, "%s: \"%s\" must be a text, not %s", origin, key, type_name(value));
    *value_p = json_string_value(value);
    return EBB_OK;
}

char *ebb_json_dump(const json_t *json)
{
    return json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS | JSON_ENCODE_ANY | JSON_REAL_PRECISION(17));
}
