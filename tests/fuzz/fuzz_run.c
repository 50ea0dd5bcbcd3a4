/* Any text as a run file: a clear error or a configuration, never a crash or a leak. */
#include "train/config.h"

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ebb_yaml_t yaml = {0};
    ebb_run_config_t *config = NULL;
    if (ebb_yaml_parse((const char *)data, size, "fuzz.yaml", &yaml) == EBB_OK)
        (void)ebb_run_config_build(&yaml, &config);
    ebb_run_config_free(config);
    ebb_yaml_free(&yaml);
    ebb_error_clear();
    return 0;
}
