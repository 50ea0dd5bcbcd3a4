/* Compute backends: device memory, execution contexts and the table of operations that models, sync and optimisers
 * are written in. `cpu` is built in; others are shared objects (libebb_cuda.so) that export
 * `ebb_backend_entry` and are checked (version, required entries) when they are loaded.
 *
 * Shapes are row-major, float32 unless said otherwise; "device" pointers belong to the backend's memory (host memory
 * for cpu). An execution context (ebb_exec_t) is one in-order queue: a thread's own on the CPU, a stream on a GPU. An
 * operation may return before it is done; exec_sync waits. One context must not be used by two threads
 * at once.
 *
 * Bits: every operation gives the same bits for the same inputs and shapes, whichever context or thread runs it. On
 * the CPU all but gemm also give the same bits at every SIMD level; gemm is oneDNN's and follows the kind of CPU.
 * Scratch memory belongs to the context, grows during warm-up and is then reused: nothing allocates per step.
 */
#ifndef EBB_COMPUTE_H
#define EBB_COMPUTE_H

#include <ebb/base.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EBB_BACKEND_VERSION 9u
#define EBB_MARKS           16
#define EBB_MARK_JOIN       3 /* ebb_exec_join's: of the first context, all that any of them was given until then */

typedef struct ebb_exec ebb_exec_t;
typedef struct ebb_graph ebb_graph_t; /* work noted, to be carried out many times */

/* Capability flags. */
enum {
    EBB_CAP_HOST_MEMORY = 1u << 0, /* device pointers can be read by the host */
    EBB_CAP_BF16 = 1u << 1,
    EBB_CAP_INT8 = 1u << 2,
    EBB_CAP_GRAPHS = 1u << 3, /* has the operations from capture_begin on */
};

typedef enum ebb_act {
    EBB_ACT_NONE,
    EBB_ACT_RELU,
    EBB_ACT_GELU, /* exact, with erf */
    EBB_ACT_TANH,
    EBB_ACT_SIGMOID
} ebb_act_t;

/* Arithmetic of dense products on a device: factors rounded to tf32 or bf16, sums and results in float32. */
typedef enum ebb_precision { EBB_PRECISION_FP32, EBB_PRECISION_TF32, EBB_PRECISION_BF16 } ebb_precision_t;

typedef enum ebb_loss_kind {
    EBB_LOSS_SOFTMAX_CE,
    EBB_LOSS_BINARY_CE,
    EBB_LOSS_SQUARED,
    EBB_LOSS_HUBER,
    EBB_LOSS_POISSON
} ebb_loss_kind_t;

/* Rows of a sparse matrix, borrowed. Row r holds entries rowptr[r] .. rowptr[r+1]-1 of col and val; rowptr[0] need
 * not be 0, so a range of rows of a larger matrix is a view. A row's columns may be in any order but not repeated.
 * The host cannot read row pointers on a device, so nnz says how many entries these rows have, and is another in a view
 * of other rows. 0 stands for a number that is not known as well: each gradient then waits for the device to tell. */
typedef struct ebb_csr {
    int64_t rows, cols;
    const int64_t *rowptr; /* (rows + 1) */
    const int32_t *col;
    const float *val;
    int64_t nnz; /* entries of these rows, rowptr[rows] - rowptr[0]; or 0 */
} ebb_csr_t;

/* Row-sparse matrix: n rows of `width` floats, row k being row idx[k] of a table; idx ascending, unique. idx and val
 * belong to whoever made it and may have room for more (capacity rows). A device may know later than the host how many
 * rows there are: where count is set, they are *count, n is at least as many, and what lies behind them means nothing.
 */
typedef struct ebb_rows {
    int64_t n, capacity, width;
    int32_t *idx;         /* (n) */
    float *val;           /* (n, width) */
    const int64_t *count; /* in the device's memory, its maker's as well; NULL: n */
} ebb_rows_t;

/* One term of a sum: val times row `source` of a matrix. */
typedef struct ebb_term {
    int32_t source;
    float val;
} ebb_term_t;

