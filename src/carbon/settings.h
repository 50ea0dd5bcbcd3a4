/* The source of intensities that an environment names. */
#ifndef EBB_JOBS_SETTINGS_H
#define EBB_JOBS_SETTINGS_H

#include <ebb/carbon.h>

typedef struct ebb_carbon_settings {
    ebb_carbon_source_options_t options;
    char *key;                                                 /* "neso GB": names the source, without token */
    char *source, *zone, *file, *url, *column, *cache, *token; /* owned */
} ebb_carbon_settings_t;

/* EBB_CARBON_SOURCE, _ZONE, _FILE, _URL, _COLUMN, _SCOPE, _SIGNAL and _CACHE of `environment` (NAME=VALUE, ended by
 * NULL), else of this process; EBB_CARBON_TOKEN of this process alone. What does not name a source gives one of which
 * nothing is known. */
ebb_status_t ebb_carbon_settings_of(char *const *environment, ebb_carbon_settings_t *settings);
void ebb_carbon_settings_free(ebb_carbon_settings_t *settings);

#endif
