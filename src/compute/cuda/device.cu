/* The GPU as a device: opening it, memory, contexts, and the table of operations. */
#include "compute/cuda/cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* After these nothing works on the GPU any more in this process. */
static bool is_lost(cudaError_t code)
{
    switch (code) {
    case cudaErrorDevicesUnavailable:
    case cudaErrorECCUncorrectable:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorUnknown: return true;
    default: return false;
    }
}

ebb_status_t ebb_cuda_failed(cudaError_t code, const char *what)
{
    if (code == cudaErrorMemoryAllocation) {
        size_t spare = 0, all = 0;
        (void)cudaGetLastError(); /* this one does not stick */
        (void)cudaMemGetInfo(&spare, &all);
        return EBB_FAIL(EBB_ENOMEM, "%s: out of GPU memory (%.1f of %.1f GiB are free): use a smaller batch or model",
                        what, (double)spare / (1 << 30), (double)all / (1 << 30));
    }
    return EBB_FAIL(EBB_EUNAVAILABLE, "%s: CUDA says %s (%s)%s", what, cudaGetErrorString(code), cudaGetErrorName(code),
                    is_lost(code) ? "; the GPU is lost to this process: see `dmesg | grep Xid`" : "");
}

ebb_status_t ebb_cuda_use_device(const cuda_device_t *device)
{
    static thread_local int current = -1;
    if (current == device->number)
        return EBB_OK;
    CUDA_TRY(cudaSetDevice(device->number), "choosing a GPU");
    current = device->number;
    return EBB_OK;
}

ebb_status_t ebb_cuda_use(const ebb_exec_t *x)
{
    return ebb_cuda_use_device(x->device);
}

ebb_status_t ebb_cuda_describe(void *dev, char *text, size_t size)
{
    const cuda_device_t *device = (const cuda_device_t *)dev;
    int runtime = 0, driver = 0;
    CUDA_TRY(cudaRuntimeGetVersion(&runtime), "asking for CUDA's version");
    CUDA_TRY(cudaDriverGetVersion(&driver), "asking for the driver's version");
    snprintf(text, size, "%s (GPU %d, sm_%d%d, %.0f GiB), CUDA %d.%d, driver for %d.%d", device->properties.name,
             device->number, device->properties.major, device->properties.minor,
             (double)device->properties.totalGlobalMem / (1 << 30), runtime / 1000, runtime % 1000 / 10, driver / 1000,
             driver % 1000 / 10);
    return EBB_OK;
}

ebb_status_t ebb_cuda_device_info(void *dev, ebb_device_info_t *info)
{
    const cuda_device_t *device = (const cuda_device_t *)dev;
    const cudaDeviceProp &p = device->properties;
    size_t spare = 0, all = 0;
    memset(info, 0, sizeof *info);
    EBB_TRY(ebb_cuda_use_device(device));
    CUDA_TRY(cudaMemGetInfo(&spare, &all), "asking for the GPU's memory");
    snprintf(info->kind, sizeof info->kind, "%.80s (sm_%d%d)", p.name, p.major, p.minor);
    for (int i = 0; i < 16; i++)
        snprintf(info->id + 2 * i, 3, "%02x", (unsigned char)p.uuid.bytes[i]);
    info->number = device->number;
    info->count = device->count;
    info->spare_bytes = (int64_t)spare;
    info->bytes = (int64_t)all;
    return EBB_OK;
}

/* ---- memory ---- */

ebb_status_t ebb_cuda_alloc(void *dev, size_t bytes, const char *what, void **ptr_p)
{
    *ptr_p = NULL;
    EBB_TRY(ebb_cuda_use_device((const cuda_device_t *)dev));
    size_t room = bytes > 0 ? bytes : 1;
    EBB_TRY(ebb_cuda_hold_memory(what));
    cudaError_t code = cudaMalloc(ptr_p, room);
    if (code == cudaSuccess)
        code = cudaMemset(*ptr_p, 0, room);
    if (code == cudaSuccess)
        code = cudaDeviceSynchronize(); /* contexts' streams do not wait for the default stream */
    ebb_cuda_let_memory_go();
    CUDA_TRY(code, what);
    return EBB_OK;
}

