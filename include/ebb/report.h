/* The record of a run: runs/NAME/run.json says what was run, where, with what outcome and which bits came out;
 * runs/NAME/metrics.jsonl holds one JSON object per line as training went. run.json is replaced as a whole (temporary
 * name, fsync, rename); metrics.jsonl only grows, by whole lines, and is cut back to the step that a resumed run begins
 * from.
 *
 * A record belongs to one thread of rank 0. On other ranks the record is NULL, and every function then does nothing and
 * returns EBB_OK, so that callers need not ask. A run's folder is locked while its record is open: a second process is
 * refused, and a lock ends with the process that held it, however it ended.
 *
 * run.json, version 1: format "ebb-run", version, name, outcome ("running", "finished", "stopped", "failed"), error,
 * started, ended (UTC), starts (one for each start: started, ended, outcome, ranks, hosts, versions), and what the
 * caller sets: config, data, epochs, metrics, weights_sha256, optimizer_sha256 ... A supervisor adds restarts and
 * resizes, lists of {time, step, reason, ranks_before, ranks}. Figures that nobody measured are
 * absent.
 *
 * energy.gpus tells of each GPU that worked for the run in a start that came to its end: start (place in starts), host,
 * index (by the bus), uuid, name, joules, memory_bytes, and busy_percent, memory_busy_percent (of the time in which a
 * kernel ran; in which memory was read or written) and memory_used_bytes (by all processes), each {mean, max, seconds}:
 * the mean weighted by time, and for how many seconds NVML could tell. Lines of metrics.jsonl of kind "step" have
 * gpu_seconds and gpu_busy_seconds, sums since the start over the GPUs of rank 0's host.
 */
#ifndef EBB_REPORT_H
#define EBB_REPORT_H

#include <ebb/base.h>
#include <ebb/comm.h>
#include <ebb/ledger.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EBB_RECORD_VERSION 1

typedef struct ebb_record ebb_record_t;

/* Begin a new run in a folder, made with its parents. EBB_EUSAGE if it is in use, or holds a run that got anywhere,
 * unless `replace`: then that run's record goes (its checkpoints and models are the caller's to remove, now that the
 * folder is locked). */
EBB_API ebb_status_t ebb_record_create(const char *folder, bool replace, ebb_record_t **record_p) EBB_MUST_CHECK;
/* Go on with the run in a folder. EBB_ENOINPUT if there is none, EBB_EUSAGE if it is in use. A torn last line of the
 * metrics goes. */
EBB_API ebb_status_t ebb_record_open(const char *folder, ebb_record_t **record_p) EBB_MUST_CHECK;
/* Releases the lock. Without ebb_record_finish before, run.json keeps saying "running". */
EBB_API void ebb_record_destroy(ebb_record_t *record);
EBB_API const char *ebb_record_folder(const ebb_record_t *record); /* NULL for NULL */

/* ---- run.json ---- */

/* Set a member; dots in key make objects ("data.hash"). Kept in memory until ebb_record_write. */
EBB_API ebb_status_t ebb_record_set_json(ebb_record_t *record, const char *key, const char *json);
EBB_API ebb_status_t ebb_record_set_string(ebb_record_t *record, const char *key, const char *value);
EBB_API ebb_status_t ebb_record_set_i64(ebb_record_t *record, const char *key, int64_t value);
EBB_API ebb_status_t ebb_record_set_f64(ebb_record_t *record, const char *key, double value); /* null if not finite */
/* Append to the list `key`, made if absent. */
EBB_API ebb_status_t ebb_record_append(ebb_record_t *record, const char *key, const char *json);
/* A member as JSON text, to be freed with free(); NULL if absent. */
EBB_API char *ebb_record_get(const ebb_record_t *record, const char *key);
/* Note this start: time, command line, ranks, threads per rank, host and device of each rank, versions of all
 * libraries. Collective over comm: ranks without a record call it too. device: in words, of this rank; may be NULL. */
EBB_API ebb_status_t ebb_record_start(ebb_record_t *record, ebb_comm_t *comm, const char *device, int threads, int argc,
                                      char *const *argv);
/* Replace run.json. */
EBB_API ebb_status_t ebb_record_write(ebb_record_t *record);
/* Outcome by status: EBB_OK "finished", EBB_ESTOPPED "stopped", others "failed" with the message of ebb_error(), which
 * stays set. Then as ebb_record_write. Returns EBB_OK or why it could not be written. */
EBB_API ebb_status_t ebb_record_finish(ebb_record_t *record, ebb_status_t outcome);

/* Write "failed" and why into the run.json of a folder whose record nobody is going to finish, if it still says
 * "running". For a process that is about to die, from any thread. */
EBB_API ebb_status_t ebb_record_fail(const char *folder, const char *why);

/* ---- metrics.jsonl ---- */

/* Drop the lines beyond `step`, that is from the first whose "step" is greater. For a resumed run. */
EBB_API ebb_status_t ebb_record_rewind(ebb_record_t *record, int64_t step);
/* One line: begin ("train", "valid", ...), members, end. The line reaches the file as a whole, in one write. Nothing is
 * allocated once lines have had their usual length. */
EBB_API void ebb_record_line(ebb_record_t *record, const char *kind);
EBB_API void ebb_record_line_i64(ebb_record_t *record, const char *key, int64_t value);
/* As the shortest text that gives the value back. */
EBB_API void ebb_record_line_f64(ebb_record_t *record, const char *key, double value);
EBB_API void ebb_record_line_string(ebb_record_t *record, const char *key, const char *value);
EBB_API ebb_status_t ebb_record_line_end(ebb_record_t *record);

/* ---- reports: what came of a run, for people and auditors ---- */

typedef struct ebb_report ebb_report_t;

/* Read a run's folder (run.json, metrics.jsonl, ledger.db), or a ledger file alone. The ledger's chain is verified:
 * EBB_ECORRUPT names the row that does not fit. A run without a ledger has a report without energy. One thread. */
EBB_API ebb_status_t ebb_report_open(const char *path, ebb_report_t **report_p) EBB_MUST_CHECK;
EBB_API void ebb_report_close(ebb_report_t *report);
EBB_API const ebb_ledger_sums_t *ebb_report_sums(const ebb_report_t *report);
/* Rows of the ledger, in their order. */
EBB_API const ebb_ledger_row_t *ebb_report_rows(const ebb_report_t *report, int64_t *n_p);
/* One JSON object: name, outcome, time, work, energy, carbon, sci, ledger, starts, restarts, resizes, result. Figures
 * that are not known are null. sci.value = (E*I + M) / R with R a million rows trained on, or one run where there are
 * no rows. Free with free(); NULL when out of memory. */
EBB_API char *ebb_report_json(const ebb_report_t *report);
/* Write one self-contained HTML page: charts as SVG, no script, light and dark. */
EBB_API ebb_status_t ebb_report_html(const ebb_report_t *report, const char *path);

#ifdef __cplusplus
}
#endif
#endif
