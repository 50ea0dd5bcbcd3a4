/* Files and texts of intensities: opened, unpacked, told apart and settled. */
#include "carbon/internal.h"
#include "base/alloc.h"
#include "base/text.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <zlib.h>

#define MOST_BYTES ((size_t)512 << 20)

/* What was left out, if that was all there was. */
static ebb_status_t refuse_empty(const char *origin, const ebb_carbon_series_t *s)
{
    if (s->zeros > 0)
        return EBB_FAIL(EBB_EDATA, "%s: %lld zeros and no other value: taken for a lack of data", origin,
                        (long long)s->zeros);
    if (s->nulls + s->bad > 0)
        return EBB_FAIL(EBB_EDATA, "%s: no value among %lld empty and %lld impossible ones", origin,
                        (long long)s->nulls, (long long)s->bad);
    return EBB_FAIL(EBB_EDATA, "%s: not a single value", origin);
}

static ebb_status_t parse(const char *text, size_t bytes, const char *origin, const ebb_carbon_read_options_t *options,
                          ebb_carbon_series_t *series)
{
    size_t blank = 0;
    char *copy;
    while (blank < bytes && strchr(" \t\r\n", text[blank]))
        blank++;
    if (blank < bytes && (text[blank] == '{' || text[blank] == '['))
        return ebb_carbon_parse_json(text, bytes, origin, options, series);
    EBB_TRY(ebb_alloc("intensity file", bytes + 1, (void **)&copy));
    memcpy(copy, text, bytes);
    ebb_status_t status = ebb_carbon_parse_csv(copy, bytes, origin, options, series);
    ebb_free(copy);
    return status;
}

ebb_status_t ebb_carbon_parse(const char *text, size_t bytes, const char *origin,
                              const ebb_carbon_read_options_t *options, ebb_carbon_series_t *series)
{
    *series = (ebb_carbon_series_t){.signal = options ? options->signal : EBB_CARBON_SIGNAL_UNKNOWN,
                                    .scope = options ? options->scope : EBB_CARBON_SCOPE_UNKNOWN};
    snprintf(series->source, sizeof series->source, "%s", origin);
    ebb_status_t status = parse(text, bytes, origin, options, series);
    if (status == EBB_OK)
        status = ebb_carbon_settle(series);
    if (status == EBB_OK && series->n == 0)
        status = refuse_empty(origin, series);
    if (status != EBB_OK)
        ebb_carbon_series_free(series);
    return status;
}

/* zlib reads plain files as they are. */
static ebb_status_t read_plain_or_gzip(const char *path, ebb_text_t *out)
{
    char buffer[65536];
    int n;
    gzFile file = gzopen(path, "rb");
    if (!file)
        return EBB_FAIL(errno == ENOENT ? EBB_ENOINPUT : EBB_EIO, "%s: cannot open: %s", path, strerror(errno));
    while ((n = gzread(file, buffer, sizeof buffer)) > 0 && out->n < MOST_BYTES && !out->failed)
        ebb_text_append(out, buffer, (size_t)n);
    bool cut = gzclose(file) != Z_OK;
    if (n < 0 || cut)
        return EBB_FAIL(EBB_EDATA, "%s: damaged or cut off", path);
    if (out->failed)
        return EBB_FAIL(EBB_ENOMEM, "out of memory: %s", path);
    if (n > 0)
        return EBB_FAIL(EBB_EDATA, "%s: larger than 512 MiB", path);
    return EBB_OK;
}

ebb_status_t ebb_carbon_read(const char *path, const ebb_carbon_read_options_t *options, ebb_carbon_series_t *series)
{
    ebb_text_t text = {0};
    *series = (ebb_carbon_series_t){0};
    ebb_status_t status = read_plain_or_gzip(path, &text);
    if (status == EBB_OK)
        status = ebb_carbon_parse(text.s ? text.s : "", text.n, path, options, series);
    ebb_text_free(&text);
    return status;
}
