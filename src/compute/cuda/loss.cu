/* Losses from raw outputs, in their stable forms; row losses in double. Softmax takes a block a row, the others a
 * thread a row. */
#include "compute/cuda/math.h"

typedef struct problem {
    ebb_loss_kind_t kind;
    float huber_delta;
    int64_t width, classes; /* classes: of labels; 0: real targets */
    const float *out;
    const int32_t *label;
    const float *y, *weight, *class_weight;
    double *row_loss, *row_weight;
    float *dout;
    int64_t *bad; /* least verdict */
} problem_t;

/* A row's label that is no class. The least verdict is of the least row. */
DEVICE int64_t verdict_on(int64_t row, int32_t label)
{
    return row << 32 | (int64_t)(uint32_t)label;
}

/* Weight of each row; rows with bad labels are noted and counted as class 0. */
KERNEL weigh_kernel(int64_t n, problem_t p)
{
    EACH(r, n)
    {
        double weight = p.weight ? (double)p.weight[r] : 1.0;
        if (p.classes > 0) {
            bool good = p.label[r] >= 0 && p.label[r] < p.classes;
            if (!good)
                keep_least(p.bad, verdict_on(r, p.label[r]));
            if (p.class_weight)
                weight *= (double)p.class_weight[good ? p.label[r] : 0];
        }
        p.row_weight[r] = weight;
    }
}

/* Largest of one value a thread, in place; in part[0]. */
#define BLOCK_MAX(part)                                                                                                \
    for (int half_ = BLOCK_THREADS / 2; half_ > 0; half_ /= 2) {                                                       \
        EACH_THREAD(t)                                                                                                 \
        {                                                                                                              \
            if (t < half_)                                                                                             \
                (part)[t] = (part)[t + half_] > (part)[t] ? (part)[t + half_] : (part)[t];                             \
        }                                                                                                              \
        BARRIER;                                                                                                       \
    }

/* d (which may be v) = exp(v - max); max in top[0], the sum in part[0]. */
#define EXP_ROW(n, v, d, top, part)                                                                                    \
    EACH_THREAD(t)                                                                                                     \
    {                                                                                                                  \
        top[t] = v[t < n ? t : 0];                                                                                     \
        for (int64_t j = t; j < n; j += BLOCK_THREADS)                                                                 \
            top[t] = v[j] > top[t] ? v[j] : top[t];                                                                    \
    }                                                                                                                  \
    BARRIER;                                                                                                           \
    BLOCK_MAX(top)                                                                                                     \
    EACH_THREAD(t)                                                                                                     \
    {                                                                                                                  \
        part[t] = 0.0;                                                                                                 \
        for (int64_t j = t; j < n; j += BLOCK_THREADS) {                                                               \
            float e = expf(v[j] - top[0]);                                                                             \
            part[t] += (double)e;                                                                                      \
            if (d)                                                                                                     \
                d[j] = e;                                                                                              \
        }                                                                                                              \
    }                                                                                                                  \
    BARRIER;                                                                                                           \
    BLOCK_SUM(part)

KERNEL softmax_loss_kernel(problem_t p)
{
    SHARED float top[BLOCK_THREADS];
    SHARED double part[BLOCK_THREADS];
    SHARED double miss;
    int64_t row = BLOCK_INDEX, n = p.width;
    const float *v = p.out + row * n;
    float *d = p.dout ? p.dout + row * n : NULL;
    int64_t c = p.label[row] >= 0 && p.label[row] < n ? p.label[row] : 0;
    double weight = p.row_weight[row];
    EACH_THREAD(t)
    {
        if (t == 0)
            miss = (double)v[c]; /* before d, which may lie over v */
    }
    BARRIER;
    EXP_ROW(n, v, d, top, part)
    EACH_THREAD(t)
    {
        if (t == 0) {
            p.row_loss[row] = weight * (log(part[0]) - (miss - (double)top[0]));
            miss = d ? part[0] - (double)d[c] : 0.0; /* of the label: 1 - p, without cancellation in float */
        }
    }
    BARRIER;
    EACH_THREAD(t)
    {
        float scale = (float)(weight / part[0]);
        for (int64_t j = t; d && j < n; j += BLOCK_THREADS)
            d[j] = j == c ? (float)(-weight * (miss / part[0])) : d[j] * scale;
    }
}

