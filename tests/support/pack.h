/* What tests of the packer share: sources from text, and comparing folders byte by byte. */
#ifndef EBB_TESTS_PACK_H
#define EBB_TESTS_PACK_H

#include "support.h"

#include <ebb/comm.h>
#include <ebb/shard.h>

/* DIR/NAME; static, 32 at a time. */
static inline const char *in_dir(const char *dir, const char *name)
{
    static char path[32][4096];
    static int next;
    next = (next + 1) % 32;
    snprintf(path[next], sizeof path[next], "%s/%s", dir, name);
    return path[next];
}

static inline void write_file(const char *path, const void *data, size_t n)
{
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, n, f) != n || fclose(f) != 0)
        fail_msg("cannot write %s", path);
}

/* LIBSVM text of that many rows with uneven lengths. */
static inline void write_svmlight(const char *path, int rows)
{
    FILE *f = fopen(path, "wb");
    if (!f)
        fail_msg("cannot write %s", path);
    for (int r = 0; r < rows; r++) {
        fprintf(f, "%d", (r * 7 % 11) % 3);
        for (int k = 1 + r % 5; k < 400; k += 1 + (r * 31 + k * 17) % 60)
            fprintf(f, " %d:%.3g", k, (double)(1 + (r * k) % 97) / 8);
        fputs(r % 50 == 0 ? " # a comment\n\n" : "\n", f);
    }
    fclose(f);
}

static inline bool same_folders(const char *a, const char *b)
{
    char command[9000];
    snprintf(command, sizeof command, "diff -r '%s' '%s' >&2", a, b);
    return system(command) == 0;
}

/* Entries of a folder, hidden ones too: a failed pack leaves no debris. */
static inline int count_entries(const char *dir)
{
    char command[5000], text[32] = "";
    snprintf(command, sizeof command, "ls -A '%s' | wc -l", dir);
    FILE *p = popen(command, "r");
    if (!p || !fgets(text, sizeof text, p))
        fail_msg("cannot list %s", dir);
    pclose(p);
    return atoi(text);
}

#endif
