/* Any bytes as the header of an array. A header that is taken makes sense. */
#include "import.h"
#include "shard/import/array.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ebb_array_header_t header;
    if (ebb_npy_header(data, (int64_t)size, "fuzz", &header) == EBB_OK)
        if (header.rows < 1 || header.cols < 1 || header.bytes < 1 || header.bytes > 8 || header.begin > (int64_t)size)
            __builtin_trap();
    ebb_error_clear();
    return 0;
}
