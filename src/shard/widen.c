/* Rows out of byte planes: columns to int32 and values to float32, or to elements as they are stored. Rows are short
 * and begin anywhere, so each is done in steps of up to 64 bytes that run past its end into what the next row
 * overwrites; the lines of rows to come are fetched meanwhile, into the second-level cache (see loader/copy.c). Every
 * version gives the same bits. */
#include "shard/layout.h"
#include "shard/planes.h"
#include "shard/stored.h"

enum { FETCHED = 24576, LEAST_AHEAD = 3, MOST_AHEAD = 48, FETCH_BYTES = 1024, PUT_AHEAD = 512 };

/* Rows to look ahead, so that the fetched lines stay in cache until they are needed. */
static int64_t rows_ahead(const ebb_widen_t *w)
{
    if (w->fetched == 0 || w->rows == 0)
        return w->rows;
    int64_t pieces = w->stride > 0 ? w->fetched : 1;
    int64_t ahead = FETCHED / ((w->to[w->rows] - w->to[0]) / w->rows * w->fetched + 64 * pieces);
    return ahead < LEAST_AHEAD ? LEAST_AHEAD : ahead > MOST_AHEAD ? MOST_AHEAD : ahead;
}

static inline void fetch_row(const ebb_widen_t *w, int64_t r)
{
    int64_t bytes = w->to[r + 1] - w->to[r], pieces = w->stride > 0 ? w->fetched : 1;
    if (!w->from[r] || bytes == 0)
        return;
    bytes = w->stride > 0 ? bytes : bytes * w->fetched;
    bytes = bytes < FETCH_BYTES ? bytes : FETCH_BYTES; /* the CPU's own prefetcher follows from there */
    for (int64_t p = 0; p < pieces; p++) {
        const uintptr_t from = (uintptr_t)(w->from[r] + p * w->stride), end = from + (uintptr_t)bytes;
        for (uintptr_t line = from & ~(uintptr_t)63; line < end; line += 64)
            __builtin_prefetch((const void *)line, 0, 2);
    }
}

/* step(p, out + i) does the elements from plane byte p on. Lines of the output are asked for ahead of the stores, which
 * otherwise wait for them one after another (a sixth of the time of long rows out of memory). Rows without planes to
 * fetch were fetched with others. */
#define ROWS(type, width, step)                                                                                        \
    do {                                                                                                               \
        const int64_t ahead = rows_ahead(w);                                                                           \
        for (int64_t r = first; r < end; r++) {                                                                        \
            const uint8_t *p = w->from[r];                                                                             \
            type *out = (type *)w->out + w->to[r];                                                                     \
            int64_t n = w->to[r + 1] - w->to[r], s = w->stride > 0 ? w->stride : n;                                    \
            if (r + ahead < w->rows)                                                                                   \
                fetch_row(w, r + ahead);                                                                               \
            for (int64_t i = 0; p && i < n; i += (width)) {                                                            \
                if ((width) > 1)                                                                                       \
                    __builtin_prefetch((char *)(out + i) + PUT_AHEAD, 1, 3);                                           \
                step;                                                                                                  \
            }                                                                                                          \
        }                                                                                                              \
    } while (0)

static inline uint32_t two(const uint8_t *p, int64_t s)
{
    return p[0] | (uint32_t)p[s] << 8;
}

static inline uint32_t four(const uint8_t *p, int64_t s)
{
    return two(p, s) | two(p + 2 * s, s) << 16;
}

static void rows_portable(const ebb_widen_t *w, int64_t first, int64_t end)
{
    if (w->columns == 1)
        ROWS(int32_t, 1, (void)s; out[i] = p[i]);
    else if (w->columns == 2)
        ROWS(int32_t, 1, out[i] = (int32_t)two(p + i, s));
    else if (w->columns == 3)
        ROWS(int32_t, 1, out[i] = (int32_t)(two(p + i, s) | (uint32_t)p[i + 2 * s] << 16));
    else if (w->columns == 4)
        ROWS(int32_t, 1, out[i] = (int32_t)four(p + i, s));
    else if (w->elem == EBB_ELEM_U8)
        ROWS(float, 1, (void)s; out[i] = p[i]);
    else if (w->elem == EBB_ELEM_I8)
        ROWS(float, 1, (void)s; out[i] = (int8_t)p[i]);
    else if (w->elem == EBB_ELEM_U16)
        ROWS(float, 1, out[i] = (float)two(p + i, s));
    else if (w->elem == EBB_ELEM_I16)
        ROWS(float, 1, out[i] = (int16_t)two(p + i, s));
    else if (w->elem == EBB_ELEM_F16)
        ROWS(float, 1, out[i] = half_to_float((uint16_t)two(p + i, s)));
    else
        ROWS(uint32_t, 1, out[i] = four(p + i, s));
}

