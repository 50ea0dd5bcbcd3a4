/* ebb doctor: GPUs, their libraries, and energy counters. NVIDIA's libraries are loaded at run time, as Ebb itself
 * does, so that one installation serves machines with and without them; the few signatures needed are declared here. */
#include "doctor.h"
#include "base/nvml.h"
#include "base/plugin.h"

#include <ebb/compute.h>

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#define POWERCAP "/sys/class/powercap"

/* A function of a loaded library; assigned through memory because ISO C has no such cast. */
static bool load(void *library, const char *name, void *function_p)
{
    void *symbol = dlsym(library, name);
    memcpy(function_p, &symbol, sizeof symbol);
    return symbol != NULL;
}

/* ---- CUDA driver ---- */

typedef struct cuda {
    int (*init)(unsigned), (*version)(int *), (*count)(int *), (*name)(char *, int, int), (*memory)(size_t *, int);
    int (*error)(int, const char **);
} cuda_t;

static bool load_cuda(void *library, cuda_t *cuda)
{
    return load(library, "cuInit", &cuda->init) && load(library, "cuDriverGetVersion", &cuda->version) &&
           load(library, "cuDeviceGetCount", &cuda->count) && load(library, "cuDeviceGetName", &cuda->name) &&
           load(library, "cuDeviceTotalMem_v2", &cuda->memory) && load(library, "cuGetErrorString", &cuda->error);
}

/* It is not there, or there and of no use with these libraries and this driver. */
static void backend_failed(doctor_t *d)
{
    char path[PATH_MAX];
    ebb_error_t why = *ebb_error();
    ebb_error_clear();
    if (ebb_plugin_find("backend", "cuda", path, sizeof path) == EBB_OK)
        doctor_cure(doctor_add(d, "cuda backend", DOCTOR_UNUSABLE, "%.390s", why.message),
                    "a library that is not found: set LD_LIBRARY_PATH; until then Ebb trains on the CPU");
    else
        doctor_cure(doctor_add(d, "cuda backend", DOCTOR_MISSING, "%.390s", why.message),
                    "build Ebb with the CUDA toolkit (nvcc on PATH, EBB_CUDA=ON); until then it trains on the CPU");
    ebb_error_clear();
}

static void describe_cuda(doctor_t *d, const cuda_t *cuda)
{
    int version = 0, count = 0, code = cuda->init(0);
    const char *text = NULL;
    if (code == 0)
        code = cuda->count(&count);
    if (code != 0 || count == 0) {
        cuda->error(code, &text);
        doctor_cure(
            doctor_add(d, "cuda", DOCTOR_UNUSABLE, "driver is here, but no device: %s", text ? text : "unknown"),
            "see what nvidia-smi says; a container must be started with its GPUs (--gpus all, --nv)");
        return;
    }
    char name[100] = "GPU";
    ebb_backend_t *backend;
    size_t memory = 0;
    cuda->version(&version);
    cuda->name(name, sizeof name, 0);
    cuda->memory(&memory, 0);
    doctor_add(d, "cuda", DOCTOR_OK, "driver for CUDA %d.%d, %d x %s with %.0f GiB", version / 1000,
               version % 1000 / 10, count, name, (double)memory / (1 << 30));
    if (ebb_backend_open("cuda", 0, &backend) == EBB_OK) {
        doctor_add(d, "cuda backend", DOCTOR_OK, "opened");
        ebb_backend_close(backend);
        return;
    }
    backend_failed(d);
}

static void check_cuda(doctor_t *d)
{
    cuda_t cuda;
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        doctor_cure(doctor_add(d, "cuda", DOCTOR_MISSING, "no libcuda.so.1"),
                    "only for GPUs: install NVIDIA's driver; without it Ebb trains on the CPU");
        return;
    }
    if (load_cuda(library, &cuda))
        describe_cuda(d, &cuda);
    else
        doctor_cure(doctor_add(d, "cuda", DOCTOR_UNUSABLE, "libcuda.so.1 is too old"), "install a newer NVIDIA driver");
    dlclose(library);
}

