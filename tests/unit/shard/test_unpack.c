/* Decompressors: what was packed comes back; damaged input is an error and nothing else. */
#include "support.h"
#include "lzf.h"
#include "shard/unpack.h"

#include <zlib.h>
#include <zstd.h>

enum { N = 20000, ROOM = 40000 };

typedef struct packed {
    uint8_t in[N], out[ROOM];
    size_t bytes;
} packed_t;

/* Runs, repeats at some distance, and noise. */
static void make(packed_t *p, int kind)
{
    uint32_t noise = 1;
    for (int i = 0; i < N; i++) {
        noise = noise * 1664525 + 1013904223;
        uint8_t random = (uint8_t)(noise >> 24);
        bool fresh = kind == 0 || i < 500 || noise >> 28 == 0;
        p->in[i] = kind == 1 ? (uint8_t)(i / 300) : fresh ? random : p->in[i - 456];
    }
}

static void pack(packed_t *p, ebb_codec_t codec)
{
    uLongf bytes = ROOM;
    if (codec == EBB_CODEC_LZF)
        p->bytes = lzf_pack(p->in, N, p->out);
    else if (codec == EBB_CODEC_ZSTD)
        p->bytes = ZSTD_compress(p->out, ROOM, p->in, N, 3);
    else {
        assert_int_equal(compress(p->out, &bytes, p->in, N), Z_OK);
        p->bytes = bytes;
    }
}

static const ebb_codec_t codecs[] = {EBB_CODEC_ZSTD, EBB_CODEC_DEFLATE, EBB_CODEC_LZF};

static void what_was_packed_comes_back(void **state)
{
    packed_t *p = malloc(sizeof *p);
    uint8_t *out = malloc(N);
    ebb_unpack_t *u;
    assert_ok(ebb_unpack_create(&u));
    for (int kind = 0; kind < 3; kind++)
        for (int c = 0; c < 3; c++) {
            make(p, kind);
            pack(p, codecs[c]);
            assert_ok(ebb_unpack(u, codecs[c], true, p->out, (int64_t)p->bytes, out, N));
            assert_memory_equal(out, p->in, N);
        }
    ebb_unpack_destroy(u);
    free(out);
    free(p);
}

static void a_stream_written_down_by_hand_unpacks(void **state)
{
    /* "abc", then 9 of the last 3 again (overlapping), then "x". */
    const uint8_t in[] = {2, 'a', 'b', 'c', 7 << 5, 0, 2, 0, 'x'};
    char out[14] = {0};
    ebb_unpack_t *u;
    assert_ok(ebb_unpack_create(&u));
    assert_ok(ebb_unpack(u, EBB_CODEC_LZF, false, in, sizeof in, out, 13));
    assert_string_equal(out, "abcabcabcabcx");
    ebb_unpack_destroy(u);
}

/* Buffers of just the size, so that the sanitizer sees every byte too many. */
static void cut_or_changed_input_never_leaves_its_buffers(void **state)
{
    packed_t *p = malloc(sizeof *p);
    ebb_unpack_t *u;
    assert_ok(ebb_unpack_create(&u));
    for (int c = 0; c < 3; c++) {
        make(p, 2);
        pack(p, codecs[c]);
        for (size_t at = 0; at < p->bytes; at += p->bytes / 150 + 1) {
            uint8_t *out = malloc(N), *cut = malloc(at + 1), *changed = malloc(p->bytes);
            memcpy(cut, p->out, at);
            memcpy(changed, p->out, p->bytes);
            changed[at] ^= (uint8_t)(1 + at % 255);
            assert_int_equal(ebb_unpack(u, codecs[c], true, cut, (int64_t)at, out, N), EBB_ECORRUPT);
            (void)ebb_unpack(u, codecs[c], true, changed, (int64_t)p->bytes, out, N);
            assert_int_equal(ebb_unpack(u, codecs[c], true, p->out, (int64_t)p->bytes, out, N - 1), EBB_ECORRUPT);
            ebb_error_clear();
            free(changed);
            free(cut);
            free(out);
        }
    }
    ebb_unpack_destroy(u);
    free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(what_was_packed_comes_back),
                                       cmocka_unit_test(a_stream_written_down_by_hand_unpacks),
                                       cmocka_unit_test(cut_or_changed_input_never_leaves_its_buffers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
