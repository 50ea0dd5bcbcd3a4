/* The parts of the supervisor: processes below this one, its private folder, requests, and jobs. */
#include "support.h"
#include "base/file.h"
#include "base/lock.h"
#include "supervise/channel.h"
#include "supervise/job.h"
#include "supervise/place.h"
#include "supervise/tree.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void settle(void)
{
    usleep(20000);
}

static pid_t child_with_child(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        if (fork() == 0)
            pause();
        pause();
    }
    settle();
    return pid;
}

static void descendants_are_found_and_killed(void **state)
{
    ebb_tree_t tree = {0};
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    pid_t child = child_with_child();
    assert_ok(ebb_tree_read(&tree));
    assert_int_equal(tree.n, 2);
    assert_true(tree.process[0].pid == child && tree.process[1].parent == child);
    kill(child, SIGKILL); /* its child becomes ours */
    settle();
    assert_ok(ebb_tree_read(&tree));
    assert_int_equal(tree.n, 1);
    kill(tree.process[0].pid, SIGSTOP);
    assert_int_equal(ebb_tree_kill(5), 0);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    ebb_tree_free(&tree);
}

static void nothing(int number)
{
}

static void what_a_process_catches_and_whether_it_is_a_rank_can_be_seen(void **state)
{
    signal(SIGUSR1, nothing);
    assert_true(ebb_process_catches(getpid(), SIGUSR1));
    signal(SIGUSR1, SIG_DFL);
    assert_false(ebb_process_catches(getpid(), SIGUSR1));
    assert_false(ebb_process_is_rank(getpid()));
    pid_t pid = fork();
    if (pid == 0) {
        setenv("OMPI_COMM_WORLD_RANK", "3", 1);
        execlp("sleep", "sleep", "20", (char *)NULL);
        _exit(1);
    }
    settle();
    assert_true(ebb_process_is_rank(pid));
    assert_int_equal(ebb_tree_kill(5), 0);
}

