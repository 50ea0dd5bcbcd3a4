/* Kernels in two readings: CUDA's, and plain loops on the host (EBB_CUDA_DOUBLE), with which the tests run the very
 * same kernels where there is no GPU.
 *
 * A flat kernel computes element `i` of n on its own: KERNEL name(int64_t n, ...) { EACH(i, n) ... }. A block kernel
 * shares memory within a block and is written in phases: EACH_THREAD(t) { ... } BARRIER; what one phase leaves for the
 * next lies in SHARED arrays. No kernel adds with atomics, so every result is the same each time.
 *
 * On the host a launch only joins the queue of its stream, with its arguments as they are now, and is carried out as
 * late as anything lets it: what is not waited for has not happened. */
#ifndef EBB_COMPUTE_CUDA_LAUNCH_H
#define EBB_COMPUTE_CUDA_LAUNCH_H

#include <stdint.h>

enum { FLAT_THREADS = 256, BLOCK_THREADS = 128 };

#ifdef EBB_CUDA_DOUBLE

#include <functional>
#include <tuple>

#define KERNEL static void
#define DEVICE static inline
#define SHARED static thread_local
struct double_place {
    int64_t index;
};
extern thread_local double_place ebb_double_place;
#define EACH(i, n)  for (int64_t i = 0; i < (n); i++)
#define BLOCK_INDEX (ebb_double_place.index)
#define UNROLL
#define EACH_THREAD(t)                        for (int t = 0; t < BLOCK_THREADS; t++)
#define BARRIER                               ((void)0)
#define LAUNCH(kernel, n, x, ...)             ebb_double_launch((x)->stream, 1, kernel, (int64_t)(n), __VA_ARGS__)
#define LAUNCH_BLOCKS(kernel, blocks, x, ...) ebb_double_launch((x)->stream, (blocks), kernel, __VA_ARGS__)

struct double_stream;
void ebb_double_enqueue(struct double_stream *stream, std::function<void()> work);

template <typename... P, typename... A>
static void ebb_double_launch(struct double_stream *stream, int64_t blocks, void (*kernel)(P...), A... args)
{
    std::tuple<P...> now(args...);
    ebb_double_enqueue(stream, [=] {
        for (int64_t block = 0; block < blocks; block++) {
            ebb_double_place.index = block;
            std::apply(kernel, now);
        }
    });
}

DEVICE void or_bits(uint64_t *word, uint64_t bits)
{
    *word |= bits;
}

DEVICE void keep_least(int64_t *place, int64_t value)
{
    *place = value < *place ? value : *place;
}

#else

#define KERNEL static __global__ void
#define DEVICE static __device__ __forceinline__
#define SHARED __shared__
#define EACH(i, n)                                                                                                     \
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < (n); i += (int64_t)gridDim.x * blockDim.x)
#define BLOCK_INDEX    ((int64_t)blockIdx.x)
/* Of a loop that reads what its index names and adds it up in order: the reads of several rounds are under way at once.
 */
#define UNROLL         _Pragma("unroll 8")
#define EACH_THREAD(t) for (int t = (int)threadIdx.x, once_ = 1; once_; once_ = 0)
#define BARRIER        __syncthreads()
#define LAUNCH(kernel, n, x, ...)                                                                                      \
    do {                                                                                                               \
        int64_t blocks_ = ((n) + FLAT_THREADS - 1) / FLAT_THREADS;                                                     \
        if (blocks_ > 0)                                                                                               \
            kernel<<<(unsigned)(blocks_ < 0x7fffffff ? blocks_ : 0x7fffffff), FLAT_THREADS, 0, (x)->stream>>>(         \
                (n), __VA_ARGS__);                                                                                     \
    } while (0)
#define LAUNCH_BLOCKS(kernel, blocks, x, ...) /* more than a grid takes: none, which LAUNCHED tells */                 \
    do {                                                                                                               \
        if ((blocks) > 0)                                                                                              \
            kernel<<<(unsigned)((blocks) <= 0x7fffffff ? (blocks) : 0), BLOCK_THREADS, 0, (x)->stream>>>(__VA_ARGS__); \
    } while (0)

DEVICE void or_bits(uint64_t *word, uint64_t bits)
{
    atomicOr((unsigned long long *)word, (unsigned long long)bits);
}

DEVICE void keep_least(int64_t *place, int64_t value)
{
    atomicMin((long long *)place, (long long)value);
}

#endif

/* N floats that are read and written at once. */
template <int N> struct alignas(N * sizeof(float)) floats {
    float v[N];
};

/* Whether all of these begin where four floats may be read at once. */
template <typename... P> static inline bool are_aligned(P... ptr)
{
    return ((... | (uintptr_t)ptr) % sizeof(floats<4>)) == 0;
}

/* Sum of one value a thread, in place, along a fixed tree; the result is in part[0]. */
#define BLOCK_SUM(part)                                                                                                \
    for (int half_ = BLOCK_THREADS / 2; half_ > 0; half_ /= 2) {                                                       \
        EACH_THREAD(t)                                                                                                 \
        {                                                                                                              \
            if (t < half_)                                                                                             \
                (part)[t] += (part)[t + half_];                                                                        \
        }                                                                                                              \
        BARRIER;                                                                                                       \
    }

#endif
