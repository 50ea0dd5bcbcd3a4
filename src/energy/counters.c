/* Finding and reading counters of energy, and with GPUs' what else NVML tells of them. */
#include "energy/counters.h"
#include "base/alloc.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PACKAGE_WATTS 2000.0 /* no processor package, with its memory, draws more */
#define GPU_WATTS     4000.0

/* ---- files ---- */

static bool read_text(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, size - 1) : -1;
    if (fd >= 0)
        close(fd);
    text[n > 0 ? n : 0] = 0;
    text[strcspn(text, "\n")] = 0;
    return n > 0;
}

/* A file of whole microjoules, as joules. */
static bool read_joules(const char *path, double *joules_p)
{
    char text[64], *end;
    if (!read_text(path, text, sizeof text))
        return false;
    unsigned long long value = strtoull(text, &end, 10);
    *joules_p = (double)value * 1e-6;
    return end != text && *end == 0;
}

static ebb_counter_t *add(ebb_counters_t *c, const char *name, double most_watts)
{
    if (c->n == EBB_COUNTERS)
        return NULL;
    ebb_counter_t *counter = &c->counter[c->n++];
    snprintf(counter->name, sizeof counter->name, "%s", name);
    counter->most_watts = most_watts;
    return counter;
}

/* ---- powercap ---- */

/* Packages, and memory that is not part of one; core and uncore are, psys holds all of them. */
static bool counts_apart(const char *name)
{
    return strncmp(name, "package", 7) == 0 || strncmp(name, "dram", 4) == 0;
}

static void add_zone(ebb_counters_t *c, const char *folder)
{
    char path[PATH_MAX], name[48], wrap[64];
    if (snprintf(path, sizeof path, "%s/name", folder) >= (int)sizeof path || !read_text(path, name, sizeof name) ||
        !counts_apart(name))
        return;
    snprintf(path, sizeof path, "%s/energy_uj", folder);
    ebb_counter_t *counter = access(path, F_OK) == 0 ? add(c, name, PACKAGE_WATTS) : NULL;
    if (!counter)
        return;
    memcpy(counter->path, path, sizeof path);
    snprintf(path, sizeof path, "%s/max_energy_range_uj", folder);
    if (read_text(path, wrap, sizeof wrap))
        counter->wrap = strtod(wrap, NULL) * 1e-6;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strverscmp((*a)->d_name, (*b)->d_name);
}

/* The control type's folder lists all zones, also those within others; intel-rapl-mmio shows the same ones again. */
static void find_powercap(ebb_counters_t *c, const char *root)
{
    char folder[PATH_MAX], zone[PATH_MAX];
    struct dirent **entry;
    snprintf(folder, sizeof folder, "%s/sys/class/powercap", root);
    int n = scandir(folder, &entry, NULL, by_name);
    for (int i = 0; i < n; i++) {
        if (strncmp(entry[i]->d_name, "intel-rapl:", 11) == 0 &&
            snprintf(zone, sizeof zone, "%s/%s", folder, entry[i]->d_name) < (int)sizeof zone)
            add_zone(c, zone);
        free(entry[i]);
    }
    if (n >= 0)
        free(entry);
}

/* ---- hwmon ---- */

/* Sockets of AMD's energy driver: energyN_input with label EsocketM; its cores are parts of them. */
static void add_sockets(ebb_counters_t *c, const char *folder)
{
    for (int i = 1; i <= 1024; i++) {
        char path[PATH_MAX + 32], label[48];
        snprintf(path, sizeof path, "%s/energy%d_label", folder, i);
        if (access(path, F_OK) != 0)
            return;
        if (!read_text(path, label, sizeof label) || strncmp(label, "Esocket", 7) != 0)
            continue;
        snprintf(path, sizeof path, "%s/energy%d_input", folder, i);
        ebb_counter_t *counter = strlen(path) < PATH_MAX ? add(c, label, PACKAGE_WATTS) : NULL;
        if (counter)
            snprintf(counter->path, sizeof counter->path, "%.*s", PATH_MAX - 1, path);
    }
}

static void find_hwmon(ebb_counters_t *c, const char *root)
{
    char folder[PATH_MAX], device[PATH_MAX];
    struct dirent **entry;
    snprintf(folder, sizeof folder, "%s/sys/class/hwmon", root);
    int n = scandir(folder, &entry, NULL, by_name);
    for (int i = 0; i < n; i++) {
        if (snprintf(device, sizeof device, "%s/%s", folder, entry[i]->d_name) < (int)sizeof device)
            add_sockets(c, device);
        free(entry[i]);
    }
    if (n >= 0)
        free(entry);
}

/* ---- NVML ---- */

static void find_gpu(ebb_counters_t *c, unsigned index)
{
    char name[16];
    void *device;
    snprintf(name, sizeof name, "GPU %u", index);
    ebb_counter_t *counter = c->nvml.handle(index, &device) == 0 ? add(c, name, GPU_WATTS) : NULL;
    if (!counter)
        return;
    ebb_gpu_use_t *use = &counter->use;
    counter->gpu = device;
    use->index = (int)index;
    if (c->nvml.uuid(device, use->uuid, sizeof use->uuid) != 0)
        use->uuid[0] = 0;
    if (c->nvml.name(device, use->name, sizeof use->name) != 0)
        use->name[0] = 0;
}