/* ---- NCCL ---- */

static void check_nccl(doctor_t *d)
{
    int (*get_version)(int *), version = 0;
    void *library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        doctor_cure(doctor_add(d, "nccl", DOCTOR_MISSING, "no libnccl.so.2"),
                    "only for several GPUs: install libnccl2 from NVIDIA's repository, or set LD_LIBRARY_PATH");
        return;
    }
    if (load(library, "ncclGetVersion", &get_version) && get_version(&version) == 0)
        doctor_add(d, "nccl", DOCTOR_OK, "NCCL %d.%d.%d", version / 10000, version / 100 % 100, version % 100);
    else
        doctor_cure(doctor_add(d, "nccl", DOCTOR_UNUSABLE, "libnccl.so.2 does not tell its version"),
                    "install libnccl2 anew");
    dlclose(library);
}

/* ---- energy ---- */

static void describe_nvml(doctor_t *d, const ebb_nvml_t *nvml)
{
    unsigned count = 0, milliwatts = 0;
    void *device = NULL;
    int code = nvml->init();
    bool initialized = code == 0;
    if (code == 0)
        code = nvml->count(&count);
    if (code == 0 && count > 0)
        code = nvml->handle(0, &device);
    if (code == 0 && device)
        code = nvml->power(device, &milliwatts);
    if (code == 0 && device)
        doctor_add(d, "nvml", DOCTOR_OK, "power of %u GPU%s readable, the first draws %.1f W", count,
                   count == 1 ? "" : "s", milliwatts * 1e-3);
    else
        doctor_cure(doctor_add(d, "nvml", DOCTOR_UNUSABLE, "no GPU's power can be read (NVML code %d)", code),
                    "the energy of GPUs will be estimated and marked so; see what nvidia-smi says");
    if (initialized)
        nvml->shutdown();
}

static void check_nvml(doctor_t *d)
{
    ebb_nvml_t nvml;
    if (ebb_nvml_load(&nvml))
        describe_nvml(d, &nvml);
    else
        doctor_cure(doctor_add(d, "nvml", DOCTOR_MISSING, "no libnvidia-ml.so.1"),
                    "only for the energy and utilisation of GPUs: it comes with NVIDIA's driver");
    ebb_nvml_unload(&nvml);
}

/* Can the counter of a zone be read? errno tells why not. */
static bool read_zone(const char *zone)
{
    char path[512], text[64];
    snprintf(path, sizeof path, POWERCAP "/%.200s/energy_uj", zone);
    FILE *f = fopen(path, "re");
    bool ok = f && fgets(text, sizeof text, f);
    int saved = errno;
    if (f)
        fclose(f);
    errno = saved;
    return ok;
}

static void check_rapl(doctor_t *d)
{
    DIR *dir = opendir(POWERCAP);
    int zones = 0, readable = 0, reason = 0;
    for (struct dirent *e; dir && (e = readdir(dir));) {
        if (strncmp(e->d_name, "intel-rapl:", 11) != 0)
            continue;
        zones++;
        if (read_zone(e->d_name))
            readable++;
        else
            reason = errno;
    }
    if (dir)
        closedir(dir);
    if (zones == 0)
        doctor_cure(
            doctor_add(d, "rapl", DOCTOR_MISSING, "no energy counters in " POWERCAP ", as in most virtual machines"),
            "energy will be estimated and marked so; on bare metal: modprobe intel_rapl_msr");
    else if (readable == 0)
        doctor_cure(
            doctor_add(d, "rapl", DOCTOR_UNUSABLE, "%d energy counters, not readable: %s", zones, strerror(reason)),
            "sudo chmod a+r " POWERCAP "/intel-rapl:*/energy_uj (until the next boot; a udev rule keeps it)");
    else
        doctor_add(d, "rapl", DOCTOR_OK, "%d of %d energy counters readable", readable, zones);
}

void doctor_check_devices(doctor_t *d)
{
    check_cuda(d);
    check_nccl(d);
    check_nvml(d);
    check_rapl(d);
}
