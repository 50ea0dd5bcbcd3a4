/* Forward passes in storage order. A task is a span of blocks, so that a chunk of the file is mostly decoded by one
 * thread; a thread's reader and buffers live for the length of one call. */
#include "train/scan.h"
#include "base/alloc.h"
#include "base/pulse.h"
#include "loader/transform.h"
#include "train/stage.h"

#include <string.h>

typedef struct buffers {
    ebb_reader_t *reader;
    int64_t *rowptr;
    int32_t *col;
    float *val;
    int64_t col_capacity, val_capacity;
    float *x, *y, *weight;
    int32_t *label;
} buffers_t;

typedef struct job {
    const ebb_scan_t *scan;
    const ebb_dataset_info_t *info;
    ebb_metrics_t *metrics; /* or pred */
    float *pred;
    int64_t row0, row1, span;
    buffers_t *buf; /* (threads) */
} job_t;

static ebb_status_t buffers_init(buffers_t *b, const ebb_scan_t *scan)
{
    const ebb_dataset_info_t *info = ebb_dataset_info(scan->data);
    EBB_TRY(ebb_reader_create(scan->data, 0, &b->reader));
    if (info->sparse)
        EBB_TRY(EBB_NEW_ARRAY("row pointers", EBB_SCAN_BLOCK + 1, &b->rowptr));
    else
        EBB_TRY(EBB_NEW_ARRAY("rows", EBB_SCAN_BLOCK * info->cols, &b->x));
    EBB_TRY(EBB_NEW_ARRAY("labels", EBB_SCAN_BLOCK, &b->label));
    EBB_TRY(EBB_NEW_ARRAY("targets", EBB_SCAN_BLOCK * (info->target_cols > 0 ? info->target_cols : 1), &b->y));
    return EBB_NEW_ARRAY("weights", EBB_SCAN_BLOCK, &b->weight);
}

static void buffers_cleanup(buffers_t *b)
{
    ebb_reader_destroy(b->reader);
    ebb_free(b->rowptr);
    ebb_free(b->col);
    ebb_free(b->val);
    ebb_free(b->x);
    ebb_free(b->y);
    ebb_free(b->weight);
    ebb_free(b->label);
}

static ebb_status_t read_rows(const job_t *job, buffers_t *b, int64_t row, int64_t n, ebb_input_t *in)
{
    const ebb_transform_t *transform = &job->scan->transform;
    *in = (ebb_input_t){.rows = n, .sparse = job->info->sparse, .x = b->x};
    if (!in->sparse) {
        EBB_TRY(ebb_reader_dense(b->reader, row, n, b->x));
        for (int64_t i = 0; i < n; i++)
            ebb_transform_row(transform, b->x + i * job->info->cols, job->info->cols);
        return EBB_OK;
    }
    EBB_TRY(ebb_reader_rowptr(b->reader, row, n, 0, b->rowptr));
    EBB_TRY(ebb_grow("columns", (void **)&b->col, &b->col_capacity, b->rowptr[n], sizeof *b->col));
    EBB_TRY(ebb_grow("values", (void **)&b->val, &b->val_capacity, b->rowptr[n], sizeof *b->val));
    EBB_TRY(ebb_reader_csr(b->reader, row, n, b->col, b->val));
    for (int64_t i = 0; i < n; i++)
        ebb_transform_row(transform, b->val + b->rowptr[i], b->rowptr[i + 1] - b->rowptr[i]);
    in->csr = (ebb_csr_t){
        .rows = n, .cols = job->info->cols, .rowptr = b->rowptr, .col = b->col, .val = b->val, .nnz = b->rowptr[n]};
    return EBB_OK;
}

/* Targets of the rows in b, as far as the metrics need them. */
static ebb_status_t read_targets(const job_t *job, buffers_t *b, int64_t row, int64_t n, ebb_piece_t *piece)
{
    bool classes = job->info->target == EBB_TARGET_CLASS;
    piece->label = classes ? b->label : NULL;
    piece->y = classes ? NULL : b->y;
    piece->weight = b->weight;
    return ebb_reader_targets(b->reader, row, n, classes ? b->label : NULL, classes ? NULL : b->y, b->weight);
}

static ebb_status_t scan_block(const job_t *job, int thread, int64_t row, int64_t n)
{
    const ebb_scan_t *scan = job->scan;
    ebb_workers_t *w = scan->workers;
    const ebb_worker_t *me = &w->worker[thread];
    ebb_exec_t *exec = w->exec[thread];
    const ebb_backend_ops_t *ops = w->backend->ops;
    const ebb_loss_t *loss = ebb_model_loss(scan->model);
    int64_t outputs = ebb_model_outputs(scan->model);
    buffers_t *b = &job->buf[thread];
    ebb_piece_t here = {.cols = job->info->cols, .targets = job->info->target_cols}, piece;
    ebb_pass_t pass = {.ops = ops, .exec = exec, .weights = scan->weights, .workspace = me->place.workspace};
    const float *pred;
    ebb_pulse_tick();
    EBB_TRY(read_rows(job, b, row, n, &here.in));
    if (job->metrics)
        EBB_TRY(read_targets(job, b, row, n, &here));
    piece = here;
    EBB_TRY(ebb_stage_rows(w, thread, &piece));
    EBB_TRY(ebb_model_forward(scan->model, &pass, &piece.in, me->place.out));
    if (job->metrics)
        EBB_TRY(ops->loss(exec, loss->kind, loss->huber_delta, n, outputs, me->place.out, piece.label, piece.y,
                          piece.weight, NULL, me->row_loss, me->row_weight, NULL));
    EBB_TRY(ops->link(exec, loss->kind, n, outputs, me->place.out, me->place.out));
    EBB_TRY(ebb_stage_outputs(w, thread, n * outputs, &pred));
    if (job->metrics)
        return ebb_metrics_add(job->metrics, n, pred, here.label, here.y, me->row_loss, me->row_weight);
    memcpy(job->pred + (row - job->row0) * outputs, pred, (size_t)(n * outputs) * sizeof *pred);
    return EBB_OK;
}