void ebb_cuda_free(void *dev, void *ptr)
{
    if (!ptr || ebb_cuda_use_device((const cuda_device_t *)dev) != EBB_OK)
        return;
    if (ebb_cuda_hold_memory("free") == EBB_OK) {
        (void)cudaFree(ptr);
        ebb_cuda_let_memory_go();
    }
}

void *ebb_cuda_host_alloc(void *dev, size_t bytes)
{
    void *ptr = NULL;
    cudaError_t code = cudaErrorUnknown;
    if (ebb_cuda_use_device((const cuda_device_t *)dev) == EBB_OK && ebb_cuda_hold_memory("pinned memory") == EBB_OK) {
        code = cudaMallocHost(&ptr, bytes > 0 ? bytes : 1);
        ebb_cuda_let_memory_go();
    }
    if (code == cudaSuccess)
        return ptr;
    (void)cudaGetLastError();
    ebb_error_clear();
    return NULL;
}

void ebb_cuda_host_free(void *dev, void *ptr)
{
    if (!ptr || ebb_cuda_use_device((const cuda_device_t *)dev) != EBB_OK)
        return;
    if (ebb_cuda_hold_memory("free") == EBB_OK) {
        (void)cudaFreeHost(ptr);
        ebb_cuda_let_memory_go();
    }
}

ebb_status_t ebb_cuda_check_written(const ebb_exec_t *x, const void *dst, size_t bytes)
{
    const held_t *held = &x->device->held;
    uintptr_t begin = (uintptr_t)dst, first = (uintptr_t)held->w;
    if (held->w && begin < first + (size_t)held->n * sizeof *held->w && first < begin + bytes)
        return EBB_FAIL(EBB_EINVAL, "these weights are held: nothing writes to them before hold_weights lets them go");
    return EBB_OK;
}

static ebb_status_t move(ebb_exec_t *x, void *dst, const void *src, size_t bytes, cudaMemcpyKind kind, const char *what)
{
    EBB_TRY(ebb_cuda_use(x));
    if (kind != cudaMemcpyDeviceToHost)
        EBB_TRY(ebb_cuda_check_written(x, dst, bytes));
    if (bytes > 0 && dst != src)
        CUDA_TRY(cudaMemcpyAsync(dst, src, bytes, kind, x->stream), what);
    return EBB_OK;
}

ebb_status_t ebb_cuda_upload(ebb_exec_t *x, void *dst, const void *src, size_t bytes)
{
    return move(x, dst, src, bytes, cudaMemcpyHostToDevice, "copying to the GPU");
}

ebb_status_t ebb_cuda_download(ebb_exec_t *x, void *dst, const void *src, size_t bytes)
{
    return move(x, dst, src, bytes, cudaMemcpyDeviceToHost, "copying from the GPU");
}

ebb_status_t ebb_cuda_copy(ebb_exec_t *x, void *dst, const void *src, size_t bytes)
{
    return move(x, dst, src, bytes, cudaMemcpyDeviceToDevice, "copying within the GPU");
}

ebb_status_t ebb_cuda_zero(ebb_exec_t *x, void *dst, size_t bytes)
{
    EBB_TRY(ebb_cuda_use(x));
    EBB_TRY(ebb_cuda_check_written(x, dst, bytes));
    if (bytes > 0)
        CUDA_TRY(cudaMemsetAsync(dst, 0, bytes, x->stream), "clearing GPU memory");
    return EBB_OK;
}

static ebb_status_t grow(ebb_exec_t *x, room_t *room, size_t bytes, const char *what)
{
    CUDA_TRY(cudaStreamSynchronize(x->stream), what);
    CUDA_TRY(cudaFree(room->ptr), what);
    *room = room_t{NULL, 0};
    x->moves++;
    CUDA_TRY(cudaMalloc(&room->ptr, bytes), what);
    room->bytes = bytes;
    return EBB_OK;
}

ebb_status_t ebb_cuda_room(ebb_exec_t *x, room_t *room, int64_t n, size_t element, const char *what)
{
    size_t need = (size_t)(n > 0 ? n : 1) * element;
    EBB_TRY(ebb_cuda_use(x));
    if (need <= room->bytes)
        return EBB_OK;
    EBB_TRY(ebb_cuda_hold_memory(what));
    ebb_status_t status = grow(x, room, need + need / 4, what);
    ebb_cuda_let_memory_go();
    return status;
}