static void find_gpus(ebb_counters_t *c)
{
    unsigned count = 0;
    if (ebb_nvml_load(&c->nvml) && c->nvml.init() != 0)
        ebb_nvml_unload(&c->nvml);
    if (!c->nvml.library || c->nvml.count(&count) != 0)
        return;
    for (unsigned i = 0; i < count; i++)
        find_gpu(c, i);
}

/* An entry of the list is an index, or as much of a UUID as tells it from others. */
static bool is_named(const ebb_counter_t *counter, const char *gpus)
{
    char *end;
    for (const char *s = gpus; *s; s += *s == ',') {
        size_t n = strcspn(s, ",");
        long index = strtol(s, &end, 10);
        if (end == s + n && n > 0 ? index == counter->use.index : n > 4 && strncmp(s, counter->use.uuid, n) == 0)
            return true;
        s += n;
    }
    return false;
}

void ebb_counters_choose(ebb_counters_t *c, const char *gpus)
{
    bool all = !gpus || strstr(gpus, "MIG-");
    for (int i = 0; i < c->n; i++)
        c->counter[i].others = c->counter[i].gpu && !all && !is_named(&c->counter[i], gpus);
}

static bool read_gpu(const ebb_counters_t *c, void *device, double *joules_p)
{
    unsigned long long millijoules = 0;
    bool good = c->nvml.energy(device, &millijoules) == 0;
    *joules_p = (double)millijoules * 1e-3;
    return good;
}

static void gauge(ebb_gauge_t *g, double value, double seconds)
{
    if (seconds <= 0)
        return;
    g->max = g->seconds > 0 && g->max > value ? g->max : value;
    g->seconds += seconds;
    g->mean += (value - g->mean) * (seconds / g->seconds);
}

/* What it was like since the last reading; what NVML cannot tell, as of a GPU that MIG has split, leaves no figure. */
static void look_at_use(const ebb_counters_t *c, ebb_counter_t *counter, double seconds)
{
    ebb_nvml_utilization_t percent;
    ebb_nvml_memory_t bytes;
    ebb_gpu_use_t *use = &counter->use;
    if (c->nvml.utilization(counter->gpu, &percent) == 0) {
        gauge(&use->busy, percent.gpu, seconds);
        gauge(&use->memory_busy, percent.memory, seconds);
    }
    if (c->nvml.memory(counter->gpu, &bytes) == 0) {
        gauge(&use->memory_used, (double)bytes.used, seconds);
        use->memory_bytes = (double)bytes.total;
    }
}

/* ---- all of them ---- */

static bool read_counter(const ebb_counters_t *c, const ebb_counter_t *counter, double *joules_p)
{
    return counter->gpu ? read_gpu(c, counter->gpu, joules_p) : read_joules(counter->path, joules_p);
}

ebb_status_t ebb_counters_open(const char *root, ebb_counters_t *c)
{
    *c = (ebb_counters_t){0};
    EBB_TRY(EBB_NEW_ARRAY("energy counters", EBB_COUNTERS, &c->counter));
    find_powercap(c, root ? root : "");
    if (c->n == 0)
        find_hwmon(c, root ? root : "");
    find_gpus(c);
    for (int i = 0; i < c->n; i++)
        c->counter[i].read = read_counter(c, &c->counter[i], &c->counter[i].last);
    return EBB_OK;
}

/* What a counter has risen by; false: nobody knows. */
static bool rise(ebb_counter_t *counter, double now, double seconds, double *joules_p)
{
    double delta = now - counter->last;
    if (delta < 0 && counter->wrap > 0)
        delta += counter->wrap;
    *joules_p = delta;
    return delta >= 0 && delta <= counter->most_watts * (seconds > 0.1 ? seconds : 0.1);
}

ebb_reading_t ebb_counters_read(ebb_counters_t *c, double seconds)
{
    ebb_reading_t r = {0};
    for (int i = 0; i < c->n; i++) {
        ebb_counter_t *counter = &c->counter[i];
        double now = 0, joules = 0;
        bool there = read_counter(c, counter, &now);
        bool known = there && counter->read && rise(counter, now, seconds, &joules);
        counter->read = there;
        counter->last = now;
        r.cpus += !counter->gpu;
        r.lost += !known;
        r.cpu_lost += !known && !counter->gpu;
        if (known)
            *(counter->gpu ? &r.gpu_j : &r.cpu_j) += joules;
        if (!counter->gpu || counter->others)
            continue;
        if (known) {
            r.own_gpu_j += joules;
            counter->use.joules += joules;
            counter->use.metered = true;
        }
        look_at_use(c, counter, seconds);
    }
    return r;
}

int ebb_counters_gpus(const ebb_counters_t *c, ebb_gpu_use_t gpus[EBB_METER_GPUS])
{
    int n = 0;
    for (int i = 0; i < c->n; i++)
        if (c->counter[i].gpu && !c->counter[i].others)
            gpus[n++] = c->counter[i].use;
    return n;
}

void ebb_counters_name(const ebb_counters_t *c, char *text, size_t size)
{
    size_t n = 0;
    *text = 0;
    for (int i = 0; i < c->n && n < size; i++)
        n += (size_t)snprintf(text + n, size - n, "%s%s", i == 0 ? "" : ", ", c->counter[i].name);
}

void ebb_counters_close(ebb_counters_t *c)
{
    if (c->nvml.library)
        c->nvml.shutdown();
    ebb_nvml_unload(&c->nvml);
    ebb_free(c->counter);
    *c = (ebb_counters_t){0};
}
