/* Energy, and what GPUs did, as text and JSON. */
#include "energy_show.h"

#include <stdio.h>

const char *energy_text(double j, char *text, size_t size)
{
    if (j < 1e3)
        snprintf(text, size, "%.3g J", j);
    else if (j < 3.6e6)
        snprintf(text, size, "%.3g kJ (%.3g Wh)", j / 1e3, j / 3600);
    else
        snprintf(text, size, "%.3g MJ (%.4g kWh)", j / 1e6, j / 3.6e6);
    return text;
}

/* ---- GPUs ---- */

static void set_text(json_t *object, const char *key, const char *text)
{
    if (*text)
        json_object_set_new(object, key, json_string(text));
}

static void set_gauge(json_t *object, const char *key, const ebb_gauge_t *gauge)
{
    if (gauge->seconds > 0)
        json_object_set_new(
            object, key,
            json_pack("{s:f, s:f, s:f}", "mean", gauge->mean, "max", gauge->max, "seconds", gauge->seconds));
}

json_t *energy_gpu_json(const ebb_gpu_use_t *gpu)
{
    json_t *o = json_pack("{s:i}", "index", gpu->index);
    set_text(o, "uuid", gpu->uuid);
    set_text(o, "name", gpu->name);
    if (gpu->metered)
        json_object_set_new(o, "joules", json_real(gpu->joules));
    set_gauge(o, "busy_percent", &gpu->busy);
    set_gauge(o, "memory_busy_percent", &gpu->memory_busy);
    set_gauge(o, "memory_used_bytes", &gpu->memory_used);
    if (gpu->memory_bytes > 0)
        json_object_set_new(o, "memory_bytes", json_real(gpu->memory_bytes));
    return o;
}

static double number(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static void add_percent(ebb_text_t *out, const char *what, const json_t *gauge)
{
    if (json_is_object(gauge))
        ebb_text_add(out, "%s%.1f %% busy, %.0f at most", what, number(gauge, "mean"), number(gauge, "max"));
    else
        ebb_text_add(out, "%sbusy not known", what);
}

static void add_gpu(ebb_text_t *out, const json_t *gpu)
{
    const char *host = json_string_value(json_object_get(gpu, "host"));
    const char *name = json_string_value(json_object_get(gpu, "name"));
    const json_t *used = json_object_get(gpu, "memory_used_bytes");
    char text[64];
    ebb_text_add(out, "GPU %lld%s%s%s%s: ", (long long)json_integer_value(json_object_get(gpu, "index")),
                 host ? " of " : "", host ? host : "", name ? ", " : "", name ? name : "");
    add_percent(out, "", json_object_get(gpu, "busy_percent"));
    add_percent(out, "; memory ", json_object_get(gpu, "memory_busy_percent"));
    if (json_is_object(used))
        ebb_text_add(out, ", %.3g of %.3g GiB used at most", number(used, "max") / (1 << 30),
                     number(gpu, "memory_bytes") / (1 << 30));
    if (json_is_number(json_object_get(gpu, "joules")))
        ebb_text_add(out, "; %s", energy_text(number(gpu, "joules"), text, sizeof text));
}

void energy_gpus_text(const json_t *gpus, const char *indent, ebb_text_t *out)
{
    size_t i;
    json_t *gpu;
    json_array_foreach(gpus, i, gpu)
    {
        ebb_text_add(out, "%s", indent);
        add_gpu(out, gpu);
        ebb_text_add(out, "\n");
    }
}