ebb_status_t ebb_cuda_tell(ebb_exec_t *x, int64_t first, int64_t n, const int64_t *from)
{
    EBB_TRY(ebb_cuda_not_noted(x, "a count that the host waits for"));
    CUDA_TRY(cudaMemcpyAsync(x->told + first, from, (size_t)n * sizeof *from, cudaMemcpyDeviceToHost, x->stream),
             "asking the GPU for a count");
    CUDA_TRY(cudaStreamSynchronize(x->stream), "waiting for the GPU");
    return EBB_OK;
}

/* ---- contexts ---- */

static ebb_status_t start_context(ebb_exec_t *x)
{
    EBB_TRY(ebb_cuda_use(x));
    CUDA_TRY(cudaStreamCreateWithFlags(&x->stream, cudaStreamNonBlocking), "making a stream");
    CUDA_TRY(cudaMallocHost((void **)&x->told, TOLD * sizeof *x->told), "pinned memory");
    x->told[TOLD_NONE] = INT64_MAX;
    for (cudaEvent_t &mark : x->mark)
        CUDA_TRY(cudaEventCreateWithFlags(&mark, cudaEventDisableTiming), "making an event");
    EBB_TRY(ebb_cuda_room(x, &x->bad, 1, sizeof(int64_t), "a verdict on labels"));
    return ebb_cuda_upload(x, x->bad.ptr, x->told + TOLD_NONE, sizeof(int64_t));
}

ebb_status_t ebb_cuda_exec_create(void *dev, ebb_exec_t **x_p)
{
    *x_p = (ebb_exec_t *)calloc(1, sizeof **x_p);
    if (!*x_p)
        return EBB_FAIL(EBB_ENOMEM, "execution context: out of memory");
    (*x_p)->device = (cuda_device_t *)dev;
    ebb_status_t status = start_context(*x_p);
    if (status != EBB_OK) {
        ebb_cuda_exec_destroy(*x_p);
        *x_p = NULL;
    }
    return status;
}

ebb_status_t ebb_cuda_exec_sync(ebb_exec_t *x)
{
    EBB_TRY(ebb_cuda_not_noted(x, "a wait"));
    EBB_TRY(ebb_cuda_use(x));
    EBB_TRY(ebb_cuda_fetch_verdict(x));
    CUDA_TRY(cudaStreamSynchronize(x->stream), "waiting for the GPU");
    return ebb_cuda_judge_labels(x);
}

static ebb_status_t check_mark(int mark)
{
    return mark >= 0 && mark < EBB_MARKS ? EBB_OK : EBB_FAIL(EBB_EINVAL, "mark %d of a context", mark);
}

ebb_status_t ebb_cuda_exec_mark(ebb_exec_t *x, int mark)
{
    EBB_TRY(check_mark(mark));
    EBB_TRY(ebb_cuda_use(x));
    CUDA_TRY(cudaEventRecord(x->mark[mark], x->stream), "marking a stream");
    return EBB_OK;
}

ebb_status_t ebb_cuda_exec_await(ebb_exec_t *x, const ebb_exec_t *other, int mark)
{
    EBB_TRY(check_mark(mark));
    EBB_TRY(ebb_cuda_use(x));
    CUDA_TRY(cudaStreamWaitEvent(x->stream, other->mark[mark], 0), "letting a stream wait for another");
    return EBB_OK;
}

ebb_status_t ebb_cuda_exec_event(ebb_exec_t *x, int mark, void **event_p)
{
    EBB_TRY(check_mark(mark));
    *event_p = x->mark[mark];
    return EBB_OK;
}

ebb_status_t ebb_cuda_exec_await_event(ebb_exec_t *x, void *event)
{
    EBB_TRY(ebb_cuda_use(x));
    CUDA_TRY(cudaStreamWaitEvent(x->stream, (cudaEvent_t)event, 0), "letting a stream wait for an event");
    return EBB_OK;
}

ebb_status_t ebb_cuda_exec_post(ebb_exec_t *x, int mark)
{
    EBB_TRY(check_mark(mark));
    EBB_TRY(ebb_cuda_use(x));
    EBB_TRY(ebb_cuda_fetch_verdict(x));
    return ebb_cuda_exec_mark(x, mark);
}

ebb_status_t ebb_cuda_exec_wait(ebb_exec_t *x, int mark)
{
    EBB_TRY(check_mark(mark));
    EBB_TRY(ebb_cuda_use(x));
    CUDA_TRY(cudaEventSynchronize(x->mark[mark]), "waiting for the GPU");
    return ebb_cuda_judge_labels(x);
}