/* A row-sparse gradient not added up yet, which is smaller and can be added where its rows are used: row k of it is row
 * idx[k] of a table (ascending, unique) and the sum over terms begin[k] .. begin[k+1]-1, in order, of val * dY[source].
 * The arrays belong to the backend and grow as needed; begin with zeros, end with terms_free. */
typedef struct ebb_terms {
    int64_t n, width;
    int32_t *idx;     /* (n) */
    int64_t *begin;   /* (n + 1) */
    ebb_term_t *term; /* (begin[n]) */
    float *dY;        /* a copy */
    int64_t idx_capacity, begin_capacity, term_capacity, dY_capacity;
} ebb_terms_t;

/* A device with memory of its own. */
typedef struct ebb_device_info {
    char kind[96];     /* "NVIDIA H200 (sm_90)": devices of one kind give equal bits */
    char id[64];       /* of this very one, on its host */
    int number, count; /* among those that this process sees */
    int64_t spare_bytes, bytes;
} ebb_device_info_t;

/* A sum of row lists of one table along a binary tree, on a device. Neighbours a < b among the lists that have a row
 * are added at depth meet[a * lists + b], deeper ones first. Sums come out by owner ((row / 64) mod owners), rows
 * ascending within. canonical: -0 becomes +0. Host arrays, but for what the lists point at. */
typedef struct ebb_rows_merge {
    int lists;
    const ebb_rows_t *list; /* (lists) */
    const uint8_t *meet;    /* (lists, lists) */
    int64_t rows, width;    /* of the table */
    int owners;
    bool canonical;
} ebb_rows_merge_t;

/* Update rules. g: gradient of the mean loss = scale * g_sum, plus l2 * w except for adamw and ftrl. States: sgd
 * momentum; adagrad sum of squares; adam(w) m, v; ftrl z, n, from which w is recomputed (start from w = 0 or let l1, l2
 * pull it there). l1 (but for ftrl, which has its own) is a proximal step: after the gradient step w moves towards 0 by
 * lr l1 (adagrad: by lr l1 / (sqrt(sum) + eps)) and stops there, so zeros are true zeros. A weight with zero gradient,
 * state and value stays +0. */
typedef enum ebb_optim_kind {
    EBB_OPTIM_SGD,
    EBB_OPTIM_ADAGRAD,
    EBB_OPTIM_ADAM,
    EBB_OPTIM_ADAMW,
    EBB_OPTIM_FTRL
} ebb_optim_kind_t;

typedef struct ebb_optim_hyper {
    ebb_optim_kind_t kind;
    float lr;           /* of this step, after the schedule */
    float scale;        /* multiplies the gradient sum: 1 / weight, times the clipping factor */
    float l1, l2;       /* penalties, as above; adamw: l2 is decoupled decay, w *= 1 - lr l2 */
    float momentum;     /* sgd */
    bool nesterov;      /* sgd */
    float beta1, beta2; /* adam, adamw; ftrl: beta1 is its beta */
    float eps;          /* adagrad, adam, adamw */
    int64_t t;          /* step number from 1, for Adam's bias correction */
} ebb_optim_hyper_t;

/* Number of float state values kept per weight by an update rule: 0, 1 or 2 (sgd: 1 with momentum). */
static inline int ebb_optim_states(ebb_optim_kind_t kind, float momentum)
{
    switch (kind) {
    case EBB_OPTIM_SGD: return momentum != 0.0f ? 1 : 0;
    case EBB_OPTIM_ADAGRAD: return 1;
    default: return 2;
    }
}

