/* Rows out of byte planes: every type, level and length gives what the portable ebb_take_i32 and ebb_take_f32 give, and
 * columns out of range are found wherever they stand. */
#include "support.h"
#include "base/rng.h"
#include "shard/layout.h"
#include "shard/stored.h"

enum { ELEMENTS = 2048, ROWS = 120, SLACK = 16 };

static const struct {
    ebb_elem_t elem;
    int columns;
} kinds[] = {{EBB_ELEM_U16, 1}, {EBB_ELEM_U16, 2}, {EBB_ELEM_I32, 3}, {EBB_ELEM_I32, 4}, {EBB_ELEM_U8, 0},
             {EBB_ELEM_I8, 0},  {EBB_ELEM_U16, 0}, {EBB_ELEM_I16, 0}, {EBB_ELEM_F16, 0}, {EBB_ELEM_F32, 0}};

static void fill(uint8_t *planes, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        planes[i] = (uint8_t)ebb_rng_u64(5, EBB_RNG_TEST, i, 0);
}

static void take(ebb_elem_t elem, bool columns, int level, const uint8_t *planes, int64_t at, int64_t n, void *out)
{
    ebb_codec_level(level);
    if (columns)
        assert_true(ebb_take_i32(elem, true, planes, ELEMENTS, at, n, out));
    else
        assert_true(ebb_take_f32(elem, true, planes, ELEMENTS, at, n, out));
}

/* The rows' pieces of the planes, row after row; from[r] is moved there. */
static uint8_t *packed(int planes, const uint8_t *from[ROWS], const int64_t *to)
{
    uint8_t *rows = malloc((size_t)(to[ROWS] * planes) + EBB_STORED_SLACK);
    for (int64_t r = 0; r < ROWS; r++) {
        uint8_t *row = rows + to[r] * planes;
        size_t n = (size_t)(to[r + 1] - to[r]);
        for (int k = 0; from[r] && k < planes; k++)
            memcpy(row + (size_t)k * n, from[r] + k * ELEMENTS, n);
        from[r] = from[r] ? row : NULL;
    }
    return rows;
}

static void check_rows(const ebb_widen_t *w, const int64_t *at, const uint8_t *planes, int level)
{
    uint32_t want[ELEMENTS], taken[ELEMENTS];
    uint32_t *out = w->out;
    memset(out, 0x5a, (size_t)(w->to[ROWS] + SLACK) * 4);
    ebb_codec_level(level);
    for (int64_t r = 0; r < ROWS; r += 40)
        ebb_widen_rows(w, r, r + 40);
    for (int64_t r = 0; r < ROWS; r++) {
        int64_t n = w->to[r + 1] - w->to[r];
        if (!w->from[r])
            continue;
        take(w->elem, w->columns > 0, 0, planes, at[r], n, want);
        take(w->elem, w->columns > 0, level, planes, at[r], n, taken);
        assert_memory_equal(taken, want, (size_t)n * 4);
        assert_memory_equal(out + w->to[r], want, (size_t)n * 4);
    }
    ebb_codec_level(2);
}

/* Elements as they are stored: all their bytes, one element after another. */
static void check_stored(ebb_widen_t w, const int64_t *at, const uint8_t *planes, int level)
{
    size_t size = ebb_elem_size(w.elem);
    uint8_t *out = w.out;
    w.stored = true;
    assert_true(ebb_widen_size(&w) == size);
    memset(out, 0x5a, (size_t)w.to[ROWS] * size + EBB_STORED_SLACK + 1);
    ebb_codec_level(level);
    for (int64_t r = 0; r < ROWS; r += 40)
        ebb_widen_rows(&w, r, r + 40);
    ebb_codec_level(2);
    for (int64_t r = 0; r < ROWS; r++)
        for (int64_t i = 0; w.from[r] && i < w.to[r + 1] - w.to[r]; i++)
            for (size_t k = 0; k < size; k++)
                assert_true(out[(size_t)(w.to[r] + i) * size + k] == planes[ELEMENTS * k + (size_t)(at[r] + i)]);
    assert_true(out[(size_t)w.to[ROWS] * size + EBB_STORED_SLACK] == 0x5a);
}

static void check_kind(ebb_elem_t elem, int columns, int level)
{
    size_t bytes = ELEMENTS * ebb_elem_size(elem);
    int n_planes = columns > 0 ? columns : (int)ebb_elem_size(elem);
    uint8_t *planes = malloc(bytes + EBB_STORED_SLACK);
    const uint8_t *from[ROWS];
    int64_t to[ROWS + 1] = {0}, at[ROWS];
    fill(planes, bytes + EBB_STORED_SLACK);
    if (columns > 0)
        memset(planes + columns * ELEMENTS, 0, bytes - (size_t)columns * ELEMENTS);
    for (int64_t r = 0; r < ROWS; r++) {
        int64_t n = r < 70 ? r : (r * 37) % 200;
        at[r] = (r * 7919) % (ELEMENTS - n + 1);
        from[r] = r % 11 == 3 ? NULL : planes + at[r];
        to[r + 1] = to[r] + n;
    }
    uint32_t *out = malloc((size_t)(to[ROWS] + SLACK) * 4 + 1);
    ebb_widen_t w = {elem, columns, false, ELEMENTS, n_planes, ROWS, to, from, out};
    check_rows(&w, at, planes, level);
    check_stored(w, at, planes, level);
    uint8_t *rows = packed(n_planes, from, to);
    w.stride = 0;
    check_rows(&w, at, planes, level);
    check_stored(w, at, planes, level);
    free(rows);
    free(planes);
    free(out);
}