ebb_status_t ebb_cuda_exec_reserve(ebb_exec_t *x)
{
    EBB_TRY(ebb_cuda_use(x));
    return ebb_cuda_blas_start(x);
}

void ebb_cuda_exec_destroy(ebb_exec_t *x)
{
    if (!x || ebb_cuda_use(x) != EBB_OK)
        return;
    room_t *rooms[] = {&x->blas_room, &x->sort,     &x->key,      &x->key_sorted, &x->place, &x->place_sorted,
                       &x->source,    &x->head,     &x->idx,      &x->begin,      &x->term,  &x->fields,
                       &x->partial,   &x->answer,   &x->losses,   &x->bad,        &x->lists, &x->meet,
                       &x->first,     &x->factor_a, &x->factor_b, &x->bias,       &x->result};
    ebb_cuda_blas_end(x);
    for (room_t *room : rooms)
        (void)cudaFree(room->ptr);
    for (slot_t &slot : x->slot) {
        (void)cudaFree(slot.idx.ptr);
        (void)cudaFree(slot.val.ptr);
    }
    (void)cudaFreeHost(x->told);
    for (cudaEvent_t mark : x->mark)
        if (mark)
            (void)cudaEventDestroy(mark);
    if (x->stream)
        (void)cudaStreamDestroy(x->stream);
    free(x);
}

/* ---- the table ---- */

static ebb_backend_ops_t make_table(void)
{
    ebb_backend_ops_t t;
    memset(&t, 0, sizeof t);
    t.version = EBB_BACKEND_VERSION;
    t.caps = EBB_CAP_BF16 | EBB_CAP_GRAPHS;
    t.name = EBB_CUDA_NAME;
    t.describe = ebb_cuda_describe;
    t.alloc = ebb_cuda_alloc;
    t.free = ebb_cuda_free;
    t.upload = ebb_cuda_upload;
    t.download = ebb_cuda_download;
    t.zero = ebb_cuda_zero;
    t.copy = ebb_cuda_copy;
    t.exec_create = ebb_cuda_exec_create;
    t.exec_sync = ebb_cuda_exec_sync;
    t.exec_destroy = ebb_cuda_exec_destroy;
    t.gemm = ebb_cuda_gemm;
    t.bias_grad = ebb_cuda_bias_grad;
    t.act_forward = ebb_cuda_act_forward;
    t.act_backward = ebb_cuda_act_backward;
    t.layernorm_forward = ebb_cuda_layernorm_forward;
    t.layernorm_backward = ebb_cuda_layernorm_backward;
    t.dropout = ebb_cuda_dropout;
    t.csr_gemm = ebb_cuda_csr_gemm;
    t.csr_grad = ebb_cuda_csr_grad;
    t.csr_terms = ebb_cuda_csr_terms;
    t.terms_sum = ebb_cuda_terms_sum;
    t.terms_free = ebb_cuda_terms_free;
    t.csr_grad_dense = ebb_cuda_csr_grad_dense;
    t.fm_forward = ebb_cuda_fm_forward;
    t.fm_grad = ebb_cuda_fm_grad;
    t.fm_grad_dense = ebb_cuda_fm_grad_dense;
    t.embed_forward = ebb_cuda_embed_forward;
    t.embed_grad = ebb_cuda_embed_grad;
    t.embed_grad_dense = ebb_cuda_embed_grad_dense;
    t.loss = ebb_cuda_loss;
    t.link = ebb_cuda_link;
    t.add = ebb_cuda_add;
    t.sumsq = ebb_cuda_sumsq;
    t.update = ebb_cuda_update;
    t.update_rows = ebb_cuda_update_rows;
    t.set_rows = ebb_cuda_set_rows;
    t.device_info = ebb_cuda_device_info;
    t.host_alloc = ebb_cuda_host_alloc;
    t.host_free = ebb_cuda_host_free;
    t.exec_mark = ebb_cuda_exec_mark;
    t.exec_await = ebb_cuda_exec_await;
    t.exec_event = ebb_cuda_exec_event;
    t.exec_await_event = ebb_cuda_exec_await_event;
    t.exec_post = ebb_cuda_exec_post;
    t.exec_wait = ebb_cuda_exec_wait;
    t.exec_reserve = ebb_cuda_exec_reserve;
    t.set_precision = ebb_cuda_set_precision;
    t.hold_weights = ebb_cuda_hold_weights;
    t.get_rows = ebb_cuda_get_rows;
    t.rows_find = ebb_cuda_rows_find;
    t.rows_add = ebb_cuda_rows_add;
    t.capture_begin = ebb_cuda_capture_begin;
    t.capture_end = ebb_cuda_capture_end;
    t.graph_launch = ebb_cuda_graph_launch;
    t.graph_free = ebb_cuda_graph_free;
    return t;
}

