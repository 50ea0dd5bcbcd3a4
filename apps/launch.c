/* Starting the ranks of a run without a launcher on the command line. */
#include "launch.h"
#include "base/alloc.h"
#include "base/file.h"
#include "comm/transport.h"

#include <ebb/compute.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_WORDS = 4096, MOST_BYTES = 1 << 20 };

bool launch_done(void)
{
    return ebb_comm_launched() || getenv("SLURM_STEP_NUM_TASKS");
}

/* GPUs that this process sees; 1 for the host. */
static ebb_status_t count_devices(const char *name, int64_t *n_p)
{
    ebb_backend_t *backend;
    ebb_device_info_t info = {.count = 1};
    *n_p = 1;
    if (strcmp(name, "cpu") == 0)
        return EBB_OK;
    EBB_TRY(ebb_backend_open(name, 0, &backend));
    ebb_status_t status = EBB_OK;
    if (!(backend->ops->caps & EBB_CAP_HOST_MEMORY))
        status = backend->ops->device_info(backend->dev, &info);
    ebb_backend_close(backend);
    *n_p = info.count;
    return status;
}

/* This process's command line, its words cut at zeros. */
static ebb_status_t read_words(char *text, char **word, int *n)
{
    ssize_t bytes = 0, got = 1;
    int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return ebb_file_error("/proc/self/cmdline", "read");
    while (got > 0 && bytes < MOST_BYTES - 1) {
        got = read(fd, text + bytes, (size_t)(MOST_BYTES - 1 - bytes));
        bytes += got > 0 ? got : 0;
    }
    close(fd);
    for (char *at = text; at < text + bytes && *n < MOST_WORDS - 1; at += strlen(at) + 1)
        word[(*n)++] = at;
    word[*n] = NULL;
    return EBB_OK;
}

static ebb_status_t become(int64_t ranks, char *text, char **word)
{
    char count[32], self[4096];
    static char *const launcher[] = {"mpirun", "--quiet", "--bind-to", "none", "-np"};
    int n = 0;
    ssize_t bytes = readlink("/proc/self/exe", self, sizeof self - 1);
    if (bytes < 0)
        return ebb_file_error("/proc/self/exe", "read");
    self[bytes] = 0;
    snprintf(count, sizeof count, "%lld", (long long)ranks);
    for (size_t i = 0; i < sizeof launcher / sizeof *launcher; i++)
        word[n++] = launcher[i];
    word[n++] = count;
    int first = n;
    EBB_TRY(read_words(text, word, &n));
    word[first] = self;
    setenv("OMPI_MCA_rmaps_base_oversubscribe", "1", 0); /* GPUs count here, not cores */
    execvp(word[0], word);
    return EBB_FAIL(EBB_EUNAVAILABLE, "cannot start %lld ranks: mpirun: %s; install Open MPI, or use one by --ranks 1",
                    (long long)ranks, strerror(errno));
}

ebb_status_t launch_ranks(int64_t ranks, const char *backend, int64_t lanes)
{
    char *text = NULL, **word = NULL;
    if (launch_done() || ranks == 1)
        return EBB_OK;
    if (ranks == 0)
        EBB_TRY(count_devices(backend, &ranks));
    ranks = ranks < lanes ? ranks : lanes;
    if (ranks <= 1)
        return EBB_OK;
    EBB_INFO("train", "starting %lld ranks, one a GPU; --ranks 1 uses one", (long long)ranks);
    ebb_status_t status = EBB_NEW_ARRAY("command line", MOST_BYTES, &text);
    if (status == EBB_OK)
        status = EBB_NEW_ARRAY("command line", MOST_WORDS + 8, &word);
    if (status == EBB_OK)
        status = become(ranks, text, word);
    ebb_free(text);
    ebb_free(word);
    return status;
}
