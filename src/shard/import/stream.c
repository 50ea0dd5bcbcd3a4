/* Source streams. A compressed stream is decoded forwards through one input buffer; a read behind the current offset
 * starts again, a read beyond it decodes and drops what lies between. Concatenated members (gzip, bzip2, zstd frames)
 * are one stream, as their command-line tools have it. */
#include "shard/import/stream.h"
#include "base/alloc.h"
#include "base/file.h"

#include <bzlib.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

enum { INPUT_BYTES = 256 * 1024, SKIP_BYTES = 64 * 1024 };

typedef enum codec { PLAIN, GZIP, ZSTD, BZIP2 } codec_t;

struct ebb_stream {
    char *path;
    int fd;
    codec_t codec;
    int64_t file_bytes;
    /* compressed only */
    int64_t file_offset; /* next byte to read from the file */
    int64_t offset;      /* of the next decoded byte */
    unsigned char *in;
    size_t in_pos, in_n;
    bool mid_member; /* inside a member or frame: the end of the file here is a truncation */
    bool live;       /* the decoder below is initialised */
    z_stream z;
    bz_stream bz;
    ZSTD_DCtx *zstd;
};

static const char *codec_name(codec_t codec)
{
    return codec == GZIP ? "gzip" : codec == ZSTD ? "zstd" : "bzip2";
}

static codec_t codec_of(const unsigned char *head, int64_t n)
{
    if (n >= 3 && head[0] == 0x1f && head[1] == 0x8b && head[2] == 8)
        return GZIP;
    if (n >= 4 && head[0] == 0x28 && head[1] == 0xb5 && head[2] == 0x2f && head[3] == 0xfd)
        return ZSTD;
    if (n >= 4 && memcmp(head, "BZh", 3) == 0 && head[3] >= '1' && head[3] <= '9')
        return BZIP2;
    return PLAIN;
}

static void decoder_end(ebb_stream_t *s)
{
    if (s->live && s->codec == GZIP)
        inflateEnd(&s->z);
    if (s->live && s->codec == BZIP2)
        BZ2_bzDecompressEnd(&s->bz);
    ZSTD_freeDCtx(s->zstd);
    s->zstd = NULL;
    s->live = false;
}

static ebb_status_t decoder_start(ebb_stream_t *s)
{
    bool ok = true;
    memset(&s->z, 0, sizeof s->z);
    memset(&s->bz, 0, sizeof s->bz);
    if (s->codec == GZIP)
        ok = inflateInit2(&s->z, 15 + 16) == Z_OK;
    else if (s->codec == BZIP2)
        ok = BZ2_bzDecompressInit(&s->bz, 0, 0) == BZ_OK;
    else
        ok = (s->zstd = ZSTD_createDCtx()) != NULL;
    s->live = ok;
    return ok ? EBB_OK : EBB_FAIL(EBB_ENOMEM, "%s: no memory for a %s decoder", s->path, codec_name(s->codec));
}

static ebb_status_t rewind_stream(ebb_stream_t *s)
{
    decoder_end(s);
    s->file_offset = s->offset = 0;
    s->in_pos = s->in_n = 0;
    s->mid_member = false;
    return decoder_start(s);
}

ebb_status_t ebb_stream_open(const char *path, ebb_stream_t **stream_p)
{
    ebb_stream_t *s;
    struct stat st;
    unsigned char head[4];
    int64_t got = 0;
    ebb_status_t status;
    *stream_p = NULL;
    EBB_TRY(EBB_NEW("source stream", &s));
    s->fd = -1;
    s->path = ebb_strdup(path);
    if (!s->path) {
        status = EBB_FAIL(EBB_ENOMEM, "no memory for a path");
        goto fail;
    }
    if (stat(path, &st) != 0) {
        status = ebb_file_error(path, "open");
        goto fail;
    }
    if (!S_ISREG(st.st_mode)) {
        status =
            EBB_FAIL(EBB_ENOINPUT,
                     "%s: not a regular file; sources are read twice, so save a pipe's output to a file first", path);
        goto fail;
    }
    EBB_TRY_GOTO(status, ebb_file_open(path, O_RDONLY, 0, &s->fd), fail);
    s->file_bytes = st.st_size;
    EBB_TRY_GOTO(status, ebb_stream_read(s, 0, head, sizeof head, &got), fail);
    if (got == 0) {
        status = EBB_FAIL(EBB_EDATA, "%s: the file is empty", path);
        goto fail;
    }
    s->codec = codec_of(head, got);
    if (s->codec != PLAIN) {
        EBB_TRY_GOTO(status, ebb_alloc("source buffer", INPUT_BYTES, (void **)&s->in), fail);
        EBB_TRY_GOTO(status, rewind_stream(s), fail);
    }
    *stream_p = s;
    return EBB_OK;
fail:
    ebb_stream_close(s);
    return status;
}

void ebb_stream_close(ebb_stream_t *s)
{
    if (!s)
        return;
    decoder_end(s);
    if (s->fd >= 0)
        close(s->fd);
    ebb_free(s->in);
    ebb_free(s->path);
    ebb_free(s);
}

bool ebb_stream_compressed(const ebb_stream_t *s)
{
    return s->codec != PLAIN;
}

int64_t ebb_stream_file_bytes(const ebb_stream_t *s)
{
    return s->file_bytes;
}

int64_t ebb_stream_position(const ebb_stream_t *s)
{
    return s->file_offset - (int64_t)(s->in_n - s->in_pos);
}