typedef struct ebb_backend_ops {
    uint32_t version; /* EBB_BACKEND_VERSION */
    uint32_t caps;
    const char *name;
    /* One line for the run record, e.g. "AMD EPYC 9B14, avx512, oneDNN 2.6.3". */
    ebb_status_t (*describe)(void *dev, char *text, size_t size);

    /* ---- memory: 64-byte aligned, zeroed ---- */
    ebb_status_t (*alloc)(void *dev, size_t bytes, const char *what, void **ptr_p);
    void (*free)(void *dev, void *ptr);
    ebb_status_t (*upload)(ebb_exec_t *x, void *dst_dev, const void *src_host, size_t bytes);
    ebb_status_t (*download)(ebb_exec_t *x, void *dst_host, const void *src_dev, size_t bytes);
    ebb_status_t (*zero)(ebb_exec_t *x, void *dst, size_t bytes);
    ebb_status_t (*copy)(ebb_exec_t *x, void *dst, const void *src, size_t bytes);

    ebb_status_t (*exec_create)(void *dev, ebb_exec_t **x_p);
    ebb_status_t (*exec_sync)(ebb_exec_t *x);
    void (*exec_destroy)(ebb_exec_t *x);

    /* ---- dense ---- */
    /* C = act(op(A) op(B) + beta C + bias): op(A) (M,K), op(B) (K,N), C (M,N), bias (N) or NULL; beta is 0 or 1. */
    ebb_status_t (*gemm)(ebb_exec_t *x, bool ta, bool tb, int64_t M, int64_t N, int64_t K, const float *A, int64_t lda,
                         const float *B, int64_t ldb, float beta, float *C, int64_t ldc, const float *bias,
                         ebb_act_t act);
    /* db (N) = beta db + (sum over rows of dY (M,N), rows added in order). */
    ebb_status_t (*bias_grad)(ebb_exec_t *x, int64_t M, int64_t N, const float *dY, float beta, float *db);
    /* May be in place. */
    ebb_status_t (*act_forward)(ebb_exec_t *x, ebb_act_t act, int64_t n, const float *in, float *out);
    /* din = dout * act'(in); in: input of act_forward, out: its output (relu, tanh, sigmoid use out alone and accept
     * in == NULL; gelu needs in). May be in place over dout. */
    ebb_status_t (*act_backward)(ebb_exec_t *x, ebb_act_t act, int64_t n, const float *in, const float *out,
                                 const float *dout, float *din);
    /* Rows normalised to mean 0 and variance 1 over their N columns, then gamma, beta (N). mean, rstd: (M) out. */
    ebb_status_t (*layernorm_forward)(ebb_exec_t *x, int64_t M, int64_t N, const float *in, const float *gamma,
                                      const float *beta, float eps, float *out, float *mean, float *rstd);
    /* dgamma = acc dgamma + ..., dbeta likewise. */
    ebb_status_t (*layernorm_backward)(ebb_exec_t *x, int64_t M, int64_t N, const float *in, const float *gamma,
                                       const float *mean, const float *rstd, const float *dout, float *din, float acc,
                                       float *dgamma, float *dbeta);
    /* out = in / (1-p) where kept, else 0. With n = index0 + i, element i is kept if u >= p, u being the upper 24 bits
     * (times 2^-24) of word n % 4 of philox 4x32-10 with key key[0] and counter (n / 4, key[1]), low words first.
     * Applied to dout it is its own backward pass. May be in place. */
    ebb_status_t (*dropout)(ebb_exec_t *x, int64_t n, float p, const uint64_t key[2], uint64_t index0, const float *in,
                            float *out);

    /* ---- sparse input ---- */
    /* Y (rows,H) = act(X W + bias): W (cols,H) with leading dimension ldw >= H; bias (H) or NULL. */
    ebb_status_t (*csr_gemm)(ebb_exec_t *x, const ebb_csr_t *X, int64_t H, const float *W, int64_t ldw,
                             const float *bias, ebb_act_t act, float *Y);
    /* Row-sparse gradient X^T dY: touched columns ascending. out->idx/val are (re)allocated by the context and stay its
     * own until the next call with the same slot; entries of a column are added in row order with fused multiply-add.
     * A touched column whose sum is 0 stays in. slot: 0 .. 7, one per table of the model. A device need not wait for
     * the number of columns: it may set out->count, and have memory for as many rows as there are entries. (CUDA's does
     * so up to 64 MiB of out->val, and waits beyond.) */
    ebb_status_t (*csr_grad)(ebb_exec_t *x, int slot, const ebb_csr_t *X, int64_t H, const float *dY, ebb_rows_t *out);
    /* The same gradient, not added up yet; terms_sum gives rows [first, first + n) of it, bit-equal to csr_grad's, on
     * any context. */
    ebb_status_t (*csr_terms)(ebb_exec_t *x, const ebb_csr_t *X, int64_t H, const float *dY, ebb_terms_t *terms);
    ebb_status_t (*terms_sum)(ebb_exec_t *x, const ebb_terms_t *terms, int64_t first, int64_t n, float *val);
    void (*terms_free)(void *dev, ebb_terms_t *terms);
    /* The same sums, added into a dense gradient G (cols,H) starting from what is there; touched: bitmap, bit c set
     * for every column met ((cols + 63) / 64 words). Bit-equal to csr_grad scattered into zeros. */
    ebb_status_t (*csr_grad_dense)(ebb_exec_t *x, const ebb_csr_t *X, int64_t H, const float *dY, float *G,
                                   uint64_t *touched);
    /* Factorization machine (Rendle 2010): table T (cols, 1+k) holds w, v;
     *   out[r] = bias + <w,x> + 1/2 sum_f ((sum v_f x)^2 - sum v_f^2 x^2).
     * sums (rows,k) out, kept for the backward pass. */
    ebb_status_t (*fm_forward)(ebb_exec_t *x, const ebb_csr_t *X, int64_t k, const float *T, const float *bias,
                               float *out, float *sums);
    ebb_status_t (*fm_grad)(ebb_exec_t *x, int slot, const ebb_csr_t *X, int64_t k, const float *T, const float *sums,
                            const float *dout, ebb_rows_t *grad);
    ebb_status_t (*fm_grad_dense)(ebb_exec_t *x, const ebb_csr_t *X, int64_t k, const float *T, const float *sums,
                                  const float *dout, float *G, uint64_t *touched);
    /* Embedding of fields: columns [field_begin[f], field_begin[f+1]) are field f (f < n_fields; ascending). Y (rows,
     * n_fields*dim): part f of row r = sum over that row's entries of field f of val * T[col], T (cols, dim). Columns
     * in no field are left out. */
    ebb_status_t (*embed_forward)(ebb_exec_t *x, const ebb_csr_t *X, int n_fields, const int32_t *field_begin,
                                  int64_t dim, const float *T, float *Y);
    ebb_status_t (*embed_grad)(ebb_exec_t *x, int slot, const ebb_csr_t *X, int n_fields, const int32_t *field_begin,
                               int64_t dim, const float *dY, ebb_rows_t *grad);
    ebb_status_t (*embed_grad_dense)(ebb_exec_t *x, const ebb_csr_t *X, int n_fields, const int32_t *field_begin,
                                     int64_t dim, const float *dY, float *G, uint64_t *touched);

    /* ---- losses: rows of `out` (rows, width) are raw model outputs (logits; log rate for poisson) ----
     * label (rows): class numbers for softmax_ce and binary_ce with width 1; y (rows,width) reals otherwise. weight
     * (rows) or NULL; class_weight (classes) or NULL, for losses with class numbers only. row_loss (rows, host
     * doubles): weighted loss of each row, summed over its outputs; squared is 1/2 (o - y)^2, of which huber is the
     * usual continuation, poisson exp(o) - y o. row_weight (rows, host doubles): weight of each row. dout (rows,width)
     * or NULL: gradient of the weighted SUM of losses. row_loss and row_weight may be filled in only once the context
     * was waited for; any number of losses may be under way. A label that is no class gives EBB_EDATA with the row,
     * here or from the next exec_sync or exec_wait; of several losses under way the least such row of any is named. */
    ebb_status_t (*loss)(ebb_exec_t *x, ebb_loss_kind_t kind, float huber_delta, int64_t rows, int64_t width,
                         const float *out, const int32_t *label, const float *y, const float *weight,
                         const float *class_weight, double *row_loss, double *row_weight, float *dout);
    /* Outputs to predictions: softmax, sigmoid, identity or exp, by loss. May be in place. */
    ebb_status_t (*link)(ebb_exec_t *x, ebb_loss_kind_t kind, int64_t rows, int64_t width, const float *out,
                         float *pred);

    /* ---- sums and updates ---- */
    /* out = a + b; may alias. */
    ebb_status_t (*add)(ebb_exec_t *x, int64_t n, const float *a, const float *b, float *out);
    /* Sum of squares of each of ceil(n / segment) segments, in double, elements in order within 8 fixed interleaved
     * partial sums. out_host may be filled in only once the context was waited for. */
    ebb_status_t (*sumsq)(ebb_exec_t *x, int64_t n, int64_t segment, const float *a, double *out_host);
    /* Apply an update rule to n weights: w, g (gradient sum), s0, s1 (states or NULL). */
    ebb_status_t (*update)(ebb_exec_t *x, const ebb_optim_hyper_t *h, int64_t n, float *w, const float *g, float *s0,
                           float *s1);
    /* Apply it to rows: for k in 0..n-1, weights w[idx_w[k]*width ...], states s[idx_s[k]*width ...], gradient
     * g[k*width ...]. */
    ebb_status_t (*update_rows)(ebb_exec_t *x, const ebb_optim_hyper_t *h, int64_t n, int64_t width,
                                const int32_t *idx_w, const int32_t *idx_s, float *w, const float *g, float *s0,
                                float *s1);
    /* Rows idx[k] of a table become rows k of val (n, width); idx without repetitions. */
    ebb_status_t (*set_rows)(ebb_exec_t *x, int64_t n, int64_t width, const int32_t *idx, const float *val,
                             float *table);

    /* ---- only of backends without EBB_CAP_HOST_MEMORY, whose gradients the host cannot sum ---- */
    ebb_status_t (*device_info)(void *dev, ebb_device_info_t *info);
    /* Host memory from which copies to the device need not wait; NULL: there is none. */
    void *(*host_alloc)(void *dev, size_t bytes);
    void (*host_free)(void *dev, void *ptr);
    /* Order between contexts: a mark (0 .. EBB_MARKS-1) notes what was given to a context until now; what is given to
     * x from now on begins after that. A mark never set is passed at once. */
    ebb_status_t (*exec_mark)(ebb_exec_t *x, int mark);
    ebb_status_t (*exec_await)(ebb_exec_t *x, const ebb_exec_t *other, int mark);
    /* A mark as the device's own event (a cudaEvent_t of CUDA's), for a wire's messages that follow it: the mark as it
     * was last set. Setting it again moves the event, but not what waits for it already. The context's. */
    ebb_status_t (*exec_event)(ebb_exec_t *x, int mark, void **event_p);
    /* What is given to x from now on begins after an event of the device's own. */
    ebb_status_t (*exec_await_event)(ebb_exec_t *x, void *event);
    /* Set a mark that the host may wait for by exec_wait, which tells what exec_sync would of the work before the mark,
     * and waits for no more. One is under way at a time. */
    ebb_status_t (*exec_post)(ebb_exec_t *x, int mark);
    ebb_status_t (*exec_wait)(ebb_exec_t *x, int mark);
    /* Take the memory that dense products on x need, which else the first of them does. */
    ebb_status_t (*exec_reserve)(ebb_exec_t *x);
    /* Of gemm from now on, in all contexts; fp32 at first. */
    ebb_status_t (*set_precision)(void *dev, ebb_precision_t precision);
    /* Nothing will write to these weights (n floats) until the next call, with n = 0 if need be: gemm of any context
     * may then round them once instead of each time, to the same bits. It is done on x, after whatever is there:
     * contexts that multiply by them begin after it, and those that did so with others have come to an end before it
     * (both by ebb_exec_join). Until then operations that would write to them are refused with EBB_EINVAL. No thread
     * may use a context of the device during the call. */
    ebb_status_t (*hold_weights)(ebb_exec_t *x, int64_t n, const float *w);
    /* Rows idx[k] of a table into rows k of val (n, width). */
    ebb_status_t (*get_rows)(ebb_exec_t *x, int64_t n, int64_t width, const int32_t *idx, const float *table,
                             float *val);
    /* Sum row lists in two calls, between which the caller makes room: rows_find says how many rows each owner gets (n,
     * host, (owners)); rows_add then gives them on the same context, nothing else of the context coming between: global
     * row numbers, local ones (row / 64 / owners * 64 + row % 64) and sums. idx or local may be NULL. */
    ebb_status_t (*rows_find)(ebb_exec_t *x, const ebb_rows_merge_t *merge, int64_t *n);
    ebb_status_t (*rows_add)(ebb_exec_t *x, const ebb_rows_merge_t *merge, int32_t *idx, int32_t *local, float *val);

    /* ---- only of backends with EBB_CAP_GRAPHS ---- */
    /* What a thread gives to x from now on is noted and not carried out, until that thread ends it. Only work that is
     * the same each time can be noted: pointers and numbers are kept as they are now, what they point at is read when
     * it is carried out. Host memory in it is to be host_alloc's. Refused, by the operation itself or at the end:
     * exec_sync, gradients of sparse input, whose sizes are others in each step, dropout, whose key is, and work for
     * which the context's scratch memory has to grow, so it is to be given once before it is noted. After a refusal the
     * context goes on as if nothing had been given to it. Marks are for before and after. */
    ebb_status_t (*capture_begin)(ebb_exec_t *x);
    /* Also after an operation was refused. *graph_p is NULL on failure. */
    ebb_status_t (*capture_end)(ebb_exec_t *x, ebb_graph_t **graph_p);
    /* Give x what was noted, on x itself, once more. *done_p is false, and nothing was given, where x's scratch memory
     * has moved since, as it does where larger work needs more, or other weights are held (hold_weights): the graph is
     * of no use any more. */
    ebb_status_t (*graph_launch)(ebb_exec_t *x, const ebb_graph_t *graph, bool *done_p);
    /* NULL: nothing. Before the context is destroyed; what was launched goes on. */
    void (*graph_free)(void *dev, ebb_graph_t *graph);
} ebb_backend_ops_t;

