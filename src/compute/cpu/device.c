/* The CPU as a device: choice of the instruction set, memory, execution contexts. The device has no state of its own.
 */
#include "compute/cpu/cpu.h"
#include "base/alloc.h"

#include <oneapi/dnnl/dnnl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef __x86_64__
#include <cpuid.h>
#endif

static bool have_avx2(void)
{
#ifdef __x86_64__
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("popcnt") &&
           __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
#else
    return false;
#endif
}

static bool have_avx512(void)
{
#ifdef __x86_64__
    return have_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
#else
    return false;
#endif
}

/* Best first. */
static const kernels_t *kernels_by_level(int level)
{
#ifdef __x86_64__
    if (level == 2)
        return have_avx512() ? &ebb_kernels_avx512 : NULL;
    if (level == 1)
        return have_avx2() ? &ebb_kernels_avx2 : NULL;
#endif
    return level == 0 ? &ebb_kernels_scalar : NULL;
}

ebb_status_t ebb_cpu_kernels(const kernels_t **kernels_p)
{
    static const char *const names[] = {"scalar", "avx2", "avx512"};
    const char *want = getenv("EBB_ISA");
    for (int level = 2; level >= 0; level--) {
        if (want && *want && strcmp(want, names[level]) != 0)
            continue;
        *kernels_p = kernels_by_level(level);
        if (*kernels_p)
            return EBB_OK;
        if (want && *want)
            return EBB_FAIL(EBB_EUNAVAILABLE, "EBB_ISA=%s: this CPU cannot run it; unset EBB_ISA to use what it can",
                            want);
    }
    return EBB_FAIL(EBB_EUSAGE, "EBB_ISA=%s is not an instruction set: scalar, avx2 or avx512", want);
}

static void cpu_brand(char brand[49])
{
    snprintf(brand, 49, "unknown CPU");
#ifdef __x86_64__
    unsigned r[12];
    for (unsigned i = 0; i < 3; i++)
        if (!__get_cpuid(0x80000002u + i, &r[4 * i], &r[4 * i + 1], &r[4 * i + 2], &r[4 * i + 3]))
            return;
    memcpy(brand, r, 48);
    brand[48] = 0;
    size_t blank = strspn(brand, " ");
    memmove(brand, brand + blank, 49 - blank);
    for (size_t n = strlen(brand); n > 0 && brand[n - 1] == ' '; n--)
        brand[n - 1] = 0;
#endif
}

ebb_status_t ebb_cpu_describe(void *dev, char *text, size_t size)
{
    const kernels_t *kernels;
    char brand[49];
    EBB_TRY(ebb_cpu_kernels(&kernels));
    cpu_brand(brand);
    const dnnl_version_t *v = dnnl_version();
    snprintf(text, size, "%s, %s, oneDNN %d.%d.%d", brand, kernels->name, v->major, v->minor, v->patch);
    return EBB_OK;
}

ebb_status_t ebb_cpu_alloc(void *dev, size_t bytes, const char *what, void **ptr_p)
{
    return ebb_alloc(what, bytes, ptr_p);
}

void ebb_cpu_free(void *dev, void *ptr)
{
    ebb_free(ptr);
}

ebb_status_t ebb_cpu_exec_create(void *dev, ebb_exec_t **x_p)
{
    const kernels_t *kernels;
    *x_p = NULL;
    EBB_TRY(ebb_cpu_kernels(&kernels));
    EBB_TRY(EBB_NEW("execution context", x_p));
    (*x_p)->kernels = kernels;
    return EBB_OK;
}

void ebb_cpu_exec_destroy(ebb_exec_t *x)
{
    if (!x)
        return;
    for (int i = 0; i < SLOTS; i++) {
        ebb_free(x->slot[i].idx);
        ebb_free(x->slot[i].val);
    }
    ebb_group_cleanup(&x->group);
    ebb_free(x);
}

ebb_status_t ebb_cpu_open(ebb_backend_t *backend)
{
    const kernels_t *kernels;
    EBB_TRY(ebb_cpu_kernels(&kernels));
    backend->ops = &ebb_cpu_ops;
    backend->dev = NULL;
    return EBB_OK;
}
