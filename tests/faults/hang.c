/* Preloaded: one call that never returns. EBB_HANG="CALL TEXT NUMBER RANK MARK": on that rank, the NUMBER-th CALL
 * (open, pread or fsync) of a file whose path contains TEXT makes the file MARK and sleeps for ever. So does MPI_Init
 * or MPI_Finalize, with TEXT "mpi"; and with " stop" after MARK the process stops itself instead. */
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_int seen;

static void hang(const char *mark, int stop)
{
    int (*real)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open");
    close(real(mark, O_WRONLY | O_CREAT, 0666));
    if (stop)
        kill(getpid(), SIGSTOP);
    for (;;)
        pause();
}

static void pass(const char *call, const char *path)
{
    char want[16], text[64], mark[512], how[8] = "";
    int number, rank;
    const char *plan = getenv("EBB_HANG"), *mine = getenv("OMPI_COMM_WORLD_RANK");
    if (plan && path && sscanf(plan, "%15s %63s %d %d %511s %7s", want, text, &number, &rank, mark, how) >= 5 &&
        strcmp(call, want) == 0 && strstr(path, text) && (mine ? atoi(mine) : 0) == rank &&
        atomic_fetch_add(&seen, 1) + 1 == number)
        hang(mark, how[0] != 0);
}

static void pass_fd(const char *call, int fd)
{
    char link[64], path[512];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    path[n > 0 ? n : 0] = 0;
    pass(call, path);
}

int open(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(args, mode_t) : 0;
    va_end(args);
    int (*real)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open");
    pass("open", path);
    return real(path, flags, mode);
}

ssize_t pread(int fd, void *to, size_t n, off_t at)
{
    ssize_t (*real)(int, void *, size_t, off_t) = (ssize_t(*)(int, void *, size_t, off_t))dlsym(RTLD_NEXT, "pread");
    pass_fd("pread", fd);
    return real(fd, to, n, at);
}

int fsync(int fd)
{
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    pass_fd("fsync", fd);
    return real(fd);
}

int MPI_Init_thread(int *argc, char ***argv, int wanted, int *given)
{
    int (*real)(int *, char ***, int, int *) =
        (int (*)(int *, char ***, int, int *))dlsym(RTLD_NEXT, "MPI_Init_thread");
    pass("MPI_Init", "mpi");
    return real(argc, argv, wanted, given);
}

int MPI_Finalize(void)
{
    int (*real)(void) = (int (*)(void))dlsym(RTLD_NEXT, "MPI_Finalize");
    pass("MPI_Finalize", "mpi");
    return real();
}