/* How elements are put as they are stored: one plane, two, or one of u16 columns whose other is all 0. The rest is four
 * bytes wide, as what is widened. */
typedef enum put { PUT_WIDE, PUT_BYTES, PUT_SHORTS, PUT_LOW } put_t;

static put_t put_of(const ebb_widen_t *w)
{
    size_t size = ebb_widen_size(w);
    if (size == 1)
        return PUT_BYTES;
    return size == 4 ? PUT_WIDE : w->columns == 1 ? PUT_LOW : PUT_SHORTS;
}

static void stored_portable(const ebb_widen_t *w, put_t put, int64_t first, int64_t end)
{
    if (put == PUT_BYTES)
        ROWS(uint8_t, 1, (void)s; out[i] = p[i]);
    else if (put == PUT_SHORTS)
        ROWS(uint16_t, 1, out[i] = (uint16_t)two(p + i, s));
    else
        ROWS(uint16_t, 1, (void)s; out[i] = p[i]);
}

#if defined(__x86_64__)
#define PUT8(v)  _mm256_storeu_si256((void *)(out + i), v)
#define PUT8F(v) _mm256_storeu_ps(out + i, v)

static AVX2 inline __m256i quad8(const uint8_t *p, int64_t s)
{
    return _mm256_or_si256(pair8(p, p + s), _mm256_slli_epi32(pair8(p + 2 * s, p + 3 * s), 16));
}

static AVX2 inline __m256 half8(const uint8_t *a, const uint8_t *b)
{
    return _mm256_cvtph_ps(_mm_unpacklo_epi8(_mm_loadl_epi64((const void *)a), _mm_loadl_epi64((const void *)b)));
}

static AVX2 inline __m256 short8(const uint8_t *a, const uint8_t *b)
{
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(pair8(a, b), 16), 16));
}

static AVX2 inline __m256i triple8(const uint8_t *p, int64_t s)
{
    return _mm256_or_si256(pair8(p, p + s), _mm256_slli_epi32(load8(p + 2 * s), 16));
}

static AVX2 void rows_avx2(const ebb_widen_t *w, int64_t first, int64_t end)
{
    if (w->columns == 1)
        ROWS(int32_t, 8, (void)s; PUT8(load8(p + i)));
    else if (w->columns == 2)
        ROWS(int32_t, 8, PUT8(pair8(p + i, p + i + s)));
    else if (w->columns == 3)
        ROWS(int32_t, 8, PUT8(triple8(p + i, s)));
    else if (w->columns == 4)
        ROWS(uint32_t, 8, PUT8(quad8(p + i, s)));
    else if (w->elem == EBB_ELEM_U8)
        ROWS(float, 8, (void)s; PUT8F(_mm256_cvtepi32_ps(load8(p + i))));
    else if (w->elem == EBB_ELEM_I8)
        ROWS(float, 8, (void)s;
             PUT8F(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)(p + i))))));
    else if (w->elem == EBB_ELEM_U16)
        ROWS(float, 8, PUT8F(_mm256_cvtepi32_ps(pair8(p + i, p + i + s))));
    else if (w->elem == EBB_ELEM_I16)
        ROWS(float, 8, PUT8F(short8(p + i, p + i + s)));
    else if (w->elem == EBB_ELEM_F16)
        ROWS(float, 8, PUT8F(half8(p + i, p + i + s)));
    else
        ROWS(uint32_t, 8, PUT8(quad8(p + i, s)));
}

static AVX2 inline __m256i low16(const uint8_t *p)
{
    return _mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)p));
}

static AVX2 void stored_avx2(const ebb_widen_t *w, put_t put, int64_t first, int64_t end)
{
    if (put == PUT_BYTES)
        ROWS(uint8_t, 32, (void)s; PUT8(_mm256_loadu_si256((const void *)(p + i))));
    else if (put == PUT_SHORTS)
        ROWS(uint16_t, 16, PUT8(_mm256_or_si256(low16(p + i), _mm256_slli_epi16(low16(p + i + s), 8))));
    else
        ROWS(uint16_t, 16, (void)s; PUT8(low16(p + i)));
}

