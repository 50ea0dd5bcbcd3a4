/* What `ebb train` shows while it runs, on stderr. */
#include "train_show.h"
#include "energy_show.h"
#include "base/progress.h"
#include "base/text.h"

#include <math.h>
#include <stdio.h>

#define PLAIN_SECONDS 5.0
#define FEW_STEPS     50 /* in a run of fewer a model hardly learns */

static const char *count(double n, char text[32])
{
    return ebb_format_count(n, text, 32);
}

static double number(const json_t *object, const char *key)
{
    return (double)json_integer_value(json_object_get(object, key));
}

static const char *string(const json_t *object, const char *key)
{
    const char *s = json_string_value(json_object_get(object, key));
    return s ? s : "?";
}

static const char *plural(double n)
{
    return n == 1 ? "" : "s";
}

void train_show_start(const char *name, const json_t *facts)
{
    char a[32], b[32], c[32];
    const json_t *data = json_object_get(facts, "data");
    double ranks = number(facts, "ranks"), threads = number(facts, "threads");
    fprintf(stderr, "run    %s: %s steps of %.0f rows, %.0f an epoch\n", name, count(number(facts, "total_steps"), a),
            number(facts, "batch"), number(facts, "epoch_steps"));
    if (number(facts, "total_steps") < FEW_STEPS && number(facts, "batch") > number(facts, "lanes"))
        fprintf(stderr, "       few steps to learn in: a smaller train.batch or more train.epochs gives more\n");
    fprintf(stderr, "data   %s: %s rows x %s columns, %s %s\n", string(data, "name"), count(number(data, "rows"), a),
            count(number(data, "cols"), b), count(number(data, "nnz"), c),
            json_is_true(json_object_get(data, "sparse")) ? "non-zeros" : "values");
    fprintf(stderr, "model  %s parameters\n", count(number(facts, "parameters"), a));
    for (const char *line = string(facts, "model"); *line;) {
        int n = 0;
        while (line[n] && line[n] != '\n')
            n++;
        fprintf(stderr, "         %.*s\n", n, line);
        line += n + (line[n] == '\n');
    }
    fprintf(stderr, "on     %.0f lanes on %.0f rank%s x %.0f thread%s, %s: %s\n", number(facts, "lanes"), ranks,
            plural(ranks), threads, plural(threads), string(facts, "backend"), string(facts, "device"));
    const json_t *devices = json_object_get(facts, "devices");
    for (size_t r = 0; json_array_size(devices) > 1 && r < json_array_size(devices); r++)
        fprintf(stderr, "%s rank %zu on %s\n", r == 0 ? "gpus  " : "      ", r,
                json_string_value(json_array_get(devices, r)));
    if (json_array_size(devices) > 1)
        fprintf(stderr, "       joined by %s\n", string(facts, "wire"));
    const json_t *memory = json_object_get(facts, "memory");
    fprintf(stderr, "memory %s of weights on each rank, %s of optimiser state over all, %s for checkpoints on rank 0\n",
            ebb_format_bytes(number(memory, "weights"), a, sizeof a),
            ebb_format_bytes(number(memory, "state"), b, sizeof b),
            ebb_format_bytes(number(memory, "snapshot"), c, sizeof c));
}

/* Rates and shares over the last few seconds would jump about; those since the start settle. */
void train_show_step(const ebb_step_report_t *s, const ebb_epoch_report_t *last)
{
    ebb_text_t line = {0};
    char rate[32], eta[32];
    double per_second = s->seconds > 0 ? (double)s->rows_done / s->seconds : 0;
    double steps_done =
        s->rows > 0 ? (double)s->rows_done / (double)s->rows : 0; /* of this process; the tail step is a little short */
    double left = steps_done > 0 ? s->seconds / steps_done * (double)(s->steps - s->step) : 0;
    ebb_text_add(&line, "epoch %lld/%lld  step %lld/%lld  %s rows/s  loss %.4f", (long long)s->epoch + 1,
                 (long long)s->epochs, (long long)s->step, (long long)s->steps, count(per_second, rate), s->loss);
    if (last && last->n_metrics > 0)
        ebb_text_add(&line, "  valid %s %.4f", last->metrics[0].name, last->metrics[0].value);
    ebb_text_add(&line, "  stall %.0f %%  sync %.0f %%  ETA %s", 100 * s->stall_seconds / s->seconds,
                 100 * s->sync_seconds / s->seconds, ebb_format_duration(left, eta, sizeof eta));
    if (line.s)
        ebb_progress_line(PLAIN_SECONDS, false, line.s);
    ebb_text_free(&line);
}

void train_show_epoch(const ebb_epoch_report_t *e, int64_t epochs)
{
    ebb_text_t line = {0};
    char time[32];
    ebb_text_add(&line, "epoch %lld/%lld  loss %.4f", (long long)e->epoch + 1, (long long)epochs, e->train_loss);
    for (int i = 0; i < e->n_metrics; i++)
        ebb_text_add(&line, "%s%s %.4f", i == 0 ? "  valid: " : "  ", e->metrics[i].name, e->metrics[i].value);
    ebb_text_add(&line, "%s  after %s", e->best ? " (best)" : "", ebb_format_duration(e->seconds, time, sizeof time));
    if (line.s)
        ebb_progress_line(PLAIN_SECONDS, true, line.s);
    ebb_text_free(&line);
}

static void show_carbon(const ebb_ledger_sums_t *s)
{
    if (isnan(s->grams)) {
        fprintf(stderr, "carbon not known: name the grid's zone by carbon.zone or EBB_CARBON_ZONE\n");
        return;
    }
    fprintf(stderr, "carbon %.3g g CO2e", s->grams);
    if (s->asap_g > 0)
        fprintf(stderr, ", %.3g g had it started at once and never paused", s->asap_g);
    if (s->unknown_j > 0)
        fprintf(stderr, "; %.0f %% of the energy at an intensity that is not known, taken as the highest seen",
                100 * s->unknown_j / s->job_j);
    fputc('\n', stderr);
}

void train_show_result(const ebb_train_result_t *r, const ebb_ledger_sums_t *s)
{
    char steps[32], time[32], joules[64], low[64], high[64];
    fprintf(stderr, "done   %s steps in %s\n", count((double)r->steps, steps),
            ebb_format_duration(r->seconds, time, sizeof time));
    fprintf(stderr, "energy %s beyond idling, of %s that the hosts drew", energy_text(s->job_j, joules, sizeof joules),
            energy_text(s->node_j, high, sizeof high));
    if (s->job_high_j > s->job_low_j)
        fprintf(stderr, ", estimated: between %s and %s", energy_text(s->job_low_j, low, sizeof low),
                energy_text(s->job_high_j, high, sizeof high));
    fputc('\n', stderr);
    show_carbon(s);
    fprintf(stderr, "model  %s\n", r->model_path);
    fprintf(stderr, "sha256 weights %s\n       state   %s\n", r->weights_sha256, r->optimizer_sha256);
}
