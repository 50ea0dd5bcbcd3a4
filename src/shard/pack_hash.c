/* SHA-256 of the sources, for the provenance. One thread of each rank reads its share of them (every n-th) while the
 * scan parses, so that the page cache serves both; begin and end are called by all ranks, and end exchanges the
 * digests.
 */
#include "shard/pack.h"
#include "base/alloc.h"
#include "base/file.h"
#include "base/hash.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

enum { BLOCK = 256 * 1024 };

struct ebb_pack_hash {
    const ebb_pack_t *pack;
    pthread_t id;
    bool running;
    atomic_bool quit;
    ebb_status_t status;
    ebb_error_t error;
    char *block;
};

static ebb_status_t hash_file(struct ebb_pack_hash *h, ebb_sha256_t *sha, const char *path, char hex[65])
{
    int fd;
    ssize_t n = 0;
    EBB_TRY(ebb_file_open(path, O_RDONLY, 0, &fd));
    while (!atomic_load(&h->quit) && (n = read(fd, h->block, BLOCK)) > 0)
        ebb_sha256_update(sha, h->block, (size_t)n);
    ebb_status_t status = n < 0 ? ebb_file_error(path, "read") : EBB_OK;
    ebb_sha256_final(sha, hex);
    close(fd);
    return status;
}

static ebb_status_t hash_share(struct ebb_pack_hash *h)
{
    const ebb_pack_t *p = h->pack;
    EBB_TRY(ebb_alloc("block of a source", BLOCK, (void **)&h->block));
    for (int i = p->rank; i < p->n_sources && !atomic_load(&h->quit); i += p->size) {
        ebb_sha256_t *sha;
        EBB_TRY(ebb_sha256_create(&sha));
        ebb_status_t status = hash_file(h, sha, p->source[i].path, p->source_sha256[i]);
        ebb_sha256_destroy(sha);
        EBB_TRY(status);
    }
    return EBB_OK;
}

static void *hash_main(void *arg)
{
    struct ebb_pack_hash *h = arg;
    h->status = hash_share(h);
    if (h->status != EBB_OK)
        h->error = *ebb_error();
    return NULL;
}

ebb_status_t ebb_pack_hash_begin(ebb_pack_t *p)
{
    EBB_TRY(EBB_NEW_ARRAY("hashes of sources", p->n_sources, &p->source_sha256));
    EBB_TRY(EBB_NEW("hashing thread", &p->hash));
    p->hash->pack = p;
    if (pthread_create(&p->hash->id, NULL, hash_main, p->hash) != 0)
        return EBB_FAIL(EBB_ENOMEM, "cannot start a thread to hash the sources");
    p->hash->running = true;
    return EBB_OK;
}

static void join(struct ebb_pack_hash *h)
{
    if (h->running)
        pthread_join(h->id, NULL);
    h->running = false;
}

ebb_status_t ebb_pack_hash_end(ebb_pack_t *p)
{
    join(p->hash);
    ebb_status_t status = p->hash->status;
    if (status != EBB_OK)
        ebb_error_set(&p->hash->error);
    EBB_TRY(ebb_comm_agree(p->comm, status));
    /* every digest was made by one rank, the others have zeros */
    return ebb_comm_allreduce(p->comm, p->source_sha256, p->n_sources * (int64_t)(sizeof *p->source_sha256 / 8),
                              EBB_COMM_I64, EBB_BOR);
}

void ebb_pack_hash_destroy(ebb_pack_t *p)
{
    if (p->hash) {
        atomic_store(&p->hash->quit, true);
        join(p->hash);
        ebb_free(p->hash->block);
    }
    ebb_free(p->hash);
    ebb_free(p->source_sha256);
}