/* What is given to any of n contexts from now on begins after all that was given to any of them until now. On a device
 * the host does not wait for it; backends of host memory work at once, and are asked whether they failed. No thread may
 * use one of the contexts meanwhile. */
static inline ebb_status_t ebb_exec_join(const ebb_backend_ops_t *ops, int n, ebb_exec_t *const *exec)
{
    if (ops->caps & EBB_CAP_HOST_MEMORY) {
        for (int i = 0; i < n; i++)
            EBB_TRY(ops->exec_sync(exec[i]));
        return EBB_OK;
    }
    for (int i = 1; i < n; i++) {
        EBB_TRY(ops->exec_mark(exec[i], EBB_MARK_JOIN));
        EBB_TRY(ops->exec_await(exec[0], exec[i], EBB_MARK_JOIN));
    }
    EBB_TRY(ops->exec_mark(exec[0], EBB_MARK_JOIN));
    for (int i = 1; i < n; i++)
        EBB_TRY(ops->exec_await(exec[i], exec[0], EBB_MARK_JOIN));
    return EBB_OK;
}

/* How many rows there are, for which x is waited for where only the device knows. */
static inline ebb_status_t ebb_rows_count(const ebb_backend_ops_t *ops, ebb_exec_t *x, const ebb_rows_t *rows,
                                          int64_t *n_p)
{
    *n_p = rows->n;
    if (!rows->count)
        return EBB_OK;
    EBB_TRY(ops->download(x, n_p, rows->count, sizeof *n_p));
    return ops->exec_sync(x);
}

/* An opened device. */
typedef struct ebb_backend {
    const ebb_backend_ops_t *ops;
    void *dev;
} ebb_backend_t;

/* What a backend's shared object exports under the name ebb_backend_entry. */
typedef ebb_status_t (*ebb_backend_entry_t)(uint32_t version, int device, ebb_backend_t *backend,
                                            void (**close_p)(ebb_backend_t *));

/* Open "cpu" (device is ignored) or a loadable backend by name; libebb_<name>.so is looked for in $EBB_BACKEND_PATH,
 * then beside libebb. EBB_EUNAVAILABLE says what is missing. EBB_ISA=scalar|avx2|avx512 forces the CPU's kernels (same
 * bits, for tests; dense products are oneDNN's and not affected). Not collective. */
EBB_API ebb_status_t ebb_backend_open(const char *name, int device, ebb_backend_t **backend_p) EBB_MUST_CHECK;
EBB_API void ebb_backend_close(ebb_backend_t *backend);

/* Check a table: version and every required entry. For ebb_backend_open and for tests. */
EBB_API ebb_status_t ebb_backend_check(const ebb_backend_ops_t *ops);

#ifdef __cplusplus
}
#endif
#endif
