/* What test_widen.c uses of cmocka, where there is no cmocka: for programs that are built for another processor. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

void _assert_true(const LargestIntegralType result, const char *expression, const char *file, int line)
{
    if (result)
        return;
    fprintf(stderr, "%s:%d: %s\n", file, line, expression);
    exit(1);
}

void _assert_memory_equal(const void *a, const void *b, size_t size, const char *file, int line)
{
    _assert_true(memcmp(a, b, size) == 0, "equal memory", file, line);
}

int _cmocka_run_group_tests(const char *name, const struct CMUnitTest *tests, size_t n, CMFixtureFunction setup,
                            CMFixtureFunction teardown)
{
    for (size_t i = 0; i < n; i++) {
        tests[i].test_func(NULL);
        printf("%s\n", tests[i].name);
    }
    return 0;
}
