/* Named, counted, aligned allocations. A header before each block is not needed: sizes are the callers'. */
#include "base/alloc.h"

#include <limits.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_PAGE ((size_t)2 << 20)

static atomic_llong allocations;
static atomic_llong fail_after = -1;

static bool told_to_fail(void)
{
    long long left = atomic_load_explicit(&fail_after, memory_order_relaxed);
    if (left < 0)
        return false;
    return atomic_fetch_sub(&fail_after, 1) == 0;
}

void ebb_alloc_fail_after(int64_t n)
{
    atomic_store(&fail_after, n);
}

int64_t ebb_alloc_count(void)
{
    return atomic_load(&allocations);
}

ebb_status_t ebb_alloc(const char *what, size_t bytes, void **ptr_p)
{
    size_t align = bytes >= 2 * HUGE_PAGE ? HUGE_PAGE : 64;
    size_t rounded = (bytes + align - 1) / align * align;
    *ptr_p = NULL;
    atomic_fetch_add_explicit(&allocations, 1, memory_order_relaxed);
    if (bytes > SIZE_MAX / 2 || told_to_fail())
        return EBB_FAIL(EBB_ENOMEM, "out of memory: %zu bytes for %s", bytes, what);
    void *p = aligned_alloc(align, rounded ? rounded : align);
    if (!p)
        return EBB_FAIL(EBB_ENOMEM, "out of memory: %zu bytes for %s", bytes, what);
    if (align == HUGE_PAGE)
        (void)madvise(p, rounded, MADV_HUGEPAGE);
    /* Pages given back come again as zeros when a thread first touches them: large tables cost nothing at the start. */
    if (align != HUGE_PAGE || madvise(p, rounded, MADV_DONTNEED) != 0)
        memset(p, 0, rounded);
    *ptr_p = p;
    return EBB_OK;
}

ebb_status_t ebb_grow(const char *what, void **ptr_p, int64_t *cap_p, int64_t need, size_t element)
{
    if (need <= *cap_p)
        return EBB_OK;
    int64_t cap = *cap_p > INT64_MAX / 2 ? need : *cap_p * 3 / 2;
    cap = cap > need ? cap : need;
    if ((uint64_t)cap > SIZE_MAX / 2 / element)
        return EBB_FAIL(EBB_ENOMEM, "out of memory: %lld elements for %s", (long long)need, what);
    void *p;
    EBB_TRY(ebb_alloc(what, (size_t)cap * element, &p));
    if (*cap_p > 0)
        memcpy(p, *ptr_p, (size_t)*cap_p * element);
    ebb_free(*ptr_p);
    *ptr_p = p;
    *cap_p = cap;
    return EBB_OK;
}

void ebb_free(void *ptr)
{
    free(ptr);
}

char *ebb_strdup(const char *text)
{
    void *p;
    size_t n = strlen(text) + 1;
    if (ebb_alloc("text", n, &p) != EBB_OK)
        return NULL;
    memcpy(p, text, n);
    return p;
}
