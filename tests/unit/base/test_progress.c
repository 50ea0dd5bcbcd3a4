/* Progress lines on a pipe and on a terminal. */
#include "support.h"
#include "base/progress.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>

/* Run body with stderr on fd, which is closed. */
static void with_stderr(int fd, void (*body)(void))
{
    fflush(stderr);
    int saved = dup(STDERR_FILENO);
    assert_true(dup2(fd, STDERR_FILENO) >= 0);
    close(fd);
    body();
    fflush(stderr);
    dup2(saved, STDERR_FILENO);
    close(saved);
}

static void pack_ten_rows(void)
{
    ebb_progress_t *p;
    assert_ok(ebb_progress_create("packing", "rows", 10, true, &p));
    for (int i = 0; i <= 10; i++)
        ebb_progress_update(p, i);
    ebb_progress_finish(p);
    ebb_progress_finish(p);
    ebb_progress_destroy(p);
    assert_ok(ebb_progress_create("silent", "bytes", 0, false, &p));
    ebb_progress_update(p, 5);
    ebb_progress_finish(p);
    ebb_progress_destroy(p);
    ebb_progress_destroy(NULL);
}

static void a_pipe_gets_plain_lines_only(void **state)
{
    int fds[2];
    char text[4096] = {0};
    assert_int_equal(pipe(fds), 0);
    with_stderr(fds[1], pack_ten_rows);
    assert_true(read(fds[0], text, sizeof text - 1) > 0);
    close(fds[0]);
    assert_null(strchr(text, '\r'));
    assert_null(strchr(text, '\033'));
    assert_null(strstr(text, "silent"));
    assert_int_equal(strncmp(text, "packing: 10 rows in 0:00, ", 26), 0);
    assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
}

static void draw_a_long_line(void)
{
    ebb_progress_line(1, false, "0123456789012345678901234567890123456789");
    ebb_log(EBB_LOG_WARN, "test", "w");
    ebb_progress_line(1, true, "a last line that is longer than the terminal");
}

/* What comes out of a terminal may come in pieces: read as much as is expected, or until nothing comes for 5 s. */
static void read_terminal(int master, char *text, size_t expected)
{
    struct pollfd p = {.fd = master, .events = POLLIN};
    size_t n = 0;
    while (n < expected && poll(&p, 1, 5000) == 1) {
        ssize_t got = read(master, text + n, expected - n);
        if (got <= 0)
            break;
        n += (size_t)got;
    }
    text[n] = 0;
}

static void a_terminal_line_is_cut_to_the_width_gives_way_to_the_log_and_stays_in_whole(void **state)
{
    static const char expected[] = "\r01234567890123456789\033[K\r\033[Kebb test: warning: w\r\n\r\033[Ka last line "
                                   "that is longer than the terminal\r\n";
    char text[sizeof expected];
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    if (master < 0 || grantpt(master) != 0 || unlockpt(master) != 0)
        skip();
    int slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    struct winsize size = {.ws_row = 24, .ws_col = 21};
    assert_true(slave >= 0);
    assert_int_equal(ioctl(slave, TIOCSWINSZ, &size), 0);
    int keep = dup(slave);
    with_stderr(slave, draw_a_long_line);
    read_terminal(master, text, sizeof expected - 1);
    close(keep);
    close(master);
    assert_string_equal(text, expected);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pipe_gets_plain_lines_only),
        cmocka_unit_test(a_terminal_line_is_cut_to_the_width_gives_way_to_the_log_and_stays_in_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
