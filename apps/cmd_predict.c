/* ebb predict: a trained model's outputs for every row, streamed to a file or to standard output. */
#include "commands.h"
#include "base/alloc.h"
#include "base/file.h"
#include "base/output.h"

#include <ebb/comm.h>
#include <ebb/train.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

typedef enum format { FORMAT_AUTO, FORMAT_CSV, FORMAT_NPY, FORMAT_JSONL } format_t;
static const char *const formats[] = {"auto", "csv", "npy", "jsonl", NULL};

typedef struct predict_options {
    char *out, *dataset;
    int format;
    bool probabilities;
    int64_t threads;
} predict_options_t;

static const ebb_option_t options[] = {
    {.name = "out",
     .letter = 'o',
     .type = EBB_OPT_STRING,
     .offset = offsetof(predict_options_t, out),
     .help = "file to write; default, or -: standard output"},
    {.name = "format",
     .letter = 'f',
     .type = EBB_OPT_CHOICE,
     .offset = offsetof(predict_options_t, format),
     .def = "auto",
     .choices = formats,
     .help =
         "csv, npy (float32, rows x outputs) or jsonl; auto: by the end of the file's name; csv on standard output"},
    {.name = "probabilities",
     .letter = 'p',
     .type = EBB_OPT_FLAG,
     .offset = offsetof(predict_options_t, probabilities),
     .def = "true",
     .help = "csv and jsonl: also each class's probability"},
    {OPTION_DATASET(predict_options_t, "in a foreign HDF5 file: path of X")},
    {OPTION_THREADS(predict_options_t)},
    {0},
};

static const ebb_example_t examples[] = {
    {"Class and probabilities of every row", "ebb predict runs/sections data/test -o predictions.csv"},
    {"An array for NumPy", "ebb predict runs/sections cells.h5ad --dataset raw/X -o predictions.npy"},
    {0},
};

typedef struct writer {
    ebb_predictor_t *predictor;
    ebb_output_t out;
    format_t format;
    bool probabilities;
    int64_t rows, outputs;
    ebb_text_t line;
} writer_t;

#define NPY_HEADER 128

static ebb_status_t format_by_name(const char *out, format_t *format_p)
{
    static const struct {
        const char *end;
        format_t format;
    } ends[] = {{".csv", FORMAT_CSV}, {".npy", FORMAT_NPY}, {".jsonl", FORMAT_JSONL}, {".json", FORMAT_JSONL}};
    const char *dot = strrchr(out, '.');
    for (size_t i = 0; dot && i < sizeof ends / sizeof *ends; i++) {
        if (strcasecmp(dot, ends[i].end) == 0) {
            *format_p = ends[i].format;
            return EBB_OK;
        }
    }
    return EBB_FAIL(EBB_EUSAGE,
                    "predict: --out %s: the name tells no format; end it in .csv, .npy or .jsonl, or give --format",
                    out);
}

static ebb_status_t format_of(const predict_options_t *o, format_t *format_p)
{
    bool streams = ebb_output_streams(o->out);
    *format_p = o->format == FORMAT_AUTO ? FORMAT_CSV : (format_t)o->format;
    if (o->format == FORMAT_AUTO && !streams)
        EBB_TRY(format_by_name(o->out, format_p));
    if (*format_p == FORMAT_NPY && streams)
        return EBB_FAIL(EBB_EUSAGE, "predict: npy needs a file to go to: give --out FILE");
    return EBB_OK;
}

/* Text in quotes where CSV (RFC 4180) or JSON asks for them. */
static void add_name(ebb_text_t *out, const char *name, format_t format)
{
    bool quote = format == FORMAT_JSONL || strpbrk(name, ",\"\r\n");
    if (quote)
        ebb_text_append(out, "\"", 1);
    for (const char *c = name; *c; c++) {
        if (*c == '"')
            ebb_text_append(out, format == FORMAT_JSONL ? "\\\"" : "\"\"", 2);
        else if (format == FORMAT_JSONL && (*c == '\\' || (unsigned char)*c < 0x20))
            ebb_text_add(out, "\\u%04x", (unsigned char)*c);
        else
            ebb_text_append(out, c, 1);
    }
    if (quote)
        ebb_text_append(out, "\"", 1);
}

/* Class of a row: the likeliest, or for a single output the one its probability points at. */
static int64_t class_of(const writer_t *w, const float *pred)
{
    int64_t best = 0;
    if (w->outputs == 1)
        return pred[0] >= 0.5f;
    for (int64_t k = 1; k < w->outputs; k++)
        if (pred[k] > pred[best])
            best = k;
    return best;
}

static void add_csv_header(writer_t *w)
{
    bool classes = ebb_predictor_class(w->predictor, 0) != NULL;
    ebb_text_add(&w->line, "row");
    if (classes) {
        ebb_text_add(&w->line, ",prediction");
        if (w->probabilities && w->outputs == 1)
            ebb_text_add(&w->line, ",probability");
        for (int64_t k = 0; w->probabilities && w->outputs > 1 && k < w->outputs; k++) {
            ebb_text_add(&w->line, ",");
            add_name(&w->line, ebb_predictor_class(w->predictor, k), FORMAT_CSV);
        }
    } else if (w->outputs == 1) {
        ebb_text_add(&w->line, ",prediction");
    } else {
        for (int64_t k = 0; k < w->outputs; k++)
            ebb_text_add(&w->line, ",prediction_%lld", (long long)k);
    }
    ebb_text_add(&w->line, "\n");
}

