/* Small helpers over jansson. */
#ifndef EBB_BASE_JSON_H
#define EBB_BASE_JSON_H

#include <ebb/base.h>
#include <jansson.h>

/* Parse text or a file; errors name file, line and column. The caller json_decref()s. */
ebb_status_t ebb_json_parse(const char *text, size_t bytes, const char *origin, json_t **json_p);
ebb_status_t ebb_json_load(const char *path, json_t **json_p);
/* Required members; origin is named in the error. */
ebb_status_t ebb_json_get_i64(const json_t *object, const char *key, const char *origin, int64_t *value_p);
ebb_status_t ebb_json_get_string(const json_t *object, const char *key, const char *origin, const char **value_p);
/* Compact, sorted keys; NULL when out of memory; free() it. */
char *ebb_json_dump(const json_t *json);

#endif