KERNEL softmax_kernel(int64_t n, const float *out, float *pred)
{
    SHARED float top[BLOCK_THREADS];
    SHARED double part[BLOCK_THREADS];
    const float *v = out + BLOCK_INDEX * n;
    float *d = pred + BLOCK_INDEX * n;
    EXP_ROW(n, v, d, top, part)
    EACH_THREAD(t)
    {
        float scale = (float)(1.0 / part[0]);
        for (int64_t j = t; j < n; j += BLOCK_THREADS)
            d[j] *= scale;
    }
}

/* Of logit z and target y in [0, 1]: max(z, 0) - z y + log(1 + exp(-|z|)); u is that exponential. */
DEVICE double binary_loss(float z, float y, float u)
{
    return (z > 0.0f ? (double)z : 0.0) - (double)z * (double)y + log1p((double)u);
}

/* sigmoid(z) - y; for y = 1 from the other side, so that it does not cancel. */
DEVICE float binary_slope(float z, float y, float u)
{
    float low = u / (1.0f + u), high = 1.0f / (1.0f + u);
    float p = z >= 0.0f ? high : low, rest = z >= 0.0f ? low : high;
    return y == 1.0f ? -rest : p - y;
}

/* Loss and slope of one real-valued output. */
DEVICE double real_loss(ebb_loss_kind_t kind, float delta, float o, float y, float *slope)
{
    double d = (double)o - (double)y, limit = (double)delta;
    switch (kind) {
    case EBB_LOSS_BINARY_CE: {
        float u = expf(-fabsf(o));
        *slope = binary_slope(o, y, u);
        return binary_loss(o, y, u);
    }
    case EBB_LOSS_HUBER:
        *slope = (float)(d > limit ? limit : d < -limit ? -limit : d);
        return fabs(d) <= limit ? 0.5 * d * d : limit * (fabs(d) - 0.5 * limit);
    case EBB_LOSS_POISSON: {
        float rate = expf(o);
        *slope = (float)((double)rate - (double)y);
        return (double)rate - (double)y * (double)o;
    }
    default: *slope = (float)d; return 0.5 * d * d;
    }
}

KERNEL real_loss_kernel(int64_t rows, problem_t p)
{
    EACH(r, rows)
    {
        double sum = 0, weight = p.row_weight[r];
        for (int64_t i = r * p.width; i < (r + 1) * p.width; i++) {
            float slope, y = p.classes > 0 ? (float)p.label[r] : p.y[i];
            sum += real_loss(p.kind, p.huber_delta, p.out[i], y, &slope);
            if (p.dout)
                p.dout[i] = (float)(weight * (double)slope);
        }
        p.row_loss[r] = weight * sum;
    }
}

/* Row losses and weights to the host: nothing waits, where its memory is pinned. */
static ebb_status_t fetch(ebb_exec_t *x, const problem_t *p, int64_t rows, double *row_loss, double *row_weight)
{
    size_t bytes = (size_t)rows * sizeof(double);
    EBB_TRY(ebb_cuda_download(x, row_loss, p->row_loss, bytes));
    return ebb_cuda_download(x, row_weight, p->row_weight, bytes);
}

ebb_status_t ebb_cuda_will_judge(ebb_exec_t *x, int64_t classes)
{
    if (x->captures) { /* the graph knows, and says so when it is launched */
        if (x->noted_classes > 0 && x->noted_classes != classes)
            return ebb_cuda_not_noted(x, "a second kind of labels");
        x->noted_classes = classes;
        return EBB_OK;
    }
    if (x->judging && classes != x->classes) /* one verdict does for labels of one kind */
        EBB_TRY(ebb_cuda_exec_sync(x));
    x->judging = true;
    x->classes = classes;
    return EBB_OK;
}

