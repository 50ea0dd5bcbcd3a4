/* The double's runtime, sorting and running sums. Device memory is moved by loops of our own: the C library's
 * functions are the sanitiser's, which holds them to the poison. For tests of errors: EBB_DOUBLE_GPUS sets how many
 * GPUs there seem to be (1; -1: the driver is too old; -2: there is none), EBB_DOUBLE_BYTES how much memory each has (1
 * GiB), EBB_DOUBLE_KIND their name; EBB_DOUBLE_LOST=N: the GPU falls off when a stream is waited for the N-th time. For
 * tests of what streams wait for: EBB_DOUBLE_SHUFFLE=SEED lets them go on by chance, else they do when somebody waits.
 * For tests of how much the host waits and asks for: EBB_DOUBLE_COUNTS names a file to which a line with what was
 * counted is added at the end.
 */
#include "compute/cuda/cuda.h"
#include "counts.h"
#include "gate.h"

#include <atomic>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <thread>
#include <vector>

thread_local double_place ebb_double_place;

extern "C" {
void __asan_poison_memory_region(const volatile void *ptr, size_t bytes) __attribute__((weak));
void __asan_unpoison_memory_region(const volatile void *ptr, size_t bytes) __attribute__((weak));
}

static std::atomic<size_t> in_use;
static std::atomic<int64_t> enqueued, allocations, graphs;
std::atomic<int64_t> ebb_double_products, ebb_double_heuristics;
static thread_local cudaError_t last = cudaSuccess;

static cudaError_t note(cudaError_t code)
{
    if (code != cudaSuccess)
        last = code;
    return code;
}

static size_t setting(const char *name, size_t otherwise)
{
    const char *text = getenv(name);
    return text && *text ? (size_t)strtoull(text, NULL, 10) : otherwise;
}

/* ---- what tests count ---- */

static std::atomic<size_t> host_waits; /* for a stream, an event, the device, or a copy to memory that is not pinned */

__attribute__((destructor)) static void tell_counts(void)
{
    const char *path = getenv("EBB_DOUBLE_COUNTS");
    FILE *f = path ? fopen(path, "a") : NULL;
    if (!f)
        return;
    fprintf(f, "{\"waits\": %zu, \"enqueued\": %lld, \"graphs\": %lld}\n", host_waits.load(),
            (long long)enqueued.load(), (long long)graphs.load());
    fclose(f);
}

static size_t capacity(void)
{
    return setting("EBB_DOUBLE_BYTES", (size_t)1 << 30);
}

const char *cudaGetErrorString(cudaError_t code)
{
    return code == cudaErrorMemoryAllocation ? "out of memory" : "an error of the double";
}

const char *cudaGetErrorName(cudaError_t code)
{
    return code == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "cudaErrorOfTheDouble";
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t code = last;
    last = cudaSuccess;
    return code;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    const char *old = getenv("EBB_DOUBLE_GPUS");
    *count = old && *old == '-' ? 0 : (int)setting("EBB_DOUBLE_GPUS", 1);
    if (old && *old == '-')
        return cudaErrorInsufficientDriver;
    return *count > 0 ? cudaSuccess : cudaErrorNoDevice; /* does not stick */
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device)
{
    memset(properties, 0, sizeof *properties);
    const char *kind = getenv("EBB_DOUBLE_KIND");
    snprintf(properties->name, sizeof properties->name, "%s", kind ? kind : "double of a GPU");
    properties->major = 9;
    properties->uuid.bytes[0] = (char)device;
    properties->totalGlobalMem = capacity();
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    int count;
    return note(cudaGetDeviceCount(&count) == cudaSuccess && device >= 0 && device < count ? cudaSuccess
                                                                                           : cudaErrorInvalidDevice);
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    const char *gpus = getenv("EBB_DOUBLE_GPUS");
    *version = gpus && strcmp(gpus, "-2") == 0 ? 0 : gpus && *gpus == '-' ? CUDART_VERSION - 1000 : CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    const char *gpus = getenv("EBB_DOUBLE_GPUS");
    *version = gpus && strcmp(gpus, "-2") == 0 ? 0 : gpus && *gpus == '-' ? CUDART_VERSION - 1000 : CUDART_VERSION;
    return cudaSuccess;
}

ebb_double_counts_t ebb_double_counts(void)
{
    return ebb_double_counts_t{enqueued, ebb_double_products, ebb_double_heuristics, allocations, graphs};
}

/* ---- queues ---- */

typedef struct queue queue_t;

typedef struct item {
    std::function<bool()> pass;     /* false: not yet, ask again */
    std::shared_ptr<queue_t> after; /* or wait until `end` items of this one are done */
    size_t end;
} item_t;

