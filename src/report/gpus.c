/* What the GPUs of a run did, all starts together. */
#include "report/internal.h"

#include <math.h>
#include <string.h>

static const char *const gauges[] = {"busy_percent", "memory_busy_percent", "memory_used_bytes"};
enum { GAUGES = sizeof gauges / sizeof *gauges };

static double number(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static bool same(const json_t *a, const json_t *b, const char *key)
{
    return json_equal(json_object_get(a, key), json_object_get(b, key));
}

/* Hosts number their cards by the bus, which may be done anew: what counts is the UUID, where there is one. */
static json_t *find(const json_t *list, const json_t *gpu)
{
    size_t i;
    json_t *entry;
    const char *key = json_object_get(gpu, "uuid") ? "uuid" : "index";
    json_array_foreach(list, i, entry)
    {
        if (same(entry, gpu, "host") && same(entry, gpu, key))
            return entry;
    }
    return NULL;
}

/* A mean over the time of both. */
static json_t *join(const json_t *a, const json_t *b)
{
    double x = number(a, "seconds"), y = number(b, "seconds");
    if (!(x + y > 0))
        return json_null();
    return json_pack("{s:f, s:f, s:f}", "mean", (number(a, "mean") * x + number(b, "mean") * y) / (x + y), "max",
                     fmax(number(a, "max"), number(b, "max")), "seconds", x + y);
}

static json_t *unknown(const json_t *gpu)
{
    static const char *const all[] = {"host", "index", "uuid", "name", "joules", "memory_bytes"};
    json_t *entry = json_object();
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        json_t *value = i < 4 ? json_object_get(gpu, all[i]) : NULL;
        json_object_set_new(entry, all[i], value ? json_incref(value) : json_null());
    }
    for (int i = 0; i < GAUGES; i++)
        json_object_set_new(entry, gauges[i], json_null());
    return entry;
}

static void add(json_t *entry, const json_t *gpu)
{
    json_t *joules = json_object_get(gpu, "joules"), *bytes = json_object_get(gpu, "memory_bytes");
    if (json_is_number(joules))
        json_object_set_new(entry, "joules", json_real(number(entry, "joules") + json_number_value(joules)));
    if (json_is_number(bytes))
        json_object_set(entry, "memory_bytes", bytes);
    for (int i = 0; i < GAUGES; i++)
        json_object_set_new(entry, gauges[i], join(json_object_get(entry, gauges[i]), json_object_get(gpu, gauges[i])));
}

json_t *ebb_report_gpus(const ebb_report_t *r)
{
    size_t i;
    json_t *gpu, *list = json_array();
    json_array_foreach(json_object_get(json_object_get(r->run, "energy"), "gpus"), i, gpu)
    {
        json_t *entry = find(list, gpu);
        if (!entry) {
            entry = unknown(gpu);
            json_array_append_new(list, entry);
        }
        add(entry, gpu);
    }
    return list;
}
