/* The CUDA backend's own parts. One device per process and rank; a context is a stream with its scratch memory. */
#ifndef EBB_COMPUTE_CUDA_CUDA_H
#define EBB_COMPUTE_CUDA_CUDA_H

#include <ebb/compute.h>
#include "compute/cuda/launch.h"

#include <cublasLt.h>
#include <cuda_runtime.h>

enum { SLOTS = 8, PLANS = 256 };

/* Device memory that grows and is reused; what it holds is lost when it grows. */
typedef struct room {
    void *ptr;
    size_t bytes;
} room_t;

typedef struct slot {
    room_t idx, val;
} slot_t;

/* Weights that stay as they are. */
typedef struct held {
    const float *w; /* NULL: none */
    int64_t n;
    bool rounded; /* room has them in bf16, one by one */
    room_t room;
} held_t;

typedef struct cuda_device {
    int number, count;
    ebb_precision_t precision;
    held_t held;
    cudaDeviceProp properties;
} cuda_device_t;

/* Non-zeros in the order of their columns, rows in order within a column. Arrays are the context's, on the device. */
typedef struct grouped {
    int64_t most;   /* columns that they touch, at most */
    int64_t *count; /* columns that they touch; non-zeros that count; then idx */
    int32_t *idx;   /* (*count) columns, ascending */
    int64_t *begin; /* (*count + 1) */
    ebb_term_t *term;
} grouped_t;

/* All of a dense product that its algorithm depends on; compared byte by byte, so without gaps. */
typedef struct product {
    int64_t M, N, K, lda, ldb, ldc;
    int32_t ta, tb, precision, epilogue;
} product_t;

/* A product as cuBLASLt takes it, with the algorithm that was chosen for it. */
typedef struct plan {
    product_t product; /* M is 0: none */
    uint32_t epilogue; /* that is fused: the wanted one, or none */
    cublasLtMatmulDescOpaque_t desc;
    cublasLtMatrixLayoutOpaque_t a, b, c;
    cublasLtMatmulAlgo_t algorithm;
} plan_t;

struct ebb_exec {
    cuda_device_t *device;
    cudaStream_t stream;
    cublasLtHandle_t blas;
    plan_t *plan; /* (PLANS) by a hash of the product */
    int plans;
    slot_t slot[SLOTS];
    room_t blas_room, sort, key, key_sorted, place, place_sorted, source, head, idx, begin, term, fields, partial,
        answer, losses, bad, lists, meet, first, factor_a, factor_b, bias, result;
    int64_t rows_found; /* by rows_find */
    int64_t *told;      /* pinned: what a kernel tells the host */
    cudaEvent_t mark[EBB_MARKS];
    bool judging;    /* losses are under way whose verdict on their labels nobody has asked for */
    int64_t classes; /* of these */
    int64_t moves;   /* times that scratch memory was moved */
    bool captures;   /* what it is given is noted for a graph */
    int64_t noted_classes;
};

/* An error of the runtime as a status, with what was being done. */
ebb_status_t ebb_cuda_failed(cudaError_t code, const char *what);
#define CUDA_TRY(call, what)                                                                                           \
    do {                                                                                                               \
        cudaError_t code_ = (call);                                                                                    \
        if (code_ != cudaSuccess)                                                                                      \
            return ebb_cuda_failed(code_, (what));                                                                     \
    } while (0)
/* After launches: whether they could be started. */
#define LAUNCHED(what) CUDA_TRY(cudaGetLastError(), (what))

/* Make the calling thread use the context's device. */
ebb_status_t ebb_cuda_use(const ebb_exec_t *x);
ebb_status_t ebb_cuda_use_device(const cuda_device_t *device);
/* Around calls that make or free memory or synchronise the device: no stream is captured meanwhile. Refused to a thread
 * that captures one. */
ebb_status_t ebb_cuda_hold_memory(const char *what);
void ebb_cuda_let_memory_go(void);
/* Refuse what a graph cannot hold. */
ebb_status_t ebb_cuda_not_noted(const ebb_exec_t *x, const char *what);
/* A loss over labels of so many classes is given to the context. */
ebb_status_t ebb_cuda_will_judge(ebb_exec_t *x, int64_t classes);
ebb_status_t ebb_cuda_room(ebb_exec_t *x, room_t *room, int64_t n, size_t element, const char *what);
/* What is in x->told: row pointers or counts in the first two; the least row whose label is no class, and its label
 * (ebb_cuda_judge_labels); what that starts from, which x->bad on the device holds while all labels are good. */
enum { TOLD_COUNTS, TOLD_BAD = 2, TOLD_NONE, TOLD };
/* Some int64 from device memory, waiting for all before; they arrive in x->told. */
ebb_status_t ebb_cuda_tell(ebb_exec_t *x, int64_t first, int64_t n, const int64_t *from);

