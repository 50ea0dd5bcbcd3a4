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

/* Open metrics.jsonl and cut off a torn last line. */
ebb_status_t ebb_lines_open(ebb_record_t *record) EBB_MUST_CHECK;

#endif
