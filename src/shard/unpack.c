/* Decompression of one stored chunk: zstd, deflate (libdeflate where the build found it: two to three times zlib), and
 * LZF, the fast filter that h5py brings along and libhdf5 knows nothing of.
 *
 * Every codec writes exactly the bytes a chunk has or fails; nothing is read beyond the input or written beyond the
 * output, whatever the input holds. One object per thread; it allocates when it is made and never again. */
#include "shard/unpack.h"
#include "base/alloc.h"

#include <zlib.h>
#include <zstd.h>
#ifdef EBB_HAVE_LIBDEFLATE
#include <libdeflate.h>
#endif

struct ebb_unpack {
    ZSTD_DCtx *zstd;
#ifdef EBB_HAVE_LIBDEFLATE
    struct libdeflate_decompressor *deflate;
#else
    z_stream inflater;
    bool inflating;
#endif
};

ebb_status_t ebb_unpack_create(ebb_unpack_t **u_p)
{
    ebb_unpack_t *u;
    *u_p = NULL;
    EBB_TRY(EBB_NEW("decompressor", &u));
    u->zstd = ZSTD_createDCtx();
#ifdef EBB_HAVE_LIBDEFLATE
    u->deflate = libdeflate_alloc_decompressor();
    bool good = u->zstd && u->deflate;
#else
    u->inflating = inflateInit(&u->inflater) == Z_OK;
    bool good = u->zstd && u->inflating;
#endif
    if (!good) {
        ebb_unpack_destroy(u);
        return EBB_FAIL(EBB_ENOMEM, "out of memory for a decompressor");
    }
    *u_p = u;
    return EBB_OK;
}

void ebb_unpack_destroy(ebb_unpack_t *u)
{
    if (!u)
        return;
#ifdef EBB_HAVE_LIBDEFLATE
    libdeflate_free_decompressor(u->deflate);
#else
    if (u->inflating)
        inflateEnd(&u->inflater);
#endif
    ZSTD_freeDCtx(u->zstd);
    ebb_free(u);
}

static ebb_status_t unpack_zstd(ebb_unpack_t *u, bool checksum, const void *in, int64_t in_bytes, void *out,
                                int64_t out_bytes)
{
    /* ZSTD_d_forceIgnoreChecksum, which zstd.h declares for static linking only */
    ZSTD_DCtx_setParameter(u->zstd, ZSTD_d_experimentalParam3, !checksum);
    size_t n = ZSTD_decompressDCtx(u->zstd, out, (size_t)out_bytes, in, (size_t)in_bytes);
    if (ZSTD_isError(n))
        return EBB_FAIL(EBB_ECORRUPT, "zstd: %s", ZSTD_getErrorName(n));
    if ((int64_t)n != out_bytes)
        return EBB_FAIL(EBB_ECORRUPT, "zstd: %zu bytes where %lld were expected", n, (long long)out_bytes);
    return EBB_OK;
}

#ifdef EBB_HAVE_LIBDEFLATE
static ebb_status_t unpack_deflate(ebb_unpack_t *u, const void *in, int64_t in_bytes, void *out, int64_t out_bytes)
{
    enum libdeflate_result result =
        libdeflate_zlib_decompress(u->deflate, in, (size_t)in_bytes, out, (size_t)out_bytes, NULL);
    if (result != LIBDEFLATE_SUCCESS)
        return EBB_FAIL(EBB_ECORRUPT, "deflate: %s",
                        result == LIBDEFLATE_BAD_DATA ? "damaged data" : "not the expected length");
    return EBB_OK;
}
#else
static ebb_status_t unpack_deflate(ebb_unpack_t *u, const void *in, int64_t in_bytes, void *out, int64_t out_bytes)
{
    z_stream *z = &u->inflater;
    if (inflateReset(z) != Z_OK)
        return EBB_FAIL(EBB_EBUG, "zlib cannot begin");
    z->next_in = (Bytef *)(uintptr_t)in;
    z->avail_in = (uInt)in_bytes;
    z->next_out = out;
    z->avail_out = (uInt)out_bytes;
    int code = inflate(z, Z_FINISH);
    if (code != Z_STREAM_END || z->avail_out != 0)
        return EBB_FAIL(EBB_ECORRUPT, "deflate: %s", z->msg ? z->msg : "not the expected length");
    return EBB_OK;
}
#endif

/* A stream of runs. First byte c < 32: c + 1 bytes follow as they are. Otherwise a copy of (c >> 5) + 2 bytes (7 in the
 * upper bits: the next byte is added), from the distance (c & 31) << 8 | next byte, plus 1; it may overlap itself. */
static int64_t lzf(const uint8_t *in, int64_t in_bytes, uint8_t *out, int64_t out_bytes)
{
    int64_t i = 0, o = 0;
    while (i < in_bytes) {
        int64_t c = in[i++];
        if (c < 32) {
            int64_t n = c + 1;
            if (n > in_bytes - i || n > out_bytes - o)
                return -1;
            for (int64_t k = 0; k < n; k++)
                out[o + k] = in[i + k];
            i += n;
            o += n;
            continue;
        }
        int64_t n = (c >> 5) + 2;
        if (n == 9 && i < in_bytes)
            n += in[i++];
        if (i >= in_bytes)
            return -1;
        int64_t distance = ((c & 31) << 8) + in[i++] + 1;
        if (distance > o || n > out_bytes - o)
            return -1;
        for (int64_t k = 0; k < n; k++)
            out[o + k] = out[o + k - distance];
        o += n;
    }
    return o;
}

static ebb_status_t unpack_lzf(const void *in, int64_t in_bytes, void *out, int64_t out_bytes)
{
    int64_t n = lzf(in, in_bytes, out, out_bytes);
    if (n == out_bytes)
        return EBB_OK;
    return n < 0
               ? EBB_FAIL(EBB_ECORRUPT, "lzf: damaged data")
               : EBB_FAIL(EBB_ECORRUPT, "lzf: %lld bytes where %lld were expected", (long long)n, (long long)out_bytes);
}

ebb_status_t ebb_unpack(ebb_unpack_t *u, ebb_codec_t codec, bool checksum, const void *in, int64_t in_bytes, void *out,
                        int64_t out_bytes)
{
    switch (codec) {
    case EBB_CODEC_ZSTD: return unpack_zstd(u, checksum, in, in_bytes, out, out_bytes);
    case EBB_CODEC_DEFLATE: return unpack_deflate(u, in, in_bytes, out, out_bytes);
    case EBB_CODEC_LZF: return unpack_lzf(in, in_bytes, out, out_bytes);
    default: return EBB_FAIL(EBB_EBUG, "codec %d", (int)codec);
    }
}
