/* Text buffers, figures and suggestions. */
#include "support.h"
#include "base/alloc.h"
#include "base/text.h"

#include <math.h>

static void text_grows_and_stays_terminated(void **state)
{
    ebb_text_t t = {0};
    for (int i = 0; i < 1000; i++)
        ebb_text_add(&t, "%d,", i % 10);
    assert_int_equal(t.n, 2000);
    assert_int_equal(strlen(t.s), 2000);
    ebb_text_append(&t, "abc", 2);
    assert_string_equal(t.s + 1998, "9,ab");
    ebb_text_free(&t);
    assert_null(t.s);
}

static void failed_allocation_marks_the_text_and_keeps_it(void **state)
{
    ebb_text_t t = {0};
    ebb_text_add(&t, "first");
    ebb_alloc_fail_after(0);
    for (int i = 0; i < 100; i++)
        ebb_text_add(&t, "more and more");
    ebb_alloc_fail_after(-1);
    assert_true(t.failed);
    assert_memory_equal(t.s, "first", 5);
    ebb_error_clear();
    ebb_text_free(&t);
}

static void figures_have_three_digits_and_a_unit(void **state)
{
    char s[64];
    assert_string_equal(ebb_format_bytes(0, s, sizeof s), "0 B");
    assert_string_equal(ebb_format_bytes(999, s, sizeof s), "999 B");
    assert_string_equal(ebb_format_bytes(1500e6, s, sizeof s), "1.50 GB");
    assert_string_equal(ebb_format_bytes(999.9e3, s, sizeof s), "1.00 MB");
    assert_string_equal(ebb_format_count(12345678, s, sizeof s), "12.3 M");
    assert_string_equal(ebb_format_count(42, s, sizeof s), "42");
    assert_string_equal(ebb_format_duration(3723, s, sizeof s), "1:02:03");
    assert_string_equal(ebb_format_duration(59.6, s, sizeof s), "1:00");
    assert_string_equal(ebb_format_duration(INFINITY, s, sizeof s), "?");
}

static void sizes_are_read_with_either_kind_of_unit(void **state)
{
    static const struct {
        const char *text;
        int64_t bytes;
    } good[] = {{"65536", 65536},
                {"512M", 512LL << 20},
                {"1.5GiB", 3LL << 29},
                {"100MB", 100000000},
                {"2k", 2048},
                {"7 B", 7},
                {"0", 0},
                {"1T", 1LL << 40},
                {"3 GB", 3000000000},
                {"9007199254740993", 9007199254740993}};
    static const char *const bad[] = {"", "M", "-1", "1X", "1MiBs", "1e30", "nan", "inf", "12 12", "99E"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        int64_t bytes = -1;
        assert_ok(ebb_parse_bytes(good[i].text, &bytes));
        assert_int_equal(bytes, good[i].bytes);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int64_t bytes;
        assert_fails(ebb_parse_bytes(bad[i], &bytes), EBB_EUSAGE, bad[i]);
    }
}

static void numbers_must_be_whole_strings(void **state)
{
    int64_t i;
    double f;
    assert_ok(ebb_parse_i64("-42", &i));
    assert_int_equal(i, -42);
    assert_fails(ebb_parse_i64("42x", &i), EBB_EUSAGE, "not a whole number");
    assert_fails(ebb_parse_i64("", &i), EBB_EUSAGE, "not a whole number");
    assert_fails(ebb_parse_i64("9223372036854775808", &i), EBB_EUSAGE, "64 bits");
    assert_ok(ebb_parse_f64("1e-3", &f));
    assert_true(f == 1e-3);
    assert_fails(ebb_parse_f64("1,5", &f), EBB_EUSAGE, "not a number");
    assert_fails(ebb_parse_f64("nan", &f), EBB_EUSAGE, "finite");
    assert_fails(ebb_parse_f64("1e999", &f), EBB_EUSAGE, "finite");
}

static void nearest_finds_typing_errors_and_nothing_far(void **state)
{
    static const char *const words[] = {"train", "eval", "inspect", "verify", "optimizer", "momentum", "lr", NULL};
    assert_string_equal(ebb_text_nearest("trian", words), "train");
    assert_string_equal(ebb_text_nearest("TRAIN", words), "train");
    assert_string_equal(ebb_text_nearest("inspct", words), "inspect");
    assert_string_equal(ebb_text_nearest("optimiser", words), "optimizer");
    assert_string_equal(ebb_text_nearest("opt", words), "optimizer");
    assert_string_equal(ebb_text_nearest("verification", words) ? "" : "none", "none");
    assert_null(ebb_text_nearest("zzzzzz", words));
    assert_null(ebb_text_nearest("", words));
    char long_word[300];
    memset(long_word, 't', sizeof long_word - 1);
    long_word[299] = 0;
    assert_null(ebb_text_nearest(long_word, words));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_grows_and_stays_terminated),
        cmocka_unit_test(failed_allocation_marks_the_text_and_keeps_it),
        cmocka_unit_test(figures_have_three_digits_and_a_unit),
        cmocka_unit_test(sizes_are_read_with_either_kind_of_unit),
        cmocka_unit_test(numbers_must_be_whole_strings),
        cmocka_unit_test(nearest_finds_typing_errors_and_nothing_far),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
