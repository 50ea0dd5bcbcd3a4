/* Energy, and what GPUs did, as text and JSON. */
#ifndef EBB_APPS_ENERGY_SHOW_H
#define EBB_APPS_ENERGY_SHOW_H

#include "base/json.h"
#include "base/text.h"

#include <ebb/energy.h>

/* "12.3 kJ (3.42 Wh)" */
const char *energy_text(double joules, char *text, size_t size);

/* A GPU as it stands in run.json; figures that nobody could read are absent. NULL when out of memory. */
json_t *energy_gpu_json(const ebb_gpu_use_t *gpu);
/* A line for each of a list of those, as `ebb report` and `ebb meter` show them: "93 % busy, 100 at most; memory ...".
 */
void energy_gpus_text(const json_t *gpus, const char *indent, ebb_text_t *out);

#endif