static void add_csv_row(writer_t *w, int64_t row, const float *pred)
{
    bool classes = ebb_predictor_class(w->predictor, 0) != NULL;
    ebb_text_add(&w->line, "%lld", (long long)row);
    if (classes) {
        ebb_text_append(&w->line, ",", 1);
        add_name(&w->line, ebb_predictor_class(w->predictor, class_of(w, pred)), FORMAT_CSV);
    }
    for (int64_t k = 0; (!classes || w->probabilities) && k < w->outputs; k++)
        ebb_text_add(&w->line, ",%.9g", (double)pred[k]);
    ebb_text_append(&w->line, "\n", 1);
}

static void add_json_row(writer_t *w, int64_t row, const float *pred)
{
    bool classes = ebb_predictor_class(w->predictor, 0) != NULL;
    ebb_text_add(&w->line, "{\"row\":%lld,", (long long)row);
    if (classes) {
        ebb_text_add(&w->line, "\"prediction\":");
        add_name(&w->line, ebb_predictor_class(w->predictor, class_of(w, pred)), FORMAT_JSONL);
        if (w->probabilities)
            ebb_text_add(&w->line, w->outputs == 1 ? ",\"probability\":" : ",\"probabilities\":");
    } else {
        ebb_text_add(&w->line, "\"prediction\":");
    }
    if (!classes || w->probabilities) {
        ebb_text_add(&w->line, w->outputs > 1 ? "[" : "");
        for (int64_t k = 0; k < w->outputs; k++)
            ebb_text_add(&w->line, "%s%.9g", k ? "," : "", (double)pred[k]);
        ebb_text_add(&w->line, w->outputs > 1 ? "]" : "");
    }
    ebb_text_append(&w->line, "}\n", 2);
}

static ebb_status_t put(writer_t *w, const void *data, size_t bytes)
{
    if (w->line.failed)
        return EBB_FAIL(EBB_ENOMEM, "out of memory for predictions");
    return fwrite(data, 1, bytes, w->out.f) == bytes ? EBB_OK : ebb_file_error(w->out.path, "write");
}

static ebb_status_t put_npy_header(writer_t *w)
{
    /* Magic, version 1.0, length of what follows: 118. */
    static const unsigned char start[] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, 118, 0};
    char header[NPY_HEADER + 1], shape[100];
    snprintf(shape, sizeof shape, "{'descr': '<f4', 'fortran_order': False, 'shape': (%lld, %lld), }",
             (long long)w->rows, (long long)w->outputs);
    memcpy(header, start, sizeof start);
    snprintf(header + sizeof start, sizeof header - sizeof start, "%-117s\n", shape);
    return put(w, header, NPY_HEADER);
}

static ebb_status_t write_rows(void *user, int64_t row0, int64_t n, int64_t outputs, const float *pred)
{
    writer_t *w = user;
    w->outputs = outputs;
    w->line.n = 0;
    if (row0 == 0 && w->format == FORMAT_NPY)
        EBB_TRY(put_npy_header(w));
    else if (row0 == 0 && w->format == FORMAT_CSV)
        add_csv_header(w);
    w->rows = row0 + n;
    if (w->format == FORMAT_NPY)
        return put(w, pred, (size_t)(n * outputs) * sizeof *pred);
    for (int64_t i = 0; i < n; i++) {
        if (w->format == FORMAT_CSV)
            add_csv_row(w, row0 + i, pred + i * outputs);
        else
            add_json_row(w, row0 + i, pred + i * outputs);
        if (w->line.n > 1 << 16) {
            EBB_TRY(put(w, w->line.s, w->line.n));
            w->line.n = 0;
        }
    }
    return put(w, w->line.s, w->line.n);
}

/* The header's row count is known only now. */
static ebb_status_t finish(writer_t *w)
{
    if (w->format == FORMAT_NPY) {
        if (fseek(w->out.f, 0, SEEK_SET) != 0)
            return ebb_file_error(w->out.path, "seek");
        EBB_TRY(put_npy_header(w));
    }
    return fflush(w->out.f) != 0 ? ebb_file_error(w->out.path, "write") : EBB_OK;
}

static ebb_status_t write_predictions(ebb_comm_t *comm, const predict_options_t *o, writer_t *w, const char *data)
{
    bool first = ebb_comm_rank(comm) == 0;
    EBB_TRY(ebb_comm_agree(comm, first ? ebb_output_open(o->out, &w->out) : EBB_OK));
    ebb_status_t status = ebb_predictor_run(w->predictor, data, o->dataset, write_rows, w);
    if (first && status == EBB_OK)
        status = finish(w);
    return ebb_comm_agree(comm, ebb_output_close(&w->out, status));
}

static ebb_status_t predict(ebb_comm_t *comm, const predict_options_t *o, char **operands)
{
    char path[PATH_MAX];
    writer_t w = {.probabilities = o->probabilities};
    EBB_TRY(ebb_comm_agree(comm, format_of(o, &w.format)));
    EBB_TRY(ebb_predictor_open(comm, ebb_run_named(operands[0], path), (int)o->threads, &w.predictor));
    ebb_status_t status = write_predictions(comm, o, &w, operands[1]);
    ebb_text_free(&w.line);
    ebb_predictor_close(w.predictor);
    return status;
}

static ebb_status_t run(void *opts, int n_operands, char **operands)
{
    ebb_comm_t *comm;
    EBB_TRY(ebb_comm_default(&comm));
    ebb_status_t status = predict(comm, opts, operands);
    ebb_comm_destroy(comm);
    return status;
}

const ebb_command_t cmd_predict = {
    .name = "predict",
    .help = "Write a trained model's predictions for every row",
    .operands = "MODEL DATA",
    .about =
        "MODEL is a run's folder or a model file; DATA a data set with the same columns (targets are not needed).\n"
        "Rows are streamed: memory does not grow with the data.\n",
    .min_operands = 2,
    .max_operands = 2,
    .options = options,
    .options_bytes = sizeof(predict_options_t),
    .examples = examples,
    .run = run,
};