static ebb_status_t scan_span(void *user, int thread, int64_t index)
{
    const job_t *job = user;
    buffers_t *b = &job->buf[thread];
    int64_t row = job->row0 + index * job->span;
    int64_t end = row + job->span < job->row1 ? row + job->span : job->row1;
    if (!b->reader)
        EBB_TRY(buffers_init(b, job->scan));
    for (; row < end; row += EBB_SCAN_BLOCK)
        EBB_TRY(scan_block(job, thread, row, end - row < EBB_SCAN_BLOCK ? end - row : EBB_SCAN_BLOCK));
    return EBB_OK;
}

/* Blocks per task: few enough for every thread to have several tasks, at most 16. */
static int64_t span_rows(int64_t rows, int threads)
{
    int64_t blocks = rows / EBB_SCAN_BLOCK / (4 * threads) + 1;
    return (blocks < 16 ? blocks : 16) * EBB_SCAN_BLOCK;
}

static ebb_status_t run(const ebb_scan_t *scan, int64_t row0, int64_t row1, ebb_metrics_t *metrics, float *pred)
{
    ebb_workers_t *w = scan->workers;
    job_t job = {.scan = scan,
                 .info = ebb_dataset_info(scan->data),
                 .metrics = metrics,
                 .pred = pred,
                 .row0 = row0,
                 .row1 = row1,
                 .span = span_rows(row1 - row0, w->threads)};
    if (row1 <= row0)
        return EBB_OK;
    EBB_TRY(ebb_workers_fit(w, scan->model, EBB_SCAN_BLOCK));
    EBB_TRY(EBB_NEW_ARRAY("scan buffers", w->threads, &job.buf));
    ebb_status_t status = ebb_workers_hold(w, ebb_model_layout(scan->model), scan->weights);
    if (status == EBB_OK)
        status = ebb_pool_run(w->pool, (row1 - row0 + job.span - 1) / job.span, scan_span, &job);
    ebb_workers_release(w);
    for (int t = 0; t < w->threads; t++)
        buffers_cleanup(&job.buf[t]);
    ebb_free(job.buf);
    return status;
}

ebb_status_t ebb_scan_metrics(const ebb_scan_t *scan, int64_t row0, int64_t row1, ebb_metrics_t *metrics)
{
    return run(scan, row0, row1, metrics, NULL);
}

ebb_status_t ebb_scan_predict(const ebb_scan_t *scan, int64_t row0, int64_t row1, float *pred)
{
    return run(scan, row0, row1, NULL, pred);
}

void ebb_scan_share(int64_t rows, int rank, int ranks, int64_t *row0_p, int64_t *row1_p)
{
    int64_t blocks = (rows + EBB_SCAN_BLOCK - 1) / EBB_SCAN_BLOCK;
    int64_t end = blocks * (rank + 1) / ranks * EBB_SCAN_BLOCK;
    *row0_p = blocks * rank / ranks * EBB_SCAN_BLOCK;
    *row1_p = end < rows ? end : rows;
}

ebb_status_t ebb_scan_evaluate(ebb_comm_t *comm, const ebb_scan_t *scan, ebb_metrics_t *metrics)
{
    int64_t row0, row1, n;
    ebb_metrics_reset(metrics);
    ebb_scan_share(ebb_dataset_info(scan->data)->rows, ebb_comm_rank(comm), ebb_comm_size(comm), &row0, &row1);
    EBB_TRY(ebb_comm_agree(comm, ebb_scan_metrics(scan, row0, row1, metrics)));
    int64_t *words = ebb_metrics_words(metrics, &n);
    return ebb_comm_allreduce(comm, words, n, EBB_COMM_I64, EBB_SUM);
}

ebb_status_t ebb_scan_check(const ebb_dataset_info_t *data, const ebb_dataset_info_t *trained, bool targets)
{
    if (data->cols != trained->cols || data->sparse != trained->sparse)
        return EBB_FAIL(EBB_EDATA,
                        "%s: has %lld %s columns, the model was trained on %lld %s ones; pack it with --like %s",
                        data->name, (long long)data->cols, data->sparse ? "sparse" : "dense", (long long)trained->cols,
                        trained->sparse ? "sparse" : "dense", trained->name);
    if (!targets)
        return EBB_OK;
    if (data->target != trained->target || data->target_cols != trained->target_cols)
        return EBB_FAIL(EBB_EDATA, "%s: its targets are not of the kind the model was trained on", data->name);
    if (data->classes != trained->classes)
        return EBB_FAIL(EBB_EDATA, "%s: has %lld classes, the model was trained on %lld; pack it with --like %s",
                        data->name, (long long)data->classes, (long long)trained->classes, trained->name);
    for (int64_t c = 0; c < data->classes; c++)
        if (strcmp(data->class_names[c], trained->class_names[c]) != 0)
            return EBB_FAIL(EBB_EDATA, "%s: its class %lld is \"%s\", the model's is \"%s\"; pack it with --like %s",
                            data->name, (long long)c, data->class_names[c], trained->class_names[c], trained->name);
    return EBB_OK;
}
