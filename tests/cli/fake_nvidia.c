/* Stands for NVIDIA's driver, NCCL and NVML in tests of `ebb doctor` and `ebb meter`: two GPUs, or the error in
 * FAKE_CUDA_ERROR. Their energy is replayed from the files gpu0 and gpu1, of millijoules, in the folder FAKE_NVML; one
 * that is not there is a GPU that is lost. So is their use from busy0 and busy1, of percent of the GPU and of its
 * memory, and used0 and used1, of bytes; one that is not there is what NVML does not support. */
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
int nvmlDeviceGetName(void *device, char *text, unsigned size)
{
    snprintf(text, size, "Test GPU");
    return 0;
}

/* So many numbers of a file, or false. */
static int replay(const char *name, void *device, int n, unsigned long long *number)
{
    char path[512];
    int read = 0;
    snprintf(path, sizeof path, "%s/%s%d", getenv("FAKE_NVML") ? getenv("FAKE_NVML") : ".", name, *(int *)device);
    FILE *f = fopen(path, "r");
    while (f && read < n && fscanf(f, "%llu", &number[read]) == 1)
        read++;
    if (f)
        fclose(f);
    return read == n;
}

int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *millijoules)
{
    return replay("gpu", device, 1, millijoules) ? 0 : 15; /* NVML_ERROR_GPU_IS_LOST */
}
int nvmlDeviceGetUtilizationRates(void *device, unsigned *percent)
{
    unsigned long long number[2];
    if (!replay("busy", device, 2, number))
        return 3; /* NVML_ERROR_NOT_SUPPORTED */
    percent[0] = (unsigned)number[0];
    percent[1] = (unsigned)number[1];
    return 0;
}
int nvmlDeviceGetMemoryInfo(void *device, unsigned long long *bytes)
{
    unsigned long long used;
    if (!replay("used", device, 1, &used))
        return 3;
    bytes[0] = 80ull << 30; /* in all, free, used */
    bytes[1] = bytes[0] - used;
    bytes[2] = used;
    return 0;
}
int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts)
{
    *milliwatts = 71500;
    return 0;
}