static ebb_status_t read_plain(ebb_stream_t *s, int64_t offset, char *buf, int64_t bytes, int64_t *got_p)
{
    *got_p = 0;
    while (*got_p < bytes) {
        ssize_t n = pread(s->fd, buf + *got_p, (size_t)(bytes - *got_p), offset + *got_p);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return ebb_file_error(s->path, "read");
        if (n == 0)
            break;
        *got_p += n;
    }
    return EBB_OK;
}

static ebb_status_t refill(ebb_stream_t *s)
{
    int64_t got;
    EBB_TRY(read_plain(s, s->file_offset, (char *)s->in, INPUT_BYTES, &got));
    s->in_pos = 0;
    s->in_n = (size_t)got;
    s->file_offset += got;
    return EBB_OK;
}

static ebb_status_t damaged(ebb_stream_t *s, const char *why)
{
    return EBB_FAIL(EBB_EDATA, "%s: damaged %s data near byte %lld (%s); get the file again", s->path,
                    codec_name(s->codec), (long long)ebb_stream_position(s), why ? why : "unknown reason");
}

/* One decoder call each: consumes from in[in_pos, in_n), returns how much was put out through *n_p. */
static ebb_status_t step_gzip(ebb_stream_t *s, char *out, size_t room, size_t *n_p)
{
    if (!s->mid_member && inflateReset(&s->z) != Z_OK)
        return damaged(s, "reset");
    s->mid_member = true;
    s->z.next_in = s->in + s->in_pos;
    s->z.avail_in = (unsigned)(s->in_n - s->in_pos);
    s->z.next_out = (unsigned char *)out;
    s->z.avail_out = (unsigned)(room > 1u << 30 ? 1u << 30 : room);
    unsigned room0 = s->z.avail_out;
    int rc = inflate(&s->z, Z_NO_FLUSH);
    s->in_pos = s->in_n - s->z.avail_in;
    *n_p = room0 - s->z.avail_out;
    if (rc == Z_STREAM_END)
        s->mid_member = false;
    return rc == Z_OK || rc == Z_STREAM_END || rc == Z_BUF_ERROR ? EBB_OK : damaged(s, s->z.msg);
}

static ebb_status_t step_bzip2(ebb_stream_t *s, char *out, size_t room, size_t *n_p)
{
    if (!s->mid_member && s->offset > 0) {
        decoder_end(s);
        EBB_TRY(decoder_start(s));
    }
    s->mid_member = true;
    s->bz.next_in = (char *)s->in + s->in_pos;
    s->bz.avail_in = (unsigned)(s->in_n - s->in_pos);
    s->bz.next_out = out;
    s->bz.avail_out = (unsigned)(room > 1u << 30 ? 1u << 30 : room);
    unsigned room0 = s->bz.avail_out;
    int rc = BZ2_bzDecompress(&s->bz);
    s->in_pos = s->in_n - s->bz.avail_in;
    *n_p = room0 - s->bz.avail_out;
    if (rc == BZ_STREAM_END)
        s->mid_member = false;
    return rc == BZ_OK || rc == BZ_STREAM_END ? EBB_OK : damaged(s, "bad block");
}

static ebb_status_t step_zstd(ebb_stream_t *s, char *out, size_t room, size_t *n_p)
{
    ZSTD_inBuffer in = {s->in, s->in_n, s->in_pos};
    ZSTD_outBuffer o = {out, room, 0};
    size_t rc = ZSTD_decompressStream(s->zstd, &o, &in);
    s->in_pos = in.pos;
    *n_p = o.pos;
    if (ZSTD_isError(rc))
        return damaged(s, ZSTD_getErrorName(rc));
    s->mid_member = rc != 0;
    return EBB_OK;
}

/* Decode up to `bytes` bytes at the current offset. */
static ebb_status_t decode(ebb_stream_t *s, char *out, int64_t bytes, int64_t *got_p)
{
    *got_p = 0;
    while (*got_p < bytes) {
        size_t n = 0;
        if (s->in_pos == s->in_n)
            EBB_TRY(refill(s));
        bool ended = s->in_n == 0;
        if (ended && !s->mid_member)
            return EBB_OK;
        size_t before = s->in_pos;
        size_t room = (size_t)(bytes - *got_p);
        EBB_TRY(s->codec == GZIP   ? step_gzip(s, out + *got_p, room, &n)
                : s->codec == ZSTD ? step_zstd(s, out + *got_p, room, &n)
                                   : step_bzip2(s, out + *got_p, room, &n));
        *got_p += (int64_t)n;
        s->offset += (int64_t)n;
        if (n == 0 && s->in_pos == before && ended && s->mid_member)
            return EBB_FAIL(
                EBB_EDATA,
                "%s: truncated %s data: the file ends after %lld bytes in the middle of a stream; get it again",
                s->path, codec_name(s->codec), (long long)s->file_bytes);
    }
    return EBB_OK;
}

ebb_status_t ebb_stream_read(ebb_stream_t *s, int64_t offset, void *buf, int64_t bytes, int64_t *got_p)
{
    char drop[SKIP_BYTES];
    *got_p = 0;
    if (s->codec == PLAIN)
        return read_plain(s, offset, buf, bytes, got_p);
    if (offset < s->offset)
        EBB_TRY(rewind_stream(s));
    while (s->offset < offset) {
        int64_t want = offset - s->offset, got;
        EBB_TRY(decode(s, drop, want < SKIP_BYTES ? want : SKIP_BYTES, &got));
        if (got == 0)
            return EBB_OK;
    }
    return decode(s, buf, bytes, got_p);
}
