/* Decompression of stored chunks, one object per thread. */
#ifndef EBB_SHARD_UNPACK_H
#define EBB_SHARD_UNPACK_H

#include "shard/layout.h"

typedef struct ebb_unpack ebb_unpack_t;

ebb_status_t ebb_unpack_create(ebb_unpack_t **u_p) EBB_MUST_CHECK;
void ebb_unpack_destroy(ebb_unpack_t *u);
/* Exactly out_bytes, or EBB_ECORRUPT. checksum: verify zstd's own too. */
ebb_status_t ebb_unpack(ebb_unpack_t *u, ebb_codec_t codec, bool checksum, const void *in, int64_t in_bytes, void *out,
                        int64_t out_bytes);

#endif
