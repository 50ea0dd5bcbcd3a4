/* Metrics, added so that any split of the rows over threads and ranks gives the same words: sums of doubles are exact
 * (base/exact.h), AUC counts weights in fixed point (units of 2^-20) per bin of the score. The words of the state are
 * one block of int64: the sum of weights, one exact sum per metric, then AUC's bins.
 *
 * Bins of the score p in [0, 1]: the upper bits of the float p below 1/2, of 1 - p (exact) above, so both ends are
 * resolved to 1 part in 2^14 of the smaller probability, down to 2^-32; scores in one bin count as ties.
 *
 * Threads: a call of ebb_metrics_add works on its own sums and merges them under a lock; bins are added atomically.
 */
#include <ebb/model.h>

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/exact.h"
#include "base/text.h"

enum { MAX_METRICS = 8, AUC_BINS = 1 << 20, WEIGHT_UNITS = 1 << 20, MAX_NAME = 16 };

typedef struct metric {
    char name[MAX_NAME];
    ebb_metric_kind_t kind;
    int64_t k; /* top-k */
} metric_t;

struct ebb_metrics {
    ebb_loss_t loss;
    int64_t outputs;
    int n;
    metric_t metric[MAX_METRICS];
    int64_t n_words;
    int64_t *words;
    ebb_exact_t *sum; /* in words: (1 + n), the first one of weights */
    int64_t *bins;    /* in words: (2, AUC_BINS), weights of the first and of the second class; NULL without auc */
    pthread_mutex_t lock;
};

/* ---- names ---- */

static const char *default_names(const ebb_loss_t *loss, int64_t outputs)
{
    if (loss->kind == EBB_LOSS_SOFTMAX_CE)
        return outputs > 10 ? "loss,accuracy,top_5" : "loss,accuracy";
    return loss->kind == EBB_LOSS_BINARY_CE ? "loss,accuracy,auc" : "loss,rmse,mae";
}

static ebb_status_t parse_top_k(ebb_metrics_t *m, metric_t *metric)
{
    if (ebb_parse_i64(metric->name + 4, &metric->k) != EBB_OK || metric->k < 1 || metric->k > m->outputs) {
        ebb_error_clear();
        return EBB_FAIL(EBB_EUSAGE, "metric \"%s\": the number must be from 1 to the model's %lld outputs",
                        metric->name, (long long)m->outputs);
    }
    metric->kind = EBB_METRIC_TOPK;
    return EBB_OK;
}

static ebb_status_t find_metric(ebb_metrics_t *m, metric_t *metric)
{
    static const struct {
        const char *name;
        ebb_metric_kind_t kind;
    } known[] = {{"loss", EBB_METRIC_LOSS}, {"accuracy", EBB_METRIC_ACCURACY}, {"log_loss", EBB_METRIC_LOG_LOSS},
                 {"auc", EBB_METRIC_AUC},   {"rmse", EBB_METRIC_RMSE},         {"mae", EBB_METRIC_MAE}};
    static const char *const names[] = {"loss", "accuracy", "top_5", "log_loss", "auc", "rmse", "mae", NULL};
    if (strncmp(metric->name, "top_", 4) == 0)
        return parse_top_k(m, metric);
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(metric->name, known[i].name) == 0) {
            metric->kind = known[i].kind;
            return EBB_OK;
        }
    const char *near = ebb_text_nearest(metric->name, names);
    return EBB_FAIL(EBB_EUSAGE, "unknown metric \"%s\"; %s%s%s", metric->name,
                    near ? "did you mean \"" : "known: loss, accuracy, top_K, log_loss, auc, rmse, mae",
                    near ? near : "", near ? "\"?" : "");
}

static ebb_status_t check_suits(const ebb_metrics_t *m, const metric_t *metric)
{
    bool softmax = m->loss.kind == EBB_LOSS_SOFTMAX_CE, binary = m->loss.kind == EBB_LOSS_BINARY_CE;
    switch (metric->kind) {
    case EBB_METRIC_ACCURACY:
    case EBB_METRIC_LOG_LOSS:
        return softmax || binary ? EBB_OK
                                 : EBB_FAIL(EBB_EUSAGE, "metric \"%s\" needs classes; for %s use rmse or mae",
                                            metric->name, ebb_loss_name(m->loss.kind));
    case EBB_METRIC_TOPK:
        return softmax ? EBB_OK : EBB_FAIL(EBB_EUSAGE, "metric \"%s\" needs softmax_cross_entropy", metric->name);
    case EBB_METRIC_AUC:
        return binary || (softmax && m->outputs == 2) ? EBB_OK
                                                      : EBB_FAIL(EBB_EUSAGE, "metric \"auc\" needs two classes");
    case EBB_METRIC_RMSE:
    case EBB_METRIC_MAE:
        return softmax || binary
                   ? EBB_FAIL(EBB_EUSAGE, "metric \"%s\" needs a real target; for %s use accuracy or log_loss",
                              metric->name, ebb_loss_name(m->loss.kind))
                   : EBB_OK;
    default: return EBB_OK;
    }
}