ebb_status_t ebb_cuda_fetch_verdict(ebb_exec_t *x)
{
    return x->judging ? ebb_cuda_download(x, x->told + TOLD_BAD, x->bad.ptr, sizeof(int64_t)) : EBB_OK;
}

ebb_status_t ebb_cuda_judge_labels(ebb_exec_t *x)
{
    bool judging = x->judging;
    int64_t verdict = x->told[TOLD_BAD];
    x->judging = false;
    if (!judging || verdict == INT64_MAX)
        return EBB_OK;
    EBB_TRY(ebb_cuda_upload(x, x->bad.ptr, x->told + TOLD_NONE, sizeof verdict));
    return EBB_FAIL(EBB_EDATA, "row %lld of the batch has label %d: classes are 0 to %lld", (long long)(verdict >> 32),
                    (int)(int32_t)(uint32_t)verdict, (long long)(x->classes - 1));
}

ebb_status_t ebb_cuda_loss(ebb_exec_t *x, ebb_loss_kind_t kind, float huber_delta, int64_t rows, int64_t width,
                           const float *out, const int32_t *label, const float *y, const float *weight,
                           const float *class_weight, double *row_loss, double *row_weight, float *dout)
{
    bool classes = kind == EBB_LOSS_SOFTMAX_CE || (kind == EBB_LOSS_BINARY_CE && label && width == 1);
    if (width < 1 || (rows > 0 && (classes ? !label : !y)))
        return EBB_FAIL(EBB_EINVAL, "loss over %lld outputs: %s are missing", (long long)width,
                        classes ? "class labels" : "real targets");
    if (rows > INT32_MAX)
        return EBB_FAIL(EBB_EINVAL, "loss over %lld rows: at most 2^31 - 1 at once", (long long)rows);
    if (rows == 0)
        return EBB_OK;
    problem_t p = {};
    p.kind = kind;
    p.huber_delta = huber_delta;
    p.width = width;
    p.classes = !classes ? 0 : kind == EBB_LOSS_SOFTMAX_CE ? width : 2;
    if (classes)
        EBB_TRY(ebb_cuda_will_judge(x, p.classes));
    EBB_TRY(ebb_cuda_room(x, &x->losses, 2 * rows, sizeof(double), "row losses"));
    p.out = out;
    p.label = label;
    p.y = y;
    p.weight = weight;
    p.class_weight = class_weight;
    p.row_loss = (double *)x->losses.ptr;
    p.row_weight = p.row_loss + rows;
    p.bad = (int64_t *)x->bad.ptr;
    p.dout = dout;
    LAUNCH(weigh_kernel, rows, x, p);
    if (kind == EBB_LOSS_SOFTMAX_CE)
        LAUNCH_BLOCKS(softmax_loss_kernel, rows, x, p);
    else
        LAUNCH(real_loss_kernel, rows, x, p);
    LAUNCHED("loss");
    return fetch(x, &p, rows, row_loss, row_weight);
}

KERNEL exp_kernel(int64_t n, const float *out, float *pred)
{
    EACH(i, n)
    {
        pred[i] = expf(out[i]);
    }
}

ebb_status_t ebb_cuda_link(ebb_exec_t *x, ebb_loss_kind_t kind, int64_t rows, int64_t width, const float *out,
                           float *pred)
{
    EBB_TRY(ebb_cuda_use(x));
    switch (kind) {
    case EBB_LOSS_SOFTMAX_CE: LAUNCH_BLOCKS(softmax_kernel, rows, x, width, out, pred); break;
    case EBB_LOSS_BINARY_CE: return ebb_cuda_act_forward(x, EBB_ACT_SIGMOID, rows * width, out, pred);
    case EBB_LOSS_POISSON: LAUNCH(exp_kernel, rows * width, x, out, pred); break;
    default: return ebb_cuda_copy(x, pred, out, (size_t)(rows * width) * sizeof *out);
    }
    LAUNCHED("predictions");
    return EBB_OK;
}
