/* The file of measured sizes. */
#include "profile.h"
#include "base/file.h"
#include "base/json.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The file's object if it is of this configuration, else a new one. */
static json_t *load(const char *path, const char *key)
{
    json_t *profile = NULL;
    if (ebb_file_exists(path) && ebb_json_load(path, &profile) != EBB_OK) {
        EBB_WARN("profile", "%s; it is written anew", ebb_error()->message);
        ebb_error_clear();
    }
    const char *was = json_string_value(json_object_get(profile, "key"));
    if (was && strcmp(was, key) == 0 && json_is_array(json_object_get(profile, "sizes")))
        return profile;
    json_decref(profile);
    return json_pack("{s:s, s:[]}", "key", key, "sizes");
}

static void put(json_t *sizes, json_t *size, int64_t ranks)
{
    size_t i = 0;
    while (i < json_array_size(sizes) && json_integer_value(json_object_get(json_array_get(sizes, i), "ranks")) < ranks)
        i++;
    if (json_integer_value(json_object_get(json_array_get(sizes, i), "ranks")) == ranks)
        json_array_set_new(sizes, i, size);
    else
        json_array_insert_new(sizes, i, size);
}

ebb_status_t profile_put(const char *path, const char *key, double rows, const profile_size_t *s)
{
    char host[64] = "";
    gethostname(host, sizeof host - 1);
    json_t *profile = load(path, key);
    json_t *size =
        json_pack("{s:I, s:f, s:f, s:b, s:f, s:s}", "ranks", (json_int_t)s->ranks, "rows_per_s", s->rows_per_s, "watts",
                  s->watts, "measured", (int)s->measured, "seconds", s->seconds, "host", host);
    if (profile && size)
        put(json_object_get(profile, "sizes"), size, s->ranks);
    if (profile && rows > 0)
        json_object_set_new(profile, "rows", json_real(rows));
    char *text = profile && size ? json_dumps(profile, JSON_INDENT(2)) : NULL;
    ebb_status_t status = text ? EBB_OK : EBB_FAIL(EBB_ENOMEM, "out of memory for %s", path);
    if (text) {
        size_t n = strlen(text);
        text[n] = '\n'; /* in place of the zero */
        status = ebb_file_replace(path, text, n + 1);
    }
    free(text);
    json_decref(profile);
    return status;
}

static bool is_new_host(const ebb_ledger_row_t *rows, int64_t i, int64_t ranks)
{
    for (int64_t k = i - 1; k >= 0 && i - k < 4096; k--)
        if (rows[k].ranks == ranks && strcmp(rows[k].host, rows[i].host) == 0)
            return false;
    return true;
}

/* Mean power of a host, times hosts. */
bool profile_power(const ebb_ledger_row_t *rows, int64_t n, int64_t ranks, profile_size_t *size)
{
    struct {
        double joules, node, measured, seconds;
    } steady = {0}, begun = {0}, *sum; /* apart: the rows with which starts begin */
    int64_t hosts = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!rows[i].host[0] || rows[i].ranks != ranks || rows[i].seconds <= 0)
            continue;
        sum = i == 0 || !rows[i - 1].host[0] || rows[i - 1].ranks != ranks ? &begun : &steady;
        sum->joules += rows[i].job_j;
        sum->node += rows[i].node_j;
        sum->measured += rows[i].measured_j;
        sum->seconds += rows[i].seconds;
        hosts += is_new_host(rows, i, ranks);
    }
    sum = steady.seconds > 0 ? &steady : &begun;
    if (!(sum->seconds > 0))
        return false;
    size->ranks = ranks;
    size->watts = sum->joules / sum->seconds * (double)hosts;
    size->measured = sum->measured > 0.5 * sum->node;
    return true;
}
