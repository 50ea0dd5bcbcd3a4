/* Any bytes as CSV; the last one chooses options. */
#include "import.h"
#include "shard/import/csv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const specs[] = {NULL,     "*:numeric",        "*:categorical",
                                        "*:text", "*:numeric:bins=3", "*:numeric:standard"};
    if (size < 2)
        return 0;
    int choice = data[--size];
    ebb_pack_options_t options = {
        .columns = specs[choice % 6], .no_header = choice & 64, .delimiter = choice & 128 ? ',' : 0, .hash_bits = 4};
    ebb_importer_t importer = {.format = &ebb_format_csv, .options = &options};
    ebb_log_set_level(EBB_LOG_ERROR);
    char *head = NULL;
    int64_t begin = 0;
    if (importer.format->create(&importer) == EBB_OK && ebb_alloc("head", size + 2, (void **)&head) == EBB_OK) {
        memcpy(head, data, size);
        importer.format->probe(head, (int64_t)size, "fuzz");
        if (csv_columns_begin(importer.state, &options, "fuzz", head, (int64_t)size, &begin) == EBB_OK)
            fuzz_text(&importer, data, begin, (int64_t)size);
    }
    ebb_error_clear();
    ebb_free(head);
    importer.format->destroy(&importer);
    return 0;
}
