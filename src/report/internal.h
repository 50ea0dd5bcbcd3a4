/* Parts of the report stage. */
#ifndef EBB_REPORT_INTERNAL_H
#define EBB_REPORT_INTERNAL_H

#include <ebb/report.h>
#include "base/json.h"
#include "base/text.h"

struct ebb_record {
    char *folder, *json_path, *lines_path;
    json_t *json;
    int lock_fd, lines_fd;
    ebb_text_t line; /* under construction */
};

/* A line of metrics.jsonl about steps, beside the one before it. */
typedef struct ebb_progress_point {
    double step, loss, rows_per_s, stall; /* stall: share of the time; the latter two since the line before, or NAN */
} ebb_progress_point_t;

/* An evaluation: its first metric. */
typedef struct ebb_valid_point {
    double step, value;
} ebb_valid_point_t;

struct ebb_report {
    char path[4096], name[256];
    bool is_run;
    json_t *run; /* run.json, or an empty object */
    ebb_ledger_row_t *rows;
    int64_t n;
    double submitted; /* 0: not known */
    ebb_ledger_sums_t sums;
    ebb_progress_point_t *progress;
    int64_t n_progress, progress_capacity;
    ebb_valid_point_t *valid;
    int64_t n_valid, valid_capacity;
    char valid_name[64];
};

/* Functional units: a million rows trained on, or one run; *unit_p says which. */
double ebb_report_units(const ebb_report_t *report, const char **unit_p);
/* (E*I + M) / R; NAN if no intensity is known. */
double ebb_report_sci(const ebb_report_t *report);
/* Start of the time that charts show, and its end. */
void ebb_report_span(const ebb_report_t *report, double *begin_p, double *end_p);
/* GPUs of the run as a list of objects: energy.gpus of its record, of all starts; figures not known are null. */
json_t *ebb_report_gpus(const ebb_report_t *report);
json_t *ebb_report_object(const ebb_report_t *report);
/* Each appends one SVG drawing; nothing where there is nothing to draw. */
void ebb_chart_grid(const ebb_report_t *report, ebb_text_t *out);
void ebb_chart_power(const ebb_report_t *report, ebb_text_t *out);
void ebb_chart_loss(const ebb_report_t *report, ebb_text_t *out);
void ebb_chart_throughput(const ebb_report_t *report, ebb_text_t *out);
void ebb_chart_stall(const ebb_report_t *report, ebb_text_t *out);

/* Bytes of metrics.jsonl that are read line by line for charts; of larger files, a part. Tests make it small. */
extern int64_t ebb_report_lines_bytes;

/* Open metrics.jsonl and cut off a torn last line. */
ebb_status_t ebb_lines_open(ebb_record_t *record) EBB_MUST_CHECK;

#endif
