/* Many draws at once against draws one by one. */
#include "support.h"
#include "base/rng.h"

static void many_uniforms_equal_single_ones_from_any_counter(void **state)
{
    const uint64_t from[] = {0, 5, 0xfffffff3u, 0x123456789abcdefu, UINT64_MAX - 40};
    float out[41];
    for (int f = 0; f < 5; f++)
        for (int64_t n = 0; n <= 40; n++) {
            out[n] = -1.0f;
            ebb_rng_uniforms(7, EBB_RNG_TEST, 3 + (uint64_t)f, from[f], n, out);
            for (int64_t i = 0; i < n; i++)
                assert_true(out[i] == ebb_rng_uniform(7, EBB_RNG_TEST, 3 + (uint64_t)f, from[f] + (uint64_t)i));
            assert_true(out[n] == -1.0f);
        }
}

/* Salmon et al.'s known answers (kat_vectors of Random123). */
static void philox_gives_the_published_words(void **state)
{
    const uint32_t zero[4] = {0}, ones[4] = {~0u, ~0u, ~0u, ~0u};
    const uint32_t of_zero[] = {0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u};
    const uint32_t of_ones[] = {0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu};
    uint32_t out[4];
    ebb_philox(zero, zero, out);
    assert_memory_equal(out, of_zero, sizeof out);
    ebb_philox(ones, ones, out);
    assert_memory_equal(out, of_ones, sizeof out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_uniforms_equal_single_ones_from_any_counter),
        cmocka_unit_test(philox_gives_the_published_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
