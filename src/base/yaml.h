/* YAML to JSON, keeping lines. libyaml parses; Ebb's option tables check. (libcyaml, the other candidate, describes C
 * structures in a second schema and cannot give the nearest valid key.) */
#ifndef EBB_BASE_YAML_H
#define EBB_BASE_YAML_H

#include <ebb/base.h>
#include "base/json.h"

typedef struct ebb_yaml {
    json_t *root; /* object; plain scalars become numbers, booleans, null as in YAML 1.2's core schema; quoted ones stay
                     strings */
    json_t *lines; /* same shape: key path "a.b[2].c" -> line number */
    char *origin;
} ebb_yaml_t;

ebb_status_t ebb_yaml_parse(const char *text, size_t bytes, const char *origin, ebb_yaml_t *yaml);
ebb_status_t ebb_yaml_load(const char *path, ebb_yaml_t *yaml);
void ebb_yaml_free(ebb_yaml_t *yaml);
/* Override one key: "a.b=c" or "a.b[2].c=d"; the value is YAML. Its line is "--set". */
ebb_status_t ebb_yaml_set(ebb_yaml_t *yaml, const char *assignment);
/* "run.yaml:12" of a key path (of its nearest known parent), or "--set". Static per thread. */
const char *ebb_yaml_where(const ebb_yaml_t *yaml, const char *path);
/* Put "run.yaml:12: " before the current error if it begins with a key path under `section` ("model.layers[2].linear:
 * unknown key "outt"..." gives the line of that key); for errors of parts that know key paths but not the file. Returns
 * the error's status. */
ebb_status_t ebb_yaml_locate_error(const ebb_yaml_t *yaml, const char *section);

#endif
