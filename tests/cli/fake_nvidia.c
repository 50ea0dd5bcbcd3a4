/* Stands for NVIDIA's driver, NCCL and NVML in tests of `ebb doctor`: two GPUs, or the error in FAKE_CUDA_ERROR. */
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
    static int gpu;
    *device = &gpu;
    return 0;
}
int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts)
{
    *milliwatts = 71500;
    return 0;
}
