/* Which source of intensities: as it was said, else as an environment has it. */
#ifndef EBB_CARBON_SETTINGS_H
#define EBB_CARBON_SETTINGS_H

#include <ebb/carbon.h>

/* What was said, by options or a run file; NULL: not said. Borrowed. */
typedef struct ebb_carbon_words {
    const char *source, *zone, *file, *url, *column, *scope, *signal;
} ebb_carbon_words_t;

typedef struct ebb_carbon_settings {
    ebb_carbon_source_options_t options;
    char *key;                                                 /* "neso GB": names the source, without token */
    char *source, *zone, *file, *url, *column, *cache, *token; /* owned */
} ebb_carbon_settings_t;

/* What `said` leaves open EBB_CARBON_SOURCE, _ZONE, _FILE, _URL, _COLUMN, _SCOPE and _SIGNAL of `environment`
 * (NAME=VALUE, ended by NULL; may be NULL) say, else those of this process; also the folder of the cache. A token is
 * taken from this process alone. EBB_EUSAGE and others, but for EBB_ENOMEM: something was not understood, and counts as
 * not said; the settings are filled all the same, and to be freed. */
ebb_status_t ebb_carbon_settings_of(const ebb_carbon_words_t *said, char *const *environment,
                                    ebb_carbon_settings_t *settings);
void ebb_carbon_settings_free(ebb_carbon_settings_t *settings);

#endif