static void a_private_folder_goes_with_all_in_it_and_those_of_the_dead_go_too(void **state)
{
    ebb_place_t place, other;
    char path[128];
    struct stat st;
    assert_ok(ebb_place_make_folder(&place));
    assert_int_equal(stat(place.path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    snprintf(path, sizeof path, "%s/deep/er", place.path);
    assert_ok(ebb_file_mkdirs(path));
    close(place.lock_fd); /* as its death would */
    assert_ok(ebb_place_make_folder(&other));
    assert_false(ebb_file_exists(place.path));
    assert_true(ebb_file_exists(other.path));
    ebb_place_remove(&other);
    assert_false(ebb_file_exists(other.path));
    ebb_place_remove(&other);
}

static void use_place(void)
{
    ebb_place_t place;
    char path[128];
    struct stat st;
    assert_ok(ebb_place_make(&place));
    assert_int_equal(stat(place.path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    assert_int_equal(st.st_uid, geteuid());
    snprintf(path, sizeof path, "%s/deep/er/file", place.path);
    assert_ok(ebb_file_mkdirs(path));
    if (place.mount_fd < 0)
        print_message("the kernel gives user %ld no file system of its own: a folder\n", (long)geteuid());
    ebb_place_remove(&place);
    assert_false(ebb_file_exists(place.path));
}

static void a_place_is_the_users_own_and_vanishes_with_its_holder(void **state)
{
    int status;
    use_place();
    pid_t pid = fork();
    if (pid == 0) { /* without rights; where this is root */
        if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0 || prctl(PR_SET_DUMPABLE, 1) != 0))
            _exit(1);
        use_place();
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void a_request_is_taken_once_and_nonsense_never(void **state)
{
    static const char *const nonsense[] = {"",
                                           "{",
                                           "[]",
                                           "{\"id\":\"a\"}",
                                           "{\"id\":\"a\",\"ranks\":-1}",
                                           "{\"id\":\"a\",\"ranks\":\"2\"}",
                                           "{\"id\":7,\"ranks\":2}",
                                           "{\"id\":\"0123456789012345678901234567890123456789\",\"ranks\":2}",
                                           "{\"id\":\"a\",\"ranks\":99999999999}"};
    char folder[] = "/tmp/ebb-test-XXXXXX", path[64], link_to[64];
    ebb_scale_request_t request = {0};
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/scale.request", folder);
    snprintf(link_to, sizeof link_to, "%s/elsewhere", folder);
    assert_false(ebb_channel_take(folder, &request));
    for (size_t i = 0; i < sizeof nonsense / sizeof *nonsense; i++) {
        assert_ok(ebb_file_replace(path, nonsense[i], strlen(nonsense[i])));
        assert_false(ebb_channel_take(folder, &request));
        assert_false(ebb_file_exists(path));
    }
    const char *good = "{\"id\":\"a1\",\"ranks\":2}";
    assert_ok(ebb_file_replace(link_to, good, strlen(good)));
    assert_int_equal(symlink(link_to, path), 0);
    assert_false(ebb_channel_take(folder, &request));
    assert_ok(ebb_file_replace(path, good, strlen(good)));
    assert_true(ebb_channel_take(folder, &request));
    assert_int_equal(request.ranks, 2);
    assert_string_equal(request.id, "a1");
    assert_false(ebb_channel_take(folder, &request));
    unlink(link_to);
    rmdir(folder);
}

static void run_job(ebb_job_t *job, char *const *command)
{
    assert_ok(ebb_job_start(&(ebb_job_plan_t){.command = command, .launcher = "mpirun", .ranks = 1}, job));
}

static void a_job_ends_as_its_command_does(void **state)
{
    ebb_job_t job = {0};
    char *code[] = {"sh", "-c", "exit 7", NULL}, *dies[] = {"sh", "-c", "kill -9 $$", NULL},
         *none[] = {"/absent/x", NULL};
    unsetenv("SLURM_JOB_ID");
    run_job(&job, code);
    while (!job.ended)
        ebb_job_collect(&job);
    assert_int_equal(ebb_job_code(&job), 7);
    run_job(&job, dies);
    while (!job.ended)
        ebb_job_collect(&job);
    assert_int_equal(ebb_job_code(&job), 128 + 9);
    assert_fails(ebb_job_start(&(ebb_job_plan_t){.command = none, .launcher = "mpirun", .ranks = 1}, &job),
                 EBB_EUNAVAILABLE, "/absent/x: cannot be started");
    ebb_tree_free(&job.tree);
}

static void a_pause_waits_until_the_command_catches_it(void **state)
{
    ebb_job_t job = {0};
    char *command[] = {"sh", "-c", "sleep 0.3; trap 'exit 75' USR1; while :; do sleep 0.05; done", NULL};
    run_job(&job, command);
    ebb_job_pause(&job);
    while (!job.ended) {
        ebb_job_collect(&job);
        ebb_job_look(&job, 10);
    }
    assert_int_equal(ebb_job_code(&job), 75);
    ebb_tree_free(&job.tree);
}

static void a_stopped_command_is_killed_after_the_limit(void **state)
{
    ebb_job_t job = {0};
    char *command[] = {"sleep", "20", NULL};
    run_job(&job, command);
    settle();
    kill(job.pid, SIGSTOP);
    while (!job.ended) {
        ebb_job_collect(&job);
        ebb_job_look(&job, 0.5);
    }
    assert_string_equal(job.fault, "a rank was stopped");
    ebb_tree_free(&job.tree);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(descendants_are_found_and_killed),
        cmocka_unit_test(what_a_process_catches_and_whether_it_is_a_rank_can_be_seen),
        cmocka_unit_test(a_place_is_the_users_own_and_vanishes_with_its_holder),
        cmocka_unit_test(a_private_folder_goes_with_all_in_it_and_those_of_the_dead_go_too),
        cmocka_unit_test(a_request_is_taken_once_and_nonsense_never),
        cmocka_unit_test(a_job_ends_as_its_command_does),
        cmocka_unit_test(a_pause_waits_until_the_command_catches_it),
        cmocka_unit_test(a_stopped_command_is_killed_after_the_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
