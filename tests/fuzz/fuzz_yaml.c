/* Run files: any bytes give a tree or an error, an override likewise, and nothing leaks. */
#include "base/yaml.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ebb_yaml_t yaml;
    /* what follows the first zero byte is an assignment of --set */
    const uint8_t *zero = memchr(data, 0, size);
    size_t n = zero ? (size_t)(zero - data) : size;
    if (ebb_yaml_parse((const char *)data, n, "fuzz", &yaml) == EBB_OK) {
        char set[256] = {0};
        size_t rest = zero ? size - n - 1 : 0;
        if (rest > 0) {
            memcpy(set, zero + 1, rest < sizeof set ? rest : sizeof set - 1);
            (void)ebb_yaml_set(&yaml, set);
            (void)ebb_yaml_where(&yaml, set);
        }
        ebb_yaml_free(&yaml);
    }
    ebb_error_clear();
    return 0;
}
