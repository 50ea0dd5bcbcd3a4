/* Any bytes given as a checkpoint end in an error or a verified file. The first byte chooses whether the head is made
 * good, so that what stands behind the seal is reached too. */
#include "../support/fake_state.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <stdio.h>
#include <unistd.h>
#include <xxhash.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
const char *__lsan_default_suppressions(void);

/* libhdf5 1.10 leaks when it turns a file down. */
const char *__lsan_default_suppressions(void)
{
    return "leak:libhdf5";
}

static void reseal(uint8_t *bytes, size_t n)
{
    uint64_t word[3] = {1, n, XXH3_64bits(bytes + 512, n - 512)}, self;
    memcpy(bytes, "EBBCKPT", 8);
    memcpy(bytes + 8, word, sizeof word);
    self = XXH3_64bits(bytes, 504);
    memcpy(bytes + 504, &self, sizeof self);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int fd = -1;
    static char path[64];
    ebb_checkpoint_meta_t meta;
    if (size < 1)
        return 0;
    if (fd < 0) {
        fd = memfd_create("checkpoint", 0);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        ebb_log_set_level(EBB_LOG_ERROR);
    }
    size_t n = size - 1;
    uint8_t *bytes = malloc(n + 1);
    memcpy(bytes, data + 1, n);
    if (data[0] & 1 && n >= 512)
        reseal(bytes, n);
    if (ftruncate(fd, 0) != 0 || pwrite(fd, bytes, n, 0) != (ssize_t)n)
        abort();
    if (ebb_checkpoint_read_meta(path, &meta) == EBB_OK)
        ebb_checkpoint_meta_free(&meta);
    ebb_error_clear();
    (void)ebb_checkpoint_verify(path);
    ebb_error_clear();
    free(bytes);
    return 0;
}