struct queue {
    std::deque<item_t> todo;
    std::atomic<size_t> done{0}; /* so far */
};

/* What a stream was given while it was captured. */
typedef struct capture {
    std::vector<std::function<void()>> work;
    bool spoilt = false;
    cudaStreamCaptureMode mode;
    std::thread::id thread;
} capture_t;

/* Who waits for what was in a stream may outlive it. */
struct double_stream {
    std::shared_ptr<queue_t> queue = std::make_shared<queue_t>();
    std::shared_ptr<capture_t> capture; /* under way */
};

static std::recursive_mutex lock; /* of all that follows, also while work is carried out */
static std::list<cudaStream_t> streams;
static std::map<char *, size_t> pinned;

/* Carry out what can be now; whether all was. */
static bool go_on_until(queue_t *queue, size_t end)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    while (queue->done < end) {
        item_t &item = queue->todo.front();
        if (item.after ? !go_on_until(item.after.get(), item.end) : !item.pass())
            return false;
        queue->todo.pop_front();
        queue->done++;
    }
    return true;
}

/* With EBB_DOUBLE_SHUFFLE, streams go on by chance, some items of one at a time. By the main thread alone, whose work
 * may depend on other processes. */
static void shuffle(void)
{
    static const std::thread::id main_thread = std::this_thread::get_id();
    static uint64_t chance = setting("EBB_DOUBLE_SHUFFLE", 0) * 0x9E3779B97F4A7C15u;
    if (chance == 0 || std::this_thread::get_id() != main_thread)
        return;
    std::lock_guard<std::recursive_mutex> hold(lock);
    chance ^= chance << 13, chance ^= chance >> 7, chance ^= chance << 17;
    auto stream = std::next(streams.begin(), (long)(chance >> 8) % (long)streams.size());
    queue_t *queue = (*stream)->queue.get();
    size_t most = chance % 4 == 0 ? 0 : (chance >> 40) % 16, all = queue->todo.size();
    (void)go_on_until(queue, queue->done + (most < all ? most : all));
}

void ebb_double_enqueue(cudaStream_t stream, std::function<void()> work)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    enqueued++;
    shuffle();
    if (!stream->capture)
        stream->queue->todo.push_back({[work = std::move(work)] {
                                           work();
                                           return true;
                                       },
                                       NULL, 0});
    else if (stream->capture->spoilt)
        last = cudaErrorStreamCaptureInvalidated;
    else
        stream->capture->work.push_back(std::move(work));
}

void ebb_double_gate(cudaStream_t stream, bool (*pass)(void *), void *state)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    stream->queue->todo.push_back({[=] { return pass(state); }, NULL, 0});
}

bool ebb_double_awaits(cudaStream_t stream)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    for (const item_t &item : stream->queue->todo)
        if (item.after && item.after->done < item.end)
            return true;
    return false;
}

/* Something that a stream may not do while it is captured, if it is. */
static cudaError_t in_capture(cudaStream_t stream, cudaError_t code)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    if (!stream->capture)
        return cudaSuccess;
    stream->capture->spoilt = true;
    return note(code);
}

/* Something that may not be done while a stream is captured: any, or by this thread or in global mode. */
static cudaError_t in_captures(bool any)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    cudaError_t code = cudaSuccess;
    for (cudaStream_t stream : streams)
        if (stream->capture && (any || stream->capture->mode == cudaStreamCaptureModeGlobal ||
                                stream->capture->thread == std::this_thread::get_id()))
            code = in_capture(stream, cudaErrorStreamCaptureUnsupported);
    return code;
}

#define NOT_IN_CAPTURE(stream)                                                                                         \
    do {                                                                                                               \
        cudaError_t code_ = in_capture(stream, cudaErrorStreamCaptureUnsupported);                                     \
        if (code_ != cudaSuccess)                                                                                      \
            return code_;                                                                                              \
    } while (0)
#define NOT_IN_CAPTURES(any)                                                                                           \
    do {                                                                                                               \
        cudaError_t code_ = in_captures(any);                                                                          \
        if (code_ != cudaSuccess)                                                                                      \
            return code_;                                                                                              \
    } while (0)

static bool go_on(cudaStream_t stream)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    return go_on_until(stream->queue.get(), stream->queue->done + stream->queue->todo.size());
}

static void carry_out_until(queue_t *queue, size_t end)
{
    while (!go_on_until(queue, end))
        std::this_thread::yield();
}

static void carry_out(cudaStream_t stream)
{
    while (!go_on(stream))
        std::this_thread::yield();
}