static ebb_status_t parse_names(ebb_metrics_t *m, const char *names)
{
    while (*names) {
        size_t n = strcspn(names, ", ");
        if (n == 0) {
            names++;
            continue;
        }
        if (m->n == MAX_METRICS)
            return EBB_FAIL(EBB_EUSAGE, "more than %d metrics", MAX_METRICS);
        metric_t *metric = &m->metric[m->n++];
        snprintf(metric->name, sizeof metric->name, "%.*s", (int)n, names);
        EBB_TRY(find_metric(m, metric));
        EBB_TRY(check_suits(m, metric));
        names += n;
    }
    return EBB_OK;
}

static ebb_status_t make_words(ebb_metrics_t *m)
{
    bool auc = false;
    for (int i = 0; i < m->n; i++)
        auc |= m->metric[i].kind == EBB_METRIC_AUC;
    int64_t sums = (int64_t)(1 + m->n) * EBB_EXACT_WORDS;
    m->n_words = sums + (auc ? 2 * (int64_t)AUC_BINS : 0);
    EBB_TRY(EBB_NEW_ARRAY("metrics", m->n_words, &m->words));
    m->sum = (ebb_exact_t *)m->words;
    m->bins = auc ? m->words + sums : NULL;
    return EBB_OK;
}

ebb_status_t ebb_metrics_create(const char *names, const ebb_loss_t *loss, int64_t outputs, ebb_metrics_t **metrics_p)
{
    *metrics_p = NULL;
    ebb_metrics_t *m;
    EBB_TRY(EBB_NEW("metrics", &m));
    pthread_mutex_init(&m->lock, NULL);
    m->loss = *loss;
    m->outputs = outputs;
    ebb_status_t status = parse_names(m, names ? names : default_names(loss, outputs));
    if (status == EBB_OK)
        status = make_words(m);
    if (status != EBB_OK) {
        ebb_metrics_destroy(m);
        return status;
    }
    *metrics_p = m;
    return EBB_OK;
}

void ebb_metrics_destroy(ebb_metrics_t *metrics)
{
    if (!metrics)
        return;
    pthread_mutex_destroy(&metrics->lock);
    ebb_free(metrics->words);
    ebb_free(metrics);
}

void ebb_metrics_reset(ebb_metrics_t *metrics)
{
    memset(metrics->words, 0, (size_t)metrics->n_words * sizeof *metrics->words);
}

/* ---- one row's value of each metric ---- */

/* Place of the label's score among the outputs; equal scores go by class number. */
static int64_t rank_of_label(const float *pred, int64_t outputs, int32_t label)
{
    int64_t rank = 0;
    if (isnan(pred[label]))
        return outputs;
    for (int64_t c = 0; c < outputs; c++)
        rank += pred[c] > pred[label] || (pred[c] == pred[label] && c < label);
    return rank;
}

/* The label's probability; above 1/2 a float tells 1 - p from 0 only down to 2^-25. */
static double label_probability(const ebb_metrics_t *m, const float *pred, int32_t label)
{
    if (isnan(pred[0]))
        return NAN;
    if (m->loss.kind == EBB_LOSS_SOFTMAX_CE)
        return fmax((double)pred[label], 1e-15);
    return label == 1 ? fmax((double)pred[0], 1e-15) : fmax(1.0 - (double)pred[0], 0x1p-25);
}

static bool is_right(const ebb_metrics_t *m, const float *pred, int32_t label)
{
    if (m->loss.kind == EBB_LOSS_BINARY_CE)
        return isnan(pred[0]) ? false : (pred[0] > 0.5f) == (label == 1);
    return rank_of_label(pred, m->outputs, label) == 0;
}

static double mean_error(const float *pred, const float *y, int64_t outputs, bool squared)
{
    double sum = 0.0;
    for (int64_t c = 0; c < outputs; c++) {
        double error = (double)pred[c] - (double)y[c];
        sum += squared ? error * error : fabs(error);
    }
    return sum / (double)outputs;
}

/* Rows of the half below 1/2: 0 for less than 2^-32, then one bin for each 2^-14 of an octave. */
static int half_bin(float p)
{
    const uint32_t least = 0x2f800000; /* the bits of 2^-32 */
    uint32_t bits;
    memcpy(&bits, &p, sizeof bits);
    return p < 0x1p-32f ? 0 : (int)((bits - least) >> 9) + 1;
}

static int score_bin(float p)
{
    if (!(p > 0.0f))
        return 0;
    return p < 0.5f ? half_bin(p) : AUC_BINS - 1 - half_bin(p < 1.0f ? 1.0f - p : 0.0f);
}

