/* Any bytes as Debian control stanzas. */
#include "import.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ebb_pack_options_t options = {.hash_bits = 8};
    ebb_importer_t importer = {.format = &ebb_format_deb822, .options = &options};
    if (importer.format->create(&importer) == EBB_OK)
        fuzz_text(&importer, data, 0, (int64_t)size);
    ebb_error_clear();
    importer.format->destroy(&importer);
    return 0;
}