static void rows_are_widened_alike_by_every_instruction_set(void **state)
{
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        assert_true(kinds[k].columns > 0 || ebb_widen_possible(kinds[k].elem));
        for (int level = 0; level <= 2; level++)
            check_kind(kinds[k].elem, kinds[k].columns, level);
    }
    assert_false(ebb_widen_possible(EBB_ELEM_F64));
}

static void narrowed_values_are_those_that_were_widened(void **state)
{
    static const ebb_value_type_t types[] = {EBB_F32, EBB_F16, EBB_U8, EBB_I8, EBB_U16, EBB_I16, EBB_I32};
    static uint8_t stored[4 * 65536], back[4 * 65536];
    static float wide[65536];
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        ebb_elem_t elem = ebb_value_elem(types[t]);
        size_t size = ebb_elem_size(elem);
        fill(stored, sizeof stored);
        for (uint32_t i = 0; i < 65536; i++) {
            int32_t whole = (int32_t)(i * 511) - (1 << 24);
            uint16_t all = (uint16_t)i;
            if (types[t] == EBB_I32)
                memcpy(stored + 4 * i, &whole, 4);
            else if (size == 2)
                memcpy(stored + 2 * i, &all, 2);
            if (types[t] == EBB_F16 && (i & 0x7c00) == 0x7c00) /* NaNs become quiet */
                stored[2 * i + 1] |= (uint8_t)((i & 0x3ff) > 0 ? 2 : 0);
        }
        assert_true(ebb_take_f32(elem, false, stored, 65536, 0, 65536, wide));
        ebb_narrow_values(types[t], wide, 65536, back);
        assert_memory_equal(back, stored, 65536 * size);
    }
}

static void columns_take_the_planes_that_their_number_needs(void **state)
{
    assert_true(ebb_column_planes(EBB_ELEM_U16, 256) == 1);
    assert_true(ebb_column_planes(EBB_ELEM_U16, 257) == 2);
    assert_true(ebb_column_planes(EBB_ELEM_U16, 65536) == 2);
    assert_true(ebb_column_planes(EBB_ELEM_I32, 65537) == 3);
    assert_true(ebb_column_planes(EBB_ELEM_I32, 1 << 24) == 3);
    assert_true(ebb_column_planes(EBB_ELEM_I32, (1 << 24) + 1) == 4);
    assert_true(ebb_column_planes(EBB_ELEM_I64, 9) == 0);
}

static void put(ebb_elem_t elem, uint8_t *planes, int64_t n, int64_t i, uint32_t v)
{
    for (size_t p = 0; p < ebb_elem_size(elem); p++)
        planes[(size_t)n * p + (size_t)i] = (uint8_t)(v >> 8 * p);
}

static void columns_out_of_range_are_found(void **state)
{
    static uint8_t planes[4 * 512];
    static const uint32_t cols[] = {1, 255, 256, 257, 20000, 65535, 70000, 262144, 0x7fffffff};
    for (size_t c = 0; c < sizeof cols / sizeof *cols; c++)
        for (int wide = cols[c] > 65535; wide < 2; wide++) {
            ebb_elem_t elem = wide ? EBB_ELEM_I32 : EBB_ELEM_U16;
            for (int64_t i = 0; i < 512; i++)
                put(elem, planes, 512, i, (uint32_t)i % cols[c]);
            put(elem, planes, 512, 100, cols[c] - 1);
            assert_false(ebb_columns_beyond(elem, planes, 512, 512, cols[c]));
            put(elem, planes, 512, 303, cols[c]);
            assert_true(ebb_columns_beyond(elem, planes, 512, 512, cols[c]));
            assert_false(ebb_columns_beyond(elem, planes, 512, 303, cols[c]));
            put(elem, planes, 512, 303, wide ? 0x80000000u : 0xffff);
            assert_true(ebb_columns_beyond(elem, planes + 300, 512, 10, cols[c]));
        }
    assert_false(ebb_columns_beyond(EBB_ELEM_U16, planes, 512, 512, 65536));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_widened_alike_by_every_instruction_set),
        cmocka_unit_test(narrowed_values_are_those_that_were_widened),
        cmocka_unit_test(columns_take_the_planes_that_their_number_needs),
        cmocka_unit_test(columns_out_of_range_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
