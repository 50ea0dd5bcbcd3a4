/* Stands for NVIDIA's driver, NCCL and NVML in tests of `ebb doctor` and `ebb meter`: two GPUs, or the error in
 * FAKE_CUDA_ERROR. Their energy is replayed from the files gpu0 and gpu1, of millijoules, in the folder FAKE_NVML; one
 * that is not there is a GPU that is lost. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int cuInit(unsigned flags)
{
    const char *error = getenv("FAKE_CUDA_ERROR");
    return error ? atoi(error) : 0;
}
int cuDriverGetVersion(int *version)
{
    *version = 12040;
    return 0;
}
int cuDeviceGetCount(int *count)
{
    *count = 2;
    return 0;
}
int cuDeviceGetName(char *name, int size, int device)
{
    strncpy(name, "Test GPU", (size_t)size);
    return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device)
{
    *bytes = (size_t)80 << 30;
    return 0;
}
int cuGetErrorString(int code, const char **text)
{
    *text = "no CUDA-capable device is detected";
    return 0;
}
int ncclGetVersion(int *version)
{
    *version = 21805;
    return 0;
}
int nvmlInit_v2(void)
{
    return 0;
}
int nvmlShutdown(void)
{
    return 0;
}
int nvmlDeviceGetCount_v2(unsigned *count)
{
    *count = 2;
    return 0;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device)
{
    static int gpu[2] = {0, 1};
    *device = &gpu[index];
    return 0;
}
int nvmlDeviceGetUUID(void *device, char *text, unsigned size)
{
    snprintf(text, size, "GPU-%d0000000-fake", *(int *)device);
    return 0;
}
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *millijoules)
{
    char path[512];
    snprintf(path, sizeof path, "%s/gpu%d", getenv("FAKE_NVML") ? getenv("FAKE_NVML") : ".", *(int *)device);
    FILE *f = fopen(path, "r");
    int read = f ? fscanf(f, "%llu", millijoules) : 0;
    if (f)
        fclose(f);
    return read == 1 ? 0 : 15; /* NVML_ERROR_GPU_IS_LOST */
}
int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts)
{
    *milliwatts = 71500;
    return 0;
}
