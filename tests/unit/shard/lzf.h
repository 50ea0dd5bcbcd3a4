/* LZF as a filter of libhdf5, for tests: h5py brings one of its own, libhdf5 has none. */
#ifndef EBB_TESTS_LZF_H
#define EBB_TESTS_LZF_H

#include <hdf5.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { LZF_FILTER = 32000, LZF_MOST = 264 };

/* Length of the match of in[i..] with what lies `distance` before. */
static inline size_t lzf_match(const uint8_t *in, size_t n, size_t i, size_t distance)
{
    size_t m = 0;
    while (distance <= i && i + m < n && m < LZF_MOST && in[i + m] == in[i + m - distance])
        m++;
    return m;
}

/* Tries a few distances; every kind of run comes up. Returns the bytes written; out must hold n + n / 32 + 1. */
static inline size_t lzf_pack(const uint8_t *in, size_t n, uint8_t *out)
{
    static const size_t distances[] = {1, 2, 3, 4, 8, 57, 114, 456, 1024, 8192};
    size_t o = 0, literals = 0; /* the open run's length byte is at out[o - literals - 1] */
    for (size_t i = 0; i < n;) {
        size_t best = 0, from = 0;
        for (size_t d = 0; d < sizeof distances / sizeof *distances; d++)
            if (lzf_match(in, n, i, distances[d]) > best) {
                best = lzf_match(in, n, i, distances[d]);
                from = distances[d] - 1;
            }
        if (best < 3) {
            if (literals == 0)
                o++;
            out[o++] = in[i++];
            literals++;
            out[o - literals - 1] = (uint8_t)(literals - 1);
            literals = literals == 32 ? 0 : literals;
            continue;
        }
        literals = 0;
        size_t length = best - 2;
        out[o++] = (uint8_t)((length < 7 ? length : 7) << 5 | from >> 8);
        if (length >= 7)
            out[o++] = (uint8_t)(length - 7);
        out[o++] = (uint8_t)from;
        i += best;
    }
    return o;
}

static inline size_t lzf_unpack(const uint8_t *in, size_t n, uint8_t *out)
{
    const uint8_t *end = in + n;
    uint8_t *to = out;
    while (in < end) {
        unsigned c = *in++;
        if (c >> 5 == 0) {
            memcpy(to, in, c + 1);
            to += c + 1;
            in += c + 1;
            continue;
        }
        unsigned length = c >> 5 == 7 ? 9u + *in++ : (c >> 5) + 2;
        const uint8_t *from = to - ((c & 31) << 8 | *in++) - 1;
        while (length-- > 0)
            *to++ = *from++;
    }
    return (size_t)(to - out);
}

static inline size_t lzf_filter(unsigned flags, size_t n_values, const unsigned *values, size_t bytes, size_t *size_p,
                                void **buf_p)
{
    bool read = flags & H5Z_FLAG_REVERSE;
    size_t room = read ? values[0] : bytes + bytes / 32 + 1;
    uint8_t *out = malloc(room);
    size_t n = read ? lzf_unpack(*buf_p, bytes, out) : lzf_pack(*buf_p, bytes, out);
    if (!read && n >= bytes) { /* optional filter: the chunk is stored as it is */
        free(out);
        return 0;
    }
    free(*buf_p);
    *buf_p = out;
    *size_p = room;
    return n;
}

static inline void lzf_register(void)
{
    static const H5Z_class2_t filter = {H5Z_CLASS_T_VERS, LZF_FILTER, 1, 1, "lzf", NULL, NULL, lzf_filter};
    H5Zregister(&filter);
}

#endif
