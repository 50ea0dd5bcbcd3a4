/* Digests of a checkpoint's arrays: XXH3 of each, and two SHA-256 over names, shapes and values of the weights and of
 * the states. The values come in any pieces; on little-endian machines, which is all that Ebb builds for, the bytes
 * hashed are the bytes of the file. */
#include "checkpoint/internal.h"

#include "base/alloc.h"
#include "base/hash.h"

#include <string.h>
#include <xxhash.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "checkpoints are hashed and written as they lie in memory");

struct ebb_ckpt_digest {
    ebb_sha256_t *weights, *states, *now; /* now: the one that the current array belongs to */
    XXH3_state_t *xxh3;
};

ebb_status_t ebb_ckpt_digest_create(ebb_ckpt_digest_t **d_p)
{
    ebb_ckpt_digest_t *d;
    ebb_status_t status;
    *d_p = NULL;
    EBB_TRY(EBB_NEW("checkpoint digest", &d));
    EBB_TRY_GOTO(status, ebb_sha256_create(&d->weights), failed);
    EBB_TRY_GOTO(status, ebb_sha256_create(&d->states), failed);
    d->xxh3 = XXH3_createState();
    if (!d->xxh3) {
        status = EBB_FAIL(EBB_ENOMEM, "out of memory for a digest");
        goto failed;
    }
    *d_p = d;
    return EBB_OK;
failed:
    ebb_ckpt_digest_destroy(d);
    return status;
}

void ebb_ckpt_digest_destroy(ebb_ckpt_digest_t *d)
{
    if (!d)
        return;
    ebb_sha256_destroy(d->weights);
    ebb_sha256_destroy(d->states);
    XXH3_freeState(d->xxh3);
    ebb_free(d);
}

void ebb_ckpt_digest_begin(ebb_ckpt_digest_t *d, const ebb_ckpt_index_t *index, const ebb_ckpt_array_t *array)
{
    int64_t shape[2] = {array->rows, array->cols};
    d->now = array->state < 0 ? d->weights : d->states;
    if (array->state >= 0)
        ebb_sha256_update(d->now, index->state[array->state], strlen(index->state[array->state]) + 1);
    ebb_sha256_update(d->now, array->name, strlen(array->name) + 1);
    ebb_sha256_update(d->now, shape, sizeof shape);
    XXH3_64bits_reset(d->xxh3);
}

void ebb_ckpt_digest_add(ebb_ckpt_digest_t *d, const float *values, int64_t n)
{
    ebb_sha256_update(d->now, values, (size_t)n * sizeof *values);
    XXH3_64bits_update(d->xxh3, values, (size_t)n * sizeof *values);
}

uint64_t ebb_ckpt_digest_end(ebb_ckpt_digest_t *d)
{
    return XXH3_64bits_digest(d->xxh3);
}

void ebb_ckpt_digest_final(ebb_ckpt_digest_t *d, const ebb_ckpt_index_t *index, char weights[65], char optimizer[65])
{
    ebb_sha256_final(d->weights, weights);
    optimizer[0] = 0;
    if (index->n_states >= 0)
        ebb_sha256_final(d->states, optimizer);
}