static void carry_out_all(void)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    for (cudaStream_t stream : streams)
        carry_out(stream);
}

cudaError_t cudaDeviceSynchronize(void)
{
    NOT_IN_CAPTURES(true);
    host_waits++;
    carry_out_all();
    return cudaSuccess;
}

/* ---- memory: a header before it holds its size ---- */

enum { HEADER = 256 };

cudaError_t cudaMalloc(void **ptr, size_t bytes)
{
    *ptr = NULL;
    NOT_IN_CAPTURES(false);
    allocations++;
    if (in_use.fetch_add(bytes) + bytes > capacity()) {
        in_use.fetch_sub(bytes);
        return note(cudaErrorMemoryAllocation);
    }
    char *block = (char *)aligned_alloc(HEADER, HEADER + (bytes + HEADER - 1) / HEADER * HEADER);
    if (!block)
        abort();
    memcpy(block, &bytes, sizeof bytes);
    memset(block + HEADER, 0xfb, bytes); /* a GPU's memory is not zero either: NaN-like floats */
    if (__asan_poison_memory_region)
        __asan_poison_memory_region(block + HEADER, bytes);
    *ptr = block + HEADER;
    return cudaSuccess;
}

cudaError_t cudaFree(void *ptr)
{
    if (!ptr)
        return cudaSuccess;
    NOT_IN_CAPTURES(false);
    carry_out_all();
    char *block = (char *)ptr - HEADER;
    size_t bytes;
    memcpy(&bytes, block, sizeof bytes);
    if (__asan_unpoison_memory_region)
        __asan_unpoison_memory_region(ptr, bytes);
    in_use.fetch_sub(bytes);
    free(block);
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **ptr, size_t bytes)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    *ptr = NULL;
    NOT_IN_CAPTURES(false);
    *ptr = calloc(1, bytes);
    if (*ptr)
        pinned[(char *)*ptr] = bytes;
    return note(*ptr ? cudaSuccess : cudaErrorMemoryAllocation);
}

cudaError_t cudaFreeHost(void *ptr)
{
    NOT_IN_CAPTURES(false);
    carry_out_all();
    std::lock_guard<std::recursive_mutex> hold(lock);
    pinned.erase((char *)ptr);
    free(ptr);
    return cudaSuccess;
}

static bool is_pinned(const void *ptr)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    auto after = pinned.upper_bound((char *)ptr);
    return after != pinned.begin() && (char *)ptr < std::prev(after)->first + std::prev(after)->second;
}

cudaError_t cudaMemGetInfo(size_t *spare, size_t *all)
{
    *all = capacity();
    *spare = *all - in_use.load();
    return cudaSuccess;
}

static void fill(void *ptr, int value, size_t bytes)
{
    for (volatile char *p = (volatile char *)ptr; bytes > 0; bytes--)
        *p++ = (char)value;
}

static void move(void *dst, const void *src, size_t bytes)
{
    volatile char *to = (volatile char *)dst;
    for (const volatile char *from = (const volatile char *)src; bytes > 0; bytes--)
        *to++ = *from++;
}

cudaError_t cudaMemset(void *ptr, int value, size_t bytes)
{
    NOT_IN_CAPTURES(false);
    fill(ptr, value, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *ptr, int value, size_t bytes, cudaStream_t stream)
{
    ebb_double_enqueue(stream, [=] { fill(ptr, value, bytes); });
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream)
{
    if ((kind == cudaMemcpyHostToDevice && !is_pinned(src)) || (kind == cudaMemcpyDeviceToHost && !is_pinned(dst)))
        NOT_IN_CAPTURE(stream);
    if (kind == cudaMemcpyHostToDevice && !is_pinned(src)) {
        std::vector<char> now((const char *)src, (const char *)src + bytes);
        ebb_double_enqueue(stream, [=] { move(dst, now.data(), bytes); });
        return cudaSuccess;
    }
    ebb_double_enqueue(stream, [=] { move(dst, src, bytes); });
    if (kind == cudaMemcpyDeviceToHost && !is_pinned(dst)) {
        host_waits++;
        carry_out(stream);
    }
    return cudaSuccess;
}

/* ---- streams and events ---- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    *stream = new double_stream();
    streams.push_back(*stream);
    return cudaSuccess;
}

/* A wait for the device, at which it may turn out to be lost. */
static cudaError_t waited(void)
{
    static std::atomic<size_t> waits;
    size_t fatal = setting("EBB_DOUBLE_LOST", 0);
    host_waits++;
    return fatal > 0 && waits.fetch_add(1) + 1 >= fatal ? note(cudaErrorECCUncorrectable) : cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    NOT_IN_CAPTURE(stream);
    carry_out(stream);
    return waited();
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    NOT_IN_CAPTURE(stream);
    return go_on(stream) ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    carry_out(stream);
    std::lock_guard<std::recursive_mutex> hold(lock);
    streams.remove(stream);
    delete stream;
    return cudaSuccess;
}

struct double_event {
    std::shared_ptr<queue_t> queue;     /* none: not recorded */
    size_t end;                         /* of its work when it was */
    std::shared_ptr<capture_t> capture; /* recorded while its stream was captured */
};

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    *event = new double_event();
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    *event = stream->capture ? double_event{NULL, 0, stream->capture}
                             : double_event{stream->queue, stream->queue->done + stream->queue->todo.size(), NULL};
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    double_event now = *event;
    if (stream->capture && (now.queue || now.capture) && now.capture != stream->capture)
        return in_capture(stream, cudaErrorStreamCaptureIsolation);
    if (!stream->capture && now.capture) /* the stream would join the capture: the backend has no need of that */
        return note(cudaErrorStreamCaptureUnsupported);
    if (now.queue) {
        enqueued++;
        stream->queue->todo.push_back({NULL, now.queue, now.end});
    }
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    double_event now;
    {
        std::lock_guard<std::recursive_mutex> hold(lock);
        now = *event;
    }
    if (now.queue)
        carry_out_until(now.queue.get(), now.end);
    return waited();
}