#define PUT16(v)  _mm512_storeu_si512(out + i, v)
#define PUT16F(v) _mm512_storeu_ps(out + i, v)

static AVX512 inline __m512i quad16(const uint8_t *p, int64_t s)
{
    return _mm512_or_si512(pair16(p, p + s), _mm512_slli_epi32(pair16(p + 2 * s, p + 3 * s), 16));
}

static AVX512 inline __m512 short16(const uint8_t *a, const uint8_t *b)
{
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(pair16(a, b), 16), 16));
}

static AVX512 inline __m512i triple16(const uint8_t *p, int64_t s)
{
    return _mm512_or_si512(pair16(p, p + s), _mm512_slli_epi32(load16(p + 2 * s), 16));
}

static AVX512 void rows_avx512(const ebb_widen_t *w, int64_t first, int64_t end)
{
    if (w->columns == 1)
        ROWS(int32_t, 16, (void)s; PUT16(load16(p + i)));
    else if (w->columns == 2)
        ROWS(int32_t, 16, PUT16(pair16(p + i, p + i + s)));
    else if (w->columns == 3)
        ROWS(int32_t, 16, PUT16(triple16(p + i, s)));
    else if (w->columns == 4)
        ROWS(uint32_t, 16, PUT16(quad16(p + i, s)));
    else if (w->elem == EBB_ELEM_U8)
        ROWS(float, 16, (void)s; PUT16F(_mm512_cvtepi32_ps(load16(p + i))));
    else if (w->elem == EBB_ELEM_I8)
        ROWS(float, 16, (void)s;
             PUT16F(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)(p + i))))));
    else if (w->elem == EBB_ELEM_U16)
        ROWS(float, 16, PUT16F(_mm512_cvtepi32_ps(pair16(p + i, p + i + s))));
    else if (w->elem == EBB_ELEM_I16)
        ROWS(float, 16, PUT16F(short16(p + i, p + i + s)));
    else if (w->elem == EBB_ELEM_F16)
        ROWS(float, 16, PUT16F(_mm512_cvtph_ps(_mm512_cvtepi32_epi16(pair16(p + i, p + i + s)))));
    else
        ROWS(uint32_t, 16, PUT16(quad16(p + i, s)));
}

static AVX512 inline __m512i low32(const uint8_t *p)
{
    return _mm512_cvtepu8_epi16(_mm256_loadu_si256((const void *)p));
}

static AVX512 void stored_avx512(const ebb_widen_t *w, put_t put, int64_t first, int64_t end)
{
    if (put == PUT_BYTES)
        ROWS(uint8_t, 64, (void)s; PUT16(_mm512_loadu_si512(p + i)));
    else if (put == PUT_SHORTS)
        ROWS(uint16_t, 32, PUT16(_mm512_or_si512(low32(p + i), _mm512_slli_epi16(low32(p + i + s), 8))));
    else
        ROWS(uint16_t, 32, (void)s; PUT16(low32(p + i)));
}
#elif defined(__aarch64__)
static void stored_neon(const ebb_widen_t *w, put_t put, int64_t first, int64_t end)
{
    if (put == PUT_BYTES)
        ROWS(uint8_t, 16, (void)s; vst1q_u8(out + i, vld1q_u8(p + i)));
    else if (put == PUT_SHORTS)
        ROWS(uint16_t, 8, vst1q_u16(out + i, pair8(p + i, p + i + s)));
    else
        ROWS(uint16_t, 8, (void)s; vst1q_u16(out + i, vmovl_u8(vld1_u8(p + i))));
}