static void add_score(ebb_metrics_t *m, const float *pred, int32_t label, double weight)
{
    int64_t units = llrint(weight * WEIGHT_UNITS);
    float p = m->outputs == 1 ? pred[0] : pred[1];
    __atomic_fetch_add(&m->bins[(label == 1 ? AUC_BINS : 0) + score_bin(p)], units, __ATOMIC_RELAXED);
}

static double row_value(const ebb_metrics_t *m, const metric_t *metric, const float *pred, int32_t label,
                        const float *y)
{
    switch (metric->kind) {
    case EBB_METRIC_ACCURACY: return is_right(m, pred, label) ? 1.0 : 0.0;
    case EBB_METRIC_TOPK: return rank_of_label(pred, m->outputs, label) < metric->k ? 1.0 : 0.0;
    case EBB_METRIC_LOG_LOSS: return -log(label_probability(m, pred, label));
    case EBB_METRIC_RMSE: return mean_error(pred, y, m->outputs, true);
    default: return mean_error(pred, y, m->outputs, false);
    }
}

ebb_status_t ebb_metrics_add(ebb_metrics_t *metrics, int64_t rows, const float *pred, const int32_t *label,
                             const float *y, const double *row_loss, const double *row_weight)
{
    ebb_metrics_t *m = metrics;
    bool classes = m->loss.kind == EBB_LOSS_SOFTMAX_CE || m->loss.kind == EBB_LOSS_BINARY_CE;
    if (classes ? !label : !y)
        return EBB_FAIL(EBB_EINVAL, "metrics of %s need %s", ebb_loss_name(m->loss.kind),
                        classes ? "labels" : "real targets");
    int64_t n_classes = m->outputs > 1 ? m->outputs : 2;
    ebb_exact_t sum[1 + MAX_METRICS];
    memset(sum, 0, sizeof sum);
    for (int64_t r = 0; r < rows; r++) {
        const float *p = pred + r * m->outputs;
        int32_t c = classes ? label[r] : 0;
        if (classes && (c < 0 || c >= n_classes))
            return EBB_FAIL(EBB_EDATA, "label %d is not a class; there are %lld", (int)c, (long long)n_classes);
        ebb_exact_add(&sum[0], row_weight[r]);
        for (int i = 0; i < m->n; i++) {
            if (m->metric[i].kind == EBB_METRIC_AUC)
                add_score(m, p, c, row_weight[r]);
            else if (m->metric[i].kind == EBB_METRIC_LOSS)
                ebb_exact_add(&sum[1 + i], row_loss[r]);
            else
                ebb_exact_add(&sum[1 + i],
                              row_weight[r] * row_value(m, &m->metric[i], p, c, classes ? NULL : y + r * m->outputs));
        }
    }
    pthread_mutex_lock(&m->lock);
    for (int i = 0; i < 1 + m->n; i++) {
        ebb_exact_merge(&m->sum[i], &sum[i]);
        ebb_exact_normalize(&m->sum[i]);
    }
    pthread_mutex_unlock(&m->lock);
    return EBB_OK;
}

/* ---- reading ---- */

int64_t *ebb_metrics_words(ebb_metrics_t *metrics, int64_t *n_p)
{
    *n_p = metrics->n_words;
    return metrics->words;
}

int ebb_metrics_count(const ebb_metrics_t *metrics)
{
    return metrics->n;
}

/* Share of pairs of the two classes in the right order, ties half; integers until the one division. */
static double area_under_curve(const int64_t *negative, const int64_t *positive)
{
    unsigned __int128 twice_right = 0;
    uint64_t below = 0, all_positive = 0;
    for (int b = 0; b < AUC_BINS; b++) {
        twice_right += (unsigned __int128)(uint64_t)positive[b] * (2 * below + (uint64_t)negative[b]);
        below += (uint64_t)negative[b];
        all_positive += (uint64_t)positive[b];
    }
    if (below == 0 || all_positive == 0)
        return NAN;
    return (double)twice_right / (2.0 * (double)below * (double)all_positive);
}

const char *ebb_metrics_get(ebb_metrics_t *metrics, int i, double *value_p, bool *more_is_better_p)
{
    const metric_t *metric = &metrics->metric[i];
    ebb_metric_kind_t kind = metric->kind;
    double weight = ebb_exact_value(&metrics->sum[0]);
    double value = NAN;
    if (kind == EBB_METRIC_AUC)
        value = area_under_curve(metrics->bins, metrics->bins + AUC_BINS);
    else if (weight > 0.0)
        value = ebb_exact_value(&metrics->sum[1 + i]) / weight;
    if (value_p)
        *value_p = kind == EBB_METRIC_RMSE ? sqrt(value) : value;
    if (more_is_better_p)
        *more_is_better_p = kind == EBB_METRIC_ACCURACY || kind == EBB_METRIC_TOPK || kind == EBB_METRIC_AUC;
    return metric->name;
}
