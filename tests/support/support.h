/* What unit tests share: cmocka with its includes, checks of statuses, temporary folders, real data where it is. */
#ifndef EBB_TESTS_SUPPORT_H
#define EBB_TESTS_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>
#include <ebb/base.h>

/* The call succeeds; if not, its message is shown. */
#define assert_ok(call)                                                                                                \
    do {                                                                                                               \
        ebb_status_t ok_ = (call);                                                                                     \
        if (ok_ != EBB_OK)                                                                                             \
            fail_msg("%s: %s: %s", #call, ebb_status_name(ok_), ebb_error()->message);                                 \
    } while (0)

/* The call fails with that status, and its message contains text; the error is cleared. */
#define assert_fails(call, expected, text)                                                                             \
    do {                                                                                                               \
        ebb_status_t fails_ = (call);                                                                                  \
        if (fails_ != (expected))                                                                                      \
            fail_msg("%s: got %s (%s), wanted %s", #call, ebb_status_name(fails_), ebb_error()->message,               \
                     ebb_status_name(expected));                                                                       \
        if (!strstr(ebb_error()->message, (text)))                                                                     \
            fail_msg("%s: message is \"%s\", wanted \"%s\" in it", #call, ebb_error()->message, (text));               \
        ebb_error_clear();                                                                                             \
    } while (0)

/* A fresh folder; removed by test_rmdir. */
static inline char *test_mkdir(void)
{
    char pattern[] = "/tmp/ebb-test-XXXXXX";
    const char *base = getenv("TMPDIR");
    char *path = malloc(4096);
    snprintf(path, 4096, "%s%s", base ? base : "/tmp", strrchr(pattern, '/'));
    if (!mkdtemp(path))
        fail_msg("cannot make %s", path);
    return path;
}

static inline void test_rmdir(char *path)
{
    char command[5000];
    snprintf(command, sizeof command, "rm -rf '%s'", path);
    if (system(command) != 0)
        fail_msg("cannot remove %s", path);
    free(path);
}

/* A file below root, with its folders; replaced as a whole, as the kernel's files change. */
static inline void test_write(const char *root, const char *name, const char *text)
{
    char path[600], fresh[620];
    snprintf(path, sizeof path, "%s/%s", root, name);
    for (char *c = path + strlen(root) + 1; (c = strchr(c, '/')); c++) {
        *c = 0;
        mkdir(path, 0777);
        *c = '/';
    }
    snprintf(fresh, sizeof fresh, "%s.new", path);
    FILE *f = fopen(fresh, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    assert_int_equal(rename(fresh, path), 0);
}

/* Path of a real data file ("a9a/a9a") in $EBB_SHARED or ../shared/data beside the project, or NULL. Static. */
static inline const char *test_shared(const char *name)
{
    static char path[4096];
    const char *base = getenv("EBB_SHARED");
    snprintf(path, sizeof path, "%s/%s", base ? base : EBB_TEST_SHARED, name);
    return access(path, R_OK) == 0 ? path : NULL;
}

/* Visible skip of one test when a file is absent. */
#define skip_without(path, name)                                                                                       \
    do {                                                                                                               \
        if (!(path)) {                                                                                                 \
            print_message("[  SKIPPED ] no real data %s here\n", (name));                                              \
            skip();                                                                                                    \
        }                                                                                                              \
    } while (0)

#endif
