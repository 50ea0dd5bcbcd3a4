/* Digests. */
#include "base/hash.h"
#include "base/alloc.h"
#include "base/file.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

struct ebb_sha256 {
    EVP_MD_CTX *ctx;
};

void ebb_hex(const void *bytes, size_t n, char *hex)
{
    static const char digits[] = "0123456789abcdef";
    const unsigned char *b = bytes;
    for (size_t i = 0; i < n; i++) {
        hex[2 * i] = digits[b[i] >> 4];
        hex[2 * i + 1] = digits[b[i] & 15];
    }
    hex[2 * n] = 0;
}

ebb_status_t ebb_sha256_create(ebb_sha256_t **sha_p)
{
    ebb_sha256_t *sha;
    *sha_p = NULL;
    EBB_TRY(EBB_NEW("sha-256", &sha));
    sha->ctx = EVP_MD_CTX_new();
    if (!sha->ctx || EVP_DigestInit_ex(sha->ctx, EVP_sha256(), NULL) != 1) {
        ebb_sha256_destroy(sha);
        return EBB_FAIL(EBB_EUNAVAILABLE, "libcrypto gives no SHA-256");
    }
    *sha_p = sha;
    return EBB_OK;
}

void ebb_sha256_update(ebb_sha256_t *sha, const void *data, size_t bytes)
{
    EVP_DigestUpdate(sha->ctx, data, bytes);
}

void ebb_sha256_final(ebb_sha256_t *sha, char hex[65])
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    EVP_DigestFinal_ex(sha->ctx, digest, NULL);
    ebb_hex(digest, 32, hex);
}

void ebb_sha256_destroy(ebb_sha256_t *sha)
{
    if (!sha)
        return;
    EVP_MD_CTX_free(sha->ctx);
    ebb_free(sha);
}

ebb_status_t ebb_sha256_file(const char *path, char hex[65])
{
    enum { BLOCK = 1 << 20 };
    ebb_sha256_t *sha = NULL;
    void *buf = NULL;
    int fd = -1;
    ebb_status_t status;
    EBB_TRY_GOTO(status, ebb_file_open(path, O_RDONLY, 0, &fd), done);
    EBB_TRY_GOTO(status, ebb_alloc("file block", BLOCK, &buf), done);
    EBB_TRY_GOTO(status, ebb_sha256_create(&sha), done);
    ssize_t n;
    while ((n = read(fd, buf, BLOCK)) > 0)
        ebb_sha256_update(sha, buf, (size_t)n);
    if (n < 0)
        status = ebb_file_error(path, "read");
    else
        ebb_sha256_final(sha, hex);
done:
    ebb_sha256_destroy(sha);
    ebb_free(buf);
    if (fd >= 0)
        close(fd);
    return status;
}

uint64_t ebb_xxh3(const void *data, size_t bytes)
{
    return XXH3_64bits(data, bytes);
}