static void rows_neon(const ebb_widen_t *w, int64_t first, int64_t end)
{
    if (w->columns == 1)
        ROWS(int32_t, 8, (void)s; put8(vmovl_u8(vld1_u8(p + i)), out + i));
    else if (w->columns == 2)
        ROWS(int32_t, 8, put8(pair8(p + i, p + i + s), out + i));
    else if (w->columns == 3)
        ROWS(uint32_t, 8, put8_both(pair8(p + i, p + i + s), vmovl_u8(vld1_u8(p + i + 2 * s)), out + i));
    else if (w->columns == 4)
        ROWS(uint32_t, 8, put8_four(p + i, s, out + i));
    else if (w->elem == EBB_ELEM_U8)
        ROWS(float, 8, (void)s; put8_unsigned(vmovl_u8(vld1_u8(p + i)), out + i));
    else if (w->elem == EBB_ELEM_I8)
        ROWS(float, 8, (void)s; put8_signed(vmovl_s8(vreinterpret_s8_u8(vld1_u8(p + i))), out + i));
    else if (w->elem == EBB_ELEM_U16)
        ROWS(float, 8, put8_unsigned(pair8(p + i, p + i + s), out + i));
    else if (w->elem == EBB_ELEM_I16)
        ROWS(float, 8, put8_signed(vreinterpretq_s16_u16(pair8(p + i, p + i + s)), out + i));
    else if (w->elem == EBB_ELEM_F16)
        ROWS(float, 8, put8_half(pair8(p + i, p + i + s), out + i));
    else
        ROWS(uint32_t, 8, put8_four(p + i, s, out + i));
}
#endif

int ebb_column_planes(ebb_elem_t elem, int64_t cols)
{
    if (elem != EBB_ELEM_U16 && elem != EBB_ELEM_I32)
        return 0;
    return cols <= 1 << 8 ? 1 : cols <= 1 << 16 ? 2 : cols <= 1 << 24 ? 3 : 4;
}

bool ebb_widen_possible(ebb_elem_t elem)
{
    return elem == EBB_ELEM_U8 || elem == EBB_ELEM_I8 || elem == EBB_ELEM_U16 || elem == EBB_ELEM_I16 ||
           elem == EBB_ELEM_F16 || elem == EBB_ELEM_F32;
}

size_t ebb_widen_size(const ebb_widen_t *w)
{
    bool narrow = w->stored && (w->columns == 0 || w->elem == EBB_ELEM_U16);
    return narrow ? ebb_elem_size(w->elem) : 4;
}

/* Of short rows steps are shorter too: 64 bytes from where a row's values begin would often be of a line that nobody
 * has fetched. */
static void stored_rows(const ebb_widen_t *w, put_t put, int64_t first, int64_t end)
{
#if defined(__x86_64__)
    int level = ebb_codec_level_now();
    if (level == 2 && w->stride > 0)
        stored_avx512(w, put, first, end);
    else if (level > 0)
        stored_avx2(w, put, first, end);
    else
#elif defined(__aarch64__)
    if (ebb_codec_level_now() > 0)
        stored_neon(w, put, first, end);
    else
#endif
        stored_portable(w, put, first, end);
}

static void wide_rows(const ebb_widen_t *w, int64_t first, int64_t end)
{
#if defined(__x86_64__)
    int level = ebb_codec_level_now();
    if (level == 2)
        rows_avx512(w, first, end);
    else if (level == 1)
        rows_avx2(w, first, end);
    else
#elif defined(__aarch64__)
    if (ebb_codec_level_now() > 0)
        rows_neon(w, first, end);
    else
#endif
        rows_portable(w, first, end);
}

void ebb_widen_rows(const ebb_widen_t *w, int64_t first, int64_t end)
{
    put_t put = put_of(w);
    if (put == PUT_WIDE)
        wide_rows(w, first, end);
    else
        stored_rows(w, put, first, end);
}

/* ---- columns ---- */

static bool two_beyond(const uint8_t *restrict low, const uint8_t *restrict high, int64_t n, int64_t cols)
{
    const uint8_t h = (uint8_t)(cols >> 8), l = (uint8_t)cols;
    uint8_t bad = 0;
    for (int64_t i = 0; i < n; i++)
        bad |= (uint8_t)((high[i] > h) | ((high[i] == h) & (low[i] >= l)));
    return bad != 0;
}

static uint8_t most(const uint8_t *plane, int64_t n)
{
    uint8_t most = 0;
    for (int64_t i = 0; i < n; i++)
        most = plane[i] > most ? plane[i] : most;
    return most;
}

bool ebb_columns_beyond(ebb_elem_t elem, const uint8_t *plane, int64_t stride, int64_t n, int64_t cols)
{
    if (elem == EBB_ELEM_U16)
        return cols <= UINT16_MAX && two_beyond(plane, plane + stride, n, cols);
    int64_t high = most(plane + 3 * stride, n) << 8 | most(plane + 2 * stride, n);
    if (high < cols >> 16)
        return false;
    bool bad = false;
    for (int64_t i = 0; i < n; i++)
        bad |= four(plane + i, stride) >= (uint64_t)cols;
    return bad;
}
