/* Digests: SHA-256 (libcrypto, which uses the CPU's SHA instructions) for what is recorded, XXH3 (xxhash) for what is
 * checked often. */
#ifndef EBB_BASE_HASH_H
#define EBB_BASE_HASH_H

#include <ebb/base.h>

typedef struct ebb_sha256 ebb_sha256_t;
ebb_status_t ebb_sha256_create(ebb_sha256_t **sha_p) EBB_MUST_CHECK;
void ebb_sha256_update(ebb_sha256_t *sha, const void *data, size_t bytes);
void ebb_sha256_final(ebb_sha256_t *sha, char hex[65]); /* ends the digest; destroy still needed */
void ebb_sha256_destroy(ebb_sha256_t *sha);
ebb_status_t ebb_sha256_file(const char *path, char hex[65]);

uint64_t ebb_xxh3(const void *data, size_t bytes);
void ebb_hex(const void *bytes, size_t n, char *hex); /* 2n + 1 characters */

#endif
