/* Backends that must be refused, one per FAKE: 1 wrong table version, 2 a missing entry, 3 its entry fails, 4 no entry
 * exported, 5 a device without what devices need; 0 is complete and must open. */
#include <ebb/compute.h>

#include <stdlib.h>

#define OP (void *)fake

ebb_status_t ebb_backend_entry(uint32_t version, int device, ebb_backend_t *backend, void (**close_p)(ebb_backend_t *));

static ebb_status_t fake(void)
{
    return EBB_OK;
}

static void fake_close(ebb_backend_t *backend)
{
    setenv("FAKE_CLOSED", getenv("FAKE_CLOSED") ? "again" : "once", 1);
}

static const ebb_backend_ops_t table = {
    .version = EBB_BACKEND_VERSION + (FAKE == 1),
    .caps = FAKE == 5 ? 0 : EBB_CAP_HOST_MEMORY,
    .name = "fake",
    .describe = OP,
    .alloc = OP,
    .free = OP,
    .upload = OP,
    .download = OP,
    .zero = OP,
    .copy = OP,
    .exec_create = OP,
    .exec_sync = OP,
    .exec_destroy = OP,
    .gemm = OP,
    .bias_grad = OP,
    .act_forward = OP,
    .act_backward = OP,
    .layernorm_forward = OP,
    .layernorm_backward = OP,
    .dropout = OP,
    .csr_gemm = OP,
    .csr_grad = OP,
    .csr_terms = OP,
    .terms_sum = OP,
    .terms_free = OP,
    .csr_grad_dense = OP,
    .fm_forward = OP,
    .fm_grad = OP,
    .fm_grad_dense = OP,
    .embed_forward = OP,
    .embed_grad = OP,
    .embed_grad_dense = OP,
    .loss = OP,
    .link = OP,
    .add = OP,
    .sumsq = OP,
    .update = OP,
    .set_rows = OP,
#if FAKE != 2
    .update_rows = OP,
#endif
};

#if FAKE != 4
EBB_API ebb_status_t ebb_backend_entry(uint32_t version, int device, ebb_backend_t *backend,
                                       void (**close_p)(ebb_backend_t *))
{
    if (FAKE == 3)
        return EBB_EUNAVAILABLE;
    backend->ops = &table;
    *close_p = fake_close;
    return EBB_OK;
}
#endif
