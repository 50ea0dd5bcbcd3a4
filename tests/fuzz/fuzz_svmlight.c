/* Any bytes as LIBSVM text, and as lists of items. */
#include "import.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ebb_pack_options_t options = {.one_based = size % 2};
    ebb_importer_t importer = {.format = &ebb_format_svmlight, .options = &options};
    fuzz_text(&importer, data, 0, (int64_t)size);
    importer.format = &ebb_format_items;
    fuzz_text(&importer, data, 0, (int64_t)size);
    return 0;
}
