/* Loading NVML: all of its functions or none. */
#include "base/nvml.h"

#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

#define FUNCTION(member, name)                                                                                         \
    {                                                                                                                  \
        name, offsetof(ebb_nvml_t, member)                                                                             \
    }

static const struct {
    const char *name;
    size_t offset;
} functions[] = {
    FUNCTION(init, "nvmlInit_v2"),
    FUNCTION(shutdown, "nvmlShutdown"),
    FUNCTION(count, "nvmlDeviceGetCount_v2"),
    FUNCTION(handle, "nvmlDeviceGetHandleByIndex_v2"),
    FUNCTION(uuid, "nvmlDeviceGetUUID"),
    FUNCTION(name, "nvmlDeviceGetName"),
    FUNCTION(power, "nvmlDeviceGetPowerUsage"),
    FUNCTION(energy, "nvmlDeviceGetTotalEnergyConsumption"),
    FUNCTION(utilization, "nvmlDeviceGetUtilizationRates"),
    FUNCTION(memory, "nvmlDeviceGetMemoryInfo"),
};

bool ebb_nvml_load(ebb_nvml_t *nvml)
{
    *nvml = (ebb_nvml_t){.library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL)};
    for (size_t i = 0; nvml->library && i < sizeof functions / sizeof *functions; i++) {
        void *symbol = dlsym(nvml->library, functions[i].name);
        memcpy((char *)nvml + functions[i].offset, &symbol, sizeof symbol); /* ISO C has no such cast */
        if (!symbol)
            ebb_nvml_unload(nvml);
    }
    return nvml->library != NULL;
}

void ebb_nvml_unload(ebb_nvml_t *nvml)
{
    if (nvml->library)
        dlclose(nvml->library);
    *nvml = (ebb_nvml_t){0};
}