/* Pairs by key, stable; keys below 2^bits. Running sums, each with its own element. Neither waits. */
ebb_status_t ebb_cuda_sort(ebb_exec_t *x, int64_t n, int bits, const uint32_t *key, uint32_t *key_sorted,
                           const int32_t *value, int32_t *value_sorted);
ebb_status_t ebb_cuda_running_sum(ebb_exec_t *x, int64_t n, const int32_t *in, int32_t *out);

/* ---- operations, by file ---- */
ebb_status_t ebb_cuda_describe(void *dev, char *text, size_t size);
ebb_status_t ebb_cuda_alloc(void *dev, size_t bytes, const char *what, void **ptr_p);
void ebb_cuda_free(void *dev, void *ptr);
ebb_status_t ebb_cuda_upload(ebb_exec_t *x, void *dst, const void *src, size_t bytes);
ebb_status_t ebb_cuda_download(ebb_exec_t *x, void *dst, const void *src, size_t bytes);
ebb_status_t ebb_cuda_zero(ebb_exec_t *x, void *dst, size_t bytes);
ebb_status_t ebb_cuda_copy(ebb_exec_t *x, void *dst, const void *src, size_t bytes);
ebb_status_t ebb_cuda_exec_create(void *dev, ebb_exec_t **x_p);
ebb_status_t ebb_cuda_exec_sync(ebb_exec_t *x);
void ebb_cuda_exec_destroy(ebb_exec_t *x);
ebb_status_t ebb_cuda_exec_mark(ebb_exec_t *x, int mark);
ebb_status_t ebb_cuda_exec_await(ebb_exec_t *x, const ebb_exec_t *other, int mark);
ebb_status_t ebb_cuda_exec_event(ebb_exec_t *x, int mark, void **event_p);
ebb_status_t ebb_cuda_exec_await_event(ebb_exec_t *x, void *event);
ebb_status_t ebb_cuda_exec_post(ebb_exec_t *x, int mark);
ebb_status_t ebb_cuda_exec_wait(ebb_exec_t *x, int mark);
ebb_status_t ebb_cuda_exec_reserve(ebb_exec_t *x);
/* Refuse to write to weights that are held. */
ebb_status_t ebb_cuda_check_written(const ebb_exec_t *x, const void *dst, size_t bytes);
/* What dense products keep with a context, made for the first of them. */
ebb_status_t ebb_cuda_blas_start(ebb_exec_t *x);
void ebb_cuda_blas_end(ebb_exec_t *x);
/* Fetch the verdict on the labels of the losses so far, and read it once the context was waited for. */
ebb_status_t ebb_cuda_fetch_verdict(ebb_exec_t *x);
ebb_status_t ebb_cuda_judge_labels(ebb_exec_t *x);

ebb_status_t ebb_cuda_gemm(ebb_exec_t *x, bool ta, bool tb, int64_t M, int64_t N, int64_t K, const float *A,
                           int64_t lda, const float *B, int64_t ldb, float beta, float *C, int64_t ldc,
                           const float *bias, ebb_act_t act);
ebb_status_t ebb_cuda_bias_grad(ebb_exec_t *x, int64_t M, int64_t N, const float *dY, float beta, float *db);
ebb_status_t ebb_cuda_act_forward(ebb_exec_t *x, ebb_act_t act, int64_t n, const float *in, float *out);
ebb_status_t ebb_cuda_act_backward(ebb_exec_t *x, ebb_act_t act, int64_t n, const float *in, const float *out,
                                   const float *dout, float *din);
ebb_status_t ebb_cuda_layernorm_forward(ebb_exec_t *x, int64_t M, int64_t N, const float *in, const float *gamma,
                                        const float *beta, float eps, float *out, float *mean, float *rstd);
ebb_status_t ebb_cuda_layernorm_backward(ebb_exec_t *x, int64_t M, int64_t N, const float *in, const float *gamma,
                                         const float *mean, const float *rstd, const float *dout, float *din, float acc,
                                         float *dgamma, float *dbeta);
ebb_status_t ebb_cuda_dropout(ebb_exec_t *x, int64_t n, float p, const uint64_t key[2], uint64_t index0,
                              const float *in, float *out);

ebb_status_t ebb_cuda_csr_gemm(ebb_exec_t *x, const ebb_csr_t *X, int64_t H, const float *W, int64_t ldw,
                               const float *bias, ebb_act_t act, float *Y);
ebb_status_t ebb_cuda_csr_grad(ebb_exec_t *x, int slot, const ebb_csr_t *X, int64_t H, const float *dY,
                               ebb_rows_t *out);
