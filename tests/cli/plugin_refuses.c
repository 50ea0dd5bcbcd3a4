/* A model plug-in that refuses every configuration, for the test that its words reach the user. */
#include <ebb/model.h>

static ebb_status_t create(const char *config, const ebb_dataset_info_t *info, int64_t outputs, void **model_p)
{
    *model_p = NULL;
    return EBB_FAIL(EBB_EDATA, "the plug-in refuses %lld columns", (long long)info->cols);
}
static void destroy(void *model)
{
}
static ebb_status_t declare(void *model, int *n_p, const ebb_param_t **params_p)
{
    *n_p = 0;
    return EBB_OK;
}
static ebb_status_t bind(void *model, const ebb_layout_t *layout)
{
    return EBB_OK;
}
static int64_t workspace_bytes(void *model, int64_t rows)
{
    return 0;
}
static ebb_status_t forward(void *model, const ebb_pass_t *pass, const ebb_input_t *in, float *out)
{
    return EBB_OK;
}
static ebb_status_t backward(void *model, const ebb_pass_t *pass, const ebb_input_t *in, float *dout,
                             ebb_grads_t *grads)
{
    return EBB_OK;
}

EBB_API const ebb_model_ops_t ebb_model_entry = {
    .version = EBB_MODEL_VERSION,
    .name = "refuses",
    .create = create,
    .destroy = destroy,
    .declare = declare,
    .bind = bind,
    .workspace_bytes = workspace_bytes,
    .forward = forward,
    .backward = backward,
};
