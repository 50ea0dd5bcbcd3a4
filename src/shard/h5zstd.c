/* The zstd filter of HDF5 (registered number 32015; cd_values[0]: level). One chunk is one zstd frame. Compiled twice:
 * into libebb, which registers it in its own process, and with EBB_H5_PLUGIN as a plug-in that h5dump and others load
 * by HDF5_PLUGIN_PATH. Follows HDF5's rules for filters: 0 is failure, the buffer may be replaced. */
#include "shard/h5.h"

#include <zstd.h>

#define LARGEST_CHUNK ((size_t)4 << 30) /* what HDF5 itself allows */

static size_t replace(void **buf, size_t *buf_size, void *with, size_t room, size_t bytes)
{
    if (ZSTD_isError(bytes) || bytes == 0) {
        H5free_memory(with);
        return 0;
    }
    H5free_memory(*buf);
    *buf = with;
    *buf_size = room;
    return bytes;
}

static size_t expand(size_t n, size_t *buf_size, void **buf)
{
    unsigned long long size = ZSTD_getFrameContentSize(*buf, n);
    if (size == ZSTD_CONTENTSIZE_ERROR || size == ZSTD_CONTENTSIZE_UNKNOWN || size == 0 || size > LARGEST_CHUNK)
        return 0;
    void *out = H5allocate_memory((size_t)size, false);
    if (!out)
        return 0;
    return replace(buf, buf_size, out, (size_t)size, ZSTD_decompress(out, (size_t)size, *buf, n));
}

static size_t shrink(size_t n, int level, size_t *buf_size, void **buf)
{
    size_t room = ZSTD_compressBound(n);
    void *out = H5allocate_memory(room, false);
    ZSTD_CCtx *ctx = ZSTD_createCCtx();
    if (!out || !ctx) {
        H5free_memory(out);
        ZSTD_freeCCtx(ctx);
        return 0;
    }
    ZSTD_CCtx_setParameter(ctx, ZSTD_c_compressionLevel, level);
    ZSTD_CCtx_setParameter(ctx, ZSTD_c_checksumFlag, 1);
    size_t bytes = ZSTD_compress2(ctx, out, room, *buf, n);
    ZSTD_freeCCtx(ctx);
    return replace(buf, buf_size, out, room, bytes);
}

static size_t filter(unsigned flags, size_t n_values, const unsigned values[], size_t n, size_t *buf_size, void **buf)
{
    if (flags & H5Z_FLAG_REVERSE)
        return expand(n, buf_size, buf);
    return shrink(n, n_values > 0 ? (int)values[0] : ZSTD_CLEVEL_DEFAULT, buf_size, buf);
}

#ifdef EBB_H5_PLUGIN
#include <H5PLextern.h>
static
#endif
    const H5Z_class2_t ebb_h5_zstd_filter = {
        .version = H5Z_CLASS_T_VERS,
        .id = EBB_H5_ZSTD,
        .encoder_present = 1,
        .decoder_present = 1,
        .name = "zstd (ebb)",
        .filter = filter,
};

#ifdef EBB_H5_PLUGIN
EBB_API H5PL_type_t H5PLget_plugin_type(void)
{
    return H5PL_TYPE_FILTER;
}

EBB_API const void *H5PLget_plugin_info(void)
{
    return &ebb_h5_zstd_filter;
}
#endif
