/* Options of layers and losses, checked against their table: unknown keys, wrong types and values out of range are
 * answered with the place and the nearest valid key. */
#include "model/layer.h"

#include <math.h>
#include <string.h>

static int count_keys(const ebb_key_t *keys)
{
    int n = 0;
    while (n < EBB_LAYER_KEYS && keys[n].name)
        n++;
    return n;
}

ebb_status_t ebb_unknown(const char *path, const char *what, const char *word, const char *const *candidates)
{
    const char *near = ebb_text_nearest(word, candidates);
    if (near)
        return EBB_FAIL(EBB_EUSAGE, "%s: unknown %s \"%s\"; did you mean \"%s\"?", path, what, word, near);
    char list[256] = "";
    for (int i = 0; candidates[i]; i++) {
        size_t n = strlen(list);
        snprintf(list + n, sizeof list - n, "%s%s", i ? ", " : "", candidates[i]);
    }
    return list[0] ? EBB_FAIL(EBB_EUSAGE, "%s: unknown %s \"%s\"; known: %s", path, what, word, list)
                   : EBB_FAIL(EBB_EUSAGE, "%s: unknown %s \"%s\"; none are known here", path, what, word);
}

static ebb_status_t unknown_key(const ebb_key_t *keys, const char *path, const char *word)
{
    int n = count_keys(keys);
    if (n == 0)
        return EBB_FAIL(EBB_EUSAGE, "%s: unknown key \"%s\"; it takes no options", path, word);
    const char *names[EBB_LAYER_KEYS + 1] = {NULL};
    for (int i = 0; i < n; i++)
        names[i] = keys[i].name;
    return ebb_unknown(path, "key", word, names);
}

static ebb_status_t read_value(const ebb_key_t *key, const json_t *json, const char *path, double *value_p)
{
    static const char *const wants[] = {"a whole number", "a number", "true or false"};
    bool fits = key->type == EBB_KEY_INT    ? json_is_integer(json)
                : key->type == EBB_KEY_REAL ? json_is_number(json)
                                            : json_is_boolean(json);
    if (!fits) {
        char *text = json_dumps(json, JSON_ENCODE_ANY | JSON_COMPACT);
        EBB_FAIL(EBB_EUSAGE, "%s.%s: %.60s is not %s", path, key->name, text ? text : "?", wants[key->type]);
        free(text);
        return EBB_EUSAGE;
    }
    double value = json_is_boolean(json) ? (double)json_is_true(json) : json_number_value(json);
    if (!(value >= key->min && value <= key->max))
        return EBB_FAIL(EBB_EUSAGE, "%s.%s: %.9g is out of range; from %.9g to %.9g", path, key->name, value, key->min,
                        key->max);
    *value_p = value;
    return EBB_OK;
}

ebb_status_t ebb_keys_read(const ebb_key_t *keys, const json_t *json, const char *path, double *value, bool *is_set)
{
    int n = count_keys(keys);
    for (int i = 0; i < n; i++) {
        value[i] = keys[i].def;
        is_set[i] = false;
    }
    if (!json || json_is_null(json))
        return EBB_OK;
    if (!json_is_object(json))
        return EBB_FAIL(EBB_EUSAGE, "%s: its options must be a map such as {key: value}", path);
    const char *word;
    json_t *member;
    json_object_foreach((json_t *)json, word, member)
    {
        int i = 0;
        while (i < n && strcmp(keys[i].name, word) != 0)
            i++;
        if (i == n)
            return unknown_key(keys, path, word);
        EBB_TRY(read_value(&keys[i], member, path, &value[i]));
        is_set[i] = true;
    }
    return EBB_OK;
}

void ebb_keys_help(const ebb_key_t *keys, ebb_text_t *out)
{
    for (int i = 0; i < count_keys(keys); i++) {
        ebb_text_add(out, "      %-8s %s (default %s", keys[i].name, keys[i].help, keys[i].def_text);
        if (keys[i].type == EBB_KEY_FLAG)
            ebb_text_add(out, ")\n");
        else
            ebb_text_add(out, "; %.9g to %.9g)\n", keys[i].min, keys[i].max);
    }
}