/* CUDA ends its list at the first name that is none, and says nothing. */
static ebb_status_t check_visible(int count)
{
    const char *names = getenv("CUDA_VISIBLE_DEVICES");
    int named = 1;
    for (const char *c = names; c && *c; c++)
        named += *c == ',';
    if (names && *names && named != count)
        return EBB_FAIL(EBB_EUNAVAILABLE,
                        "CUDA_VISIBLE_DEVICES=%s names %d GPU%s, but CUDA finds %d of them: name GPUs that `nvidia-smi "
                        "-L` lists, each once",
                        names, named, named == 1 ? "" : "s", count);
    return EBB_OK;
}

/* Ranks of a node take its visible GPUs in turn; bound to one by Slurm, a rank sees that one alone. */
/* CUDA says the same of one that is not there as of one that is too old; the former has no version. */
static ebb_status_t no_driver(void)
{
    int version = 0;
    if (cudaDriverGetVersion(&version) != cudaSuccess || version == 0)
        return EBB_FAIL(EBB_EUNAVAILABLE,
                        "there is no NVIDIA driver (libcuda.so.1), or none that works: install one for CUDA %d.%d or "
                        "newer; a container must be started with its GPUs (--gpus all, --nv)",
                        CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    return EBB_FAIL(EBB_EUNAVAILABLE,
                    "the NVIDIA driver is for CUDA %d.%d, older than this Ebb's CUDA %d.%d: install a newer one",
                    version / 1000, version % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
}

static ebb_status_t choose(int wanted, cuda_device_t *device)
{
    int count = 0;
    cudaError_t code = cudaGetDeviceCount(&count);
    if (code == cudaErrorInsufficientDriver)
        return no_driver();
    if (code == cudaErrorNoDevice || (code == cudaSuccess && count == 0))
        return EBB_FAIL(EBB_EUNAVAILABLE, "there is no GPU that CUDA can use here (CUDA_VISIBLE_DEVICES is %s)",
                        getenv("CUDA_VISIBLE_DEVICES") ? getenv("CUDA_VISIBLE_DEVICES") : "not set");
    CUDA_TRY(code, "looking for GPUs");
    EBB_TRY(check_visible(count));
    device->count = count;
    device->number = (wanted < 0 ? 0 : wanted) % count;
    CUDA_TRY(cudaGetDeviceProperties(&device->properties, device->number), "asking about a GPU");
    EBB_TRY(ebb_cuda_use_device(device));
    CUDA_TRY(cudaFree(NULL), "starting the GPU"); /* its context is made here, where a failure can be told */
    return EBB_OK;
}

static void close_device(ebb_backend_t *backend)
{
    ebb_cuda_free(backend->dev, ((cuda_device_t *)backend->dev)->held.room.ptr);
    free(backend->dev);
    backend->dev = NULL;
}

extern "C" EBB_API ebb_status_t ebb_backend_entry(uint32_t version, int device, ebb_backend_t *backend,
                                                  void (**close_p)(ebb_backend_t *))
{
    static const ebb_backend_ops_t table = make_table();
    if (version != EBB_BACKEND_VERSION)
        return EBB_FAIL(EBB_EUNAVAILABLE, "the " EBB_CUDA_NAME " backend speaks version %u", EBB_BACKEND_VERSION);
    cuda_device_t *d = (cuda_device_t *)calloc(1, sizeof *d);
    if (!d)
        return EBB_FAIL(EBB_ENOMEM, "device: out of memory");
    ebb_status_t status = choose(device, d);
    if (status != EBB_OK) {
        free(d);
        return status;
    }
    backend->ops = &table;
    backend->dev = d;
    *close_p = close_device;
    return EBB_OK;
}
