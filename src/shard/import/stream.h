/* A source file as a stream of plain bytes: as it is, or gzip, zstd or bzip2, told apart by their magic numbers. */
#ifndef EBB_SHARD_IMPORT_STREAM_H
#define EBB_SHARD_IMPORT_STREAM_H

#include <ebb/base.h>

typedef struct ebb_stream ebb_stream_t;

/* Regular files only: the packer reads every source more than once. */
ebb_status_t ebb_stream_open(const char *path, ebb_stream_t **stream_p) EBB_MUST_CHECK;
void ebb_stream_close(ebb_stream_t *stream);
bool ebb_stream_compressed(const ebb_stream_t *stream);
int64_t ebb_stream_file_bytes(const ebb_stream_t *stream); /* on disk */
/* Bytes of the file used so far, for progress. */
int64_t ebb_stream_position(const ebb_stream_t *stream);

/* Up to `bytes` bytes at `offset` of the decompressed stream; fewer only at its end. Plain files: any offset, any
 * thread. Compressed ones: one thread; going back starts again from the beginning. */
ebb_status_t ebb_stream_read(ebb_stream_t *stream, int64_t offset, void *buf, int64_t bytes, int64_t *got_p);

#endif
