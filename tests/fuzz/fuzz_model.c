/* Any text as the model section: a model or an error, never a crash; what was made is consistent. */
#include <ebb/model.h>

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_model(const char *config, const ebb_dataset_info_t *info)
{
    ebb_model_t *model;
    char text[8192];
    ebb_status_t status = ebb_model_create(config, info, &model);
    if ((status == EBB_OK) != (model != NULL) || (status != EBB_OK && ebb_error()->message[0] == 0))
        abort();
    if (model && (ebb_model_workspace_bytes(model, 7) < 0 || ebb_model_describe(model, text, sizeof text) != EBB_OK))
        abort();
    ebb_model_destroy(model);
    ebb_error_clear();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const ebb_field_t fields[] = {{.name = "a", .begin = 0, .end = 10, .categorical = true},
                                         {.name = "b", .begin = 12, .end = 30}};
    ebb_dataset_info_t sparse = {.name = "s",
                                 .rows = 100,
                                 .cols = 40,
                                 .nnz = 500,
                                 .sparse = true,
                                 .target = EBB_TARGET_CLASS,
                                 .target_cols = 1,
                                 .classes = 3,
                                 .n_fields = 2,
                                 .fields = fields};
    ebb_dataset_info_t dense = {
        .name = "d", .rows = 100, .cols = 40, .nnz = 4000, .target = EBB_TARGET_REAL, .target_cols = 2};
    char *config = malloc(size + 1);
    memcpy(config, data, size);
    config[size] = 0;
    if (!strstr(config, "plugin")) { /* no shared objects by chance */
        try_model(config, &sparse);
        try_model(config, &dense);
    }
    free(config);
    return 0;
}
