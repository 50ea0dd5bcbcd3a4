/* Digests of a checkpoint's arrays: XXH3 of each, and two SHA-256 over names, shapes and values of the weights and of
 * the states. The values come in any pieces; on little-endian machines, which is all that Ebb builds for, the bytes
 * hashed are the bytes of the file.
 *
 * SHA-256 is by far the slowest part of a save, so in the background each of its two streams has a thread with a list
 * of what is to be hashed; the values must stay as they are until ebb_ckpt_digest_wait or _final.
 */
#include "checkpoint/internal.h"

#include "base/alloc.h"
#include "base/hash.h"

#include <pthread.h>
#include <string.h>
#include <xxhash.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "checkpoints are hashed and written as they lie in memory");

/* An array's name and shape (values NULL), or values of it. */
typedef struct item {
    const ebb_ckpt_index_t *index;
    const ebb_ckpt_array_t *array;
    const float *values;
    int64_t n;
} item_t;

typedef struct stream {
    ebb_sha256_t *sha; /* NULL: the digest is known */
    bool threaded;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t more, through;
    /* guarded by lock: */
    item_t *item;
    int64_t n, capacity, done;
    bool quit;
} stream_t;

struct ebb_ckpt_digest {
    stream_t weights, states;
    stream_t *now; /* the one that the current array belongs to */
    XXH3_state_t *xxh3;
};

static void hash_item(const stream_t *s, const item_t *item)
{
    const ebb_ckpt_array_t *array = item->array;
    if (item->values) {
        ebb_sha256_update(s->sha, item->values, (size_t)item->n * sizeof *item->values);
        return;
    }
    int64_t shape[2] = {array->rows, array->cols};
    const char *state = array->state >= 0 ? item->index->state[array->state] : NULL;
    if (state)
        ebb_sha256_update(s->sha, state, strlen(state) + 1);
    ebb_sha256_update(s->sha, array->name, strlen(array->name) + 1);
    ebb_sha256_update(s->sha, shape, sizeof shape);
}

static void *stream_main(void *arg)
{
    stream_t *s = arg;
    pthread_mutex_lock(&s->lock);
    for (;;) {
        while (!s->quit && s->done == s->n)
            pthread_cond_wait(&s->more, &s->lock);
        if (s->quit)
            break;
        item_t item = s->item[s->done];
        pthread_mutex_unlock(&s->lock);
        hash_item(s, &item);
        pthread_mutex_lock(&s->lock);
        if (++s->done == s->n)
            pthread_cond_signal(&s->through);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

static ebb_status_t stream_begin(stream_t *s, bool threaded)
{
    EBB_TRY(ebb_sha256_create(&s->sha));
    if (!threaded)
        return EBB_OK;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->more, NULL);
    pthread_cond_init(&s->through, NULL);
    s->threaded = pthread_create(&s->thread, NULL, stream_main, s) == 0;
    if (s->threaded)
        return EBB_OK;
    pthread_cond_destroy(&s->through);
    pthread_cond_destroy(&s->more);
    pthread_mutex_destroy(&s->lock);
    return EBB_FAIL(EBB_ENOMEM, "cannot start a thread for a digest");
}

/* What is not hashed yet never will be. */
static void stream_end(stream_t *s)
{
    if (s->threaded) {
        pthread_mutex_lock(&s->lock);
        s->quit = true;
        pthread_cond_signal(&s->more);
        pthread_mutex_unlock(&s->lock);
        pthread_join(s->thread, NULL);
        pthread_cond_destroy(&s->through);
        pthread_cond_destroy(&s->more);
        pthread_mutex_destroy(&s->lock);
    }
    ebb_sha256_destroy(s->sha);
    ebb_free(s->item);
}

static ebb_status_t stream_add(stream_t *s, item_t item)
{
    if (!s->sha)
        return EBB_OK;
    if (!s->threaded) {
        hash_item(s, &item);
        return EBB_OK;
    }
    pthread_mutex_lock(&s->lock);
    if (s->done == s->n)
        s->done = s->n = 0;
    ebb_status_t status = ebb_grow("digest list", (void **)&s->item, &s->capacity, s->n + 1, sizeof *s->item);
    if (status == EBB_OK)
        s->item[s->n++] = item;
    pthread_cond_signal(&s->more);
    pthread_mutex_unlock(&s->lock);
    return status;
}

static void stream_wait(stream_t *s)
{
    if (!s->threaded)
        return;
    pthread_mutex_lock(&s->lock);
    while (s->done < s->n)
        pthread_cond_wait(&s->through, &s->lock);
    pthread_mutex_unlock(&s->lock);
}

ebb_status_t ebb_ckpt_digest_create(bool background, bool weights, ebb_ckpt_digest_t **d_p)
{
    ebb_ckpt_digest_t *d;
    ebb_status_t status = EBB_OK;
    *d_p = NULL;
    EBB_TRY(EBB_NEW("checkpoint digest", &d));
    if (weights)
        EBB_TRY_GOTO(status, stream_begin(&d->weights, background), failed);
    EBB_TRY_GOTO(status, stream_begin(&d->states, background), failed);
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
    stream_end(&d->weights);
    stream_end(&d->states);
    XXH3_freeState(d->xxh3);
    ebb_free(d);
}

ebb_status_t ebb_ckpt_digest_begin(ebb_ckpt_digest_t *d, const ebb_ckpt_index_t *index, const ebb_ckpt_array_t *array)
{
    d->now = array->state < 0 ? &d->weights : &d->states;
    XXH3_64bits_reset(d->xxh3);
    return stream_add(d->now, (item_t){.index = index, .array = array});
}

ebb_status_t ebb_ckpt_digest_add(ebb_ckpt_digest_t *d, const float *values, int64_t n)
{
    ebb_status_t status = stream_add(d->now, (item_t){.values = values, .n = n});
    XXH3_64bits_update(d->xxh3, values, (size_t)n * sizeof *values);
    return status;
}

void ebb_ckpt_digest_wait(ebb_ckpt_digest_t *d)
{
    stream_wait(&d->weights);
    stream_wait(&d->states);
}

uint64_t ebb_ckpt_digest_end(ebb_ckpt_digest_t *d)
{
    return XXH3_64bits_digest(d->xxh3);
}

void ebb_ckpt_digest_final(ebb_ckpt_digest_t *d, const ebb_ckpt_index_t *index, char weights[65], char optimizer[65])
{
    ebb_ckpt_digest_wait(d);
    if (d->weights.sha)
        ebb_sha256_final(d->weights.sha, weights);
    optimizer[0] = 0;
    if (index->n_states >= 0)
        ebb_sha256_final(d->states.sha, optimizer);
}