ebb_status_t ebb_cuda_csr_terms(ebb_exec_t *x, const ebb_csr_t *X, int64_t H, const float *dY, ebb_terms_t *terms);
ebb_status_t ebb_cuda_terms_sum(ebb_exec_t *x, const ebb_terms_t *terms, int64_t first, int64_t n, float *val);
void ebb_cuda_terms_free(void *dev, ebb_terms_t *terms);
ebb_status_t ebb_cuda_csr_grad_dense(ebb_exec_t *x, const ebb_csr_t *X, int64_t H, const float *dY, float *G,
                                     uint64_t *touched);
ebb_status_t ebb_cuda_fm_forward(ebb_exec_t *x, const ebb_csr_t *X, int64_t k, const float *T, const float *bias,
                                 float *out, float *sums);
ebb_status_t ebb_cuda_fm_grad(ebb_exec_t *x, int slot, const ebb_csr_t *X, int64_t k, const float *T, const float *sums,
                              const float *dout, ebb_rows_t *grad);
ebb_status_t ebb_cuda_fm_grad_dense(ebb_exec_t *x, const ebb_csr_t *X, int64_t k, const float *T, const float *sums,
                                    const float *dout, float *G, uint64_t *touched);
ebb_status_t ebb_cuda_embed_forward(ebb_exec_t *x, const ebb_csr_t *X, int n_fields, const int32_t *field_begin,
                                    int64_t dim, const float *T, float *Y);
ebb_status_t ebb_cuda_embed_grad(ebb_exec_t *x, int slot, const ebb_csr_t *X, int n_fields, const int32_t *field_begin,
                                 int64_t dim, const float *dY, ebb_rows_t *grad);
ebb_status_t ebb_cuda_embed_grad_dense(ebb_exec_t *x, const ebb_csr_t *X, int n_fields, const int32_t *field_begin,
                                       int64_t dim, const float *dY, float *G, uint64_t *touched);

ebb_status_t ebb_cuda_loss(ebb_exec_t *x, ebb_loss_kind_t kind, float huber_delta, int64_t rows, int64_t width,
                           const float *out, const int32_t *label, const float *y, const float *weight,
                           const float *class_weight, double *row_loss, double *row_weight, float *dout);
ebb_status_t ebb_cuda_link(ebb_exec_t *x, ebb_loss_kind_t kind, int64_t rows, int64_t width, const float *out,
                           float *pred);

ebb_status_t ebb_cuda_add(ebb_exec_t *x, int64_t n, const float *a, const float *b, float *out);
ebb_status_t ebb_cuda_sumsq(ebb_exec_t *x, int64_t n, int64_t segment, const float *a, double *out_host);
ebb_status_t ebb_cuda_update(ebb_exec_t *x, const ebb_optim_hyper_t *h, int64_t n, float *w, const float *g, float *s0,
                             float *s1);
ebb_status_t ebb_cuda_update_rows(ebb_exec_t *x, const ebb_optim_hyper_t *h, int64_t n, int64_t width,
                                  const int32_t *idx_w, const int32_t *idx_s, float *w, const float *g, float *s0,
                                  float *s1);
ebb_status_t ebb_cuda_set_rows(ebb_exec_t *x, int64_t n, int64_t width, const int32_t *idx, const float *val,
                               float *table);

ebb_status_t ebb_cuda_capture_begin(ebb_exec_t *x);
ebb_status_t ebb_cuda_capture_end(ebb_exec_t *x, ebb_graph_t **graph_p);
ebb_status_t ebb_cuda_graph_launch(ebb_exec_t *x, const ebb_graph_t *graph, bool *done_p);
void ebb_cuda_graph_free(void *dev, ebb_graph_t *graph);

ebb_status_t ebb_cuda_device_info(void *dev, ebb_device_info_t *info);
void *ebb_cuda_host_alloc(void *dev, size_t bytes);
void ebb_cuda_host_free(void *dev, void *ptr);
ebb_status_t ebb_cuda_set_precision(void *dev, ebb_precision_t precision);
ebb_status_t ebb_cuda_hold_weights(ebb_exec_t *x, int64_t n, const float *w);
ebb_status_t ebb_cuda_get_rows(ebb_exec_t *x, int64_t n, int64_t width, const int32_t *idx, const float *table,
                               float *val);
ebb_status_t ebb_cuda_rows_find(ebb_exec_t *x, const ebb_rows_merge_t *merge, int64_t *n);
ebb_status_t ebb_cuda_rows_add(ebb_exec_t *x, const ebb_rows_merge_t *merge, int32_t *idx, int32_t *local, float *val);

#endif