/* ---- graphs ---- */

struct double_graph {
    std::shared_ptr<capture_t> capture;
};

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    if (stream->capture)
        return in_capture(stream, cudaErrorStreamCaptureUnsupported);
    stream->capture = std::make_shared<capture_t>();
    stream->capture->mode = mode;
    stream->capture->thread = std::this_thread::get_id();
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    std::lock_guard<std::recursive_mutex> hold(lock);
    std::shared_ptr<capture_t> capture = stream->capture;
    *graph = NULL;
    if (!capture)
        return note(cudaErrorInvalidValue);
    if (capture->thread != std::this_thread::get_id())
        return in_capture(stream, cudaErrorStreamCaptureWrongThread);
    stream->capture = NULL;
    if (capture->spoilt)
        return note(cudaErrorStreamCaptureInvalidated);
    *graph = new double_graph{capture};
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags)
{
    *exec = new double_graph{graph->capture};
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    NOT_IN_CAPTURE(stream);
    std::shared_ptr<capture_t> capture = exec->capture;
    graphs++;
    ebb_double_enqueue(stream, [=] {
        for (const std::function<void()> &work : capture->work)
            work();
    });
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    delete exec;
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    delete event;
    return cudaSuccess;
}

/* ---- sorting and running sums ---- */

static void sort(int64_t n, int bits, const uint32_t *key, uint32_t *key_sorted, const int32_t *value,
                 int32_t *value_sorted)
{
    enum { DIGIT = 1 << 8 };
    std::vector<uint32_t> k((size_t)n), k2((size_t)n);
    std::vector<int32_t> v((size_t)n), v2((size_t)n);
    for (size_t i = 0; i < (size_t)n; i++) {
        k[i] = key[i];
        v[i] = value[i];
    }
    for (int shift = 0; shift < bits; shift += 8) {
        size_t at[DIGIT + 1] = {0};
        for (uint32_t one : k)
            at[(one >> shift) % DIGIT + 1]++;
        for (int d = 0; d < DIGIT; d++)
            at[d + 1] += at[d];
        for (size_t i = 0; i < k.size(); i++) {
            size_t to = at[(k[i] >> shift) % DIGIT]++;
            k2[to] = k[i];
            v2[to] = v[i];
        }
        k.swap(k2);
        v.swap(v2);
    }
    for (size_t i = 0; i < (size_t)n; i++) {
        key_sorted[i] = k[i];
        value_sorted[i] = v[i];
    }
}

ebb_status_t ebb_cuda_sort(ebb_exec_t *x, int64_t n, int bits, const uint32_t *key, uint32_t *key_sorted,
                           const int32_t *value, int32_t *value_sorted)
{
    ebb_double_enqueue(x->stream, [=] { sort(n, bits, key, key_sorted, value, value_sorted); });
    return EBB_OK;
}

ebb_status_t ebb_cuda_running_sum(ebb_exec_t *x, int64_t n, const int32_t *in, int32_t *out)
{
    ebb_double_enqueue(x->stream, [=] {
        int32_t sum = 0;
        for (int64_t i = 0; i < n; i++)
            out[i] = sum += in[i];
    });
    return EBB_OK;
}
