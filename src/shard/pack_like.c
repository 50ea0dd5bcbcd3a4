/* Provenance, and an existing data set as the pattern of a new one: its columns, classes, index base and column
 * encodings come out of the manifest's provenance, where the pack that made it put them.
 */
#include "shard/pack.h"
#include "base/alloc.h"
#include "base/file.h"
#include "shard/import/number.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

static json_t *sources_json(const ebb_pack_t *p)
{
    json_t *list = json_array();
    for (int i = 0; i < p->n_sources; i++)
        json_array_append_new(list,
                              json_pack("{s:s, s:I, s:s}", "path", p->source[i].path, "bytes",
                                        (json_int_t)ebb_file_size(p->source[i].path), "sha256", p->source_sha256[i]));
    return list;
}

ebb_status_t ebb_pack_provenance(ebb_pack_t *p)
{
    const ebb_format_t *f = p->importer.format;
    json_t *encoding = f->encoding ? f->encoding(&p->importer) : NULL;
    json_t *root = json_pack("{s:s, s:s, s:I, s:I, s:o, s:o*}", "packed_by", "ebb " EBB_VERSION, "format", f->name,
                             "source_rows", (json_int_t)p->scan.stats.rows, "index_base",
                             (json_int_t)p->scan.index_base, "sources", sources_json(p), "encoding", encoding);
    if (root && p->o.split)
        json_object_set_new(root, "split",
                            json_pack("{s:s, s:I}", "parts", p->o.split, "seed", (json_int_t)p->o.split_seed));
    char *text = root ? ebb_json_dump(root) : NULL;
    json_decref(root);
    p->provenance = text ? ebb_strdup(text) : NULL;
    free(text);
    return p->provenance ? EBB_OK : EBB_FAIL(EBB_ENOMEM, "no memory for the provenance");
}

static ebb_status_t adopt(ebb_pack_t *p, const json_t *manifest, const char *path)
{
    const ebb_format_t *f = p->importer.format;
    const json_t *provenance = json_object_get(manifest, "provenance");
    const char *format = json_string_value(json_object_get(provenance, "format"));
    const json_t *base = json_object_get(provenance, "index_base"), *encoding = json_object_get(provenance, "encoding");
    if (!format)
        return EBB_FAIL(EBB_EDATA,
                        "%s: does not say how it was packed, so nothing can be packed like it; give --cols instead",
                        path);
    if (strcmp(format, f->name) != 0)
        return EBB_FAIL(EBB_EDATA, "%s: was packed from %s, the sources are %s; give --from %s if they are", path,
                        format, f->name, format);
    if (json_is_integer(base))
        p->importer.index_base = (int32_t)json_integer_value(base);
    if (encoding && f->adopt)
        EBB_TRY(f->adopt(&p->importer, encoding));
    return EBB_OK;
}

static ebb_status_t adopt_info(ebb_pack_t *p, const ebb_dataset_info_t *info)
{
    p->o.cols = info->cols;
    p->target.kind = info->target;
    p->target.cols = info->target_cols;
    for (int64_t i = 0; i < info->classes; i++) {
        const char *name = info->class_names[i];
        double v;
        EBB_TRY(ebb_number_whole(name, (int64_t)strlen(name), &v)
                    ? ebb_labels_note_number(&p->target.classes, v, 1)
                    : ebb_labels_note_text(&p->target.classes, name, (int64_t)strlen(name), 1));
    }
    return ebb_labels_sort(&p->target.classes);
}

const ebb_format_t *ebb_pack_like_format(const ebb_pack_t *p)
{
    char path[PATH_MAX];
    json_t *manifest = NULL;
    const ebb_format_t *format = NULL;
    if (!p->o.like)
        return NULL;
    ebb_error_t error = *ebb_error();
    ebb_error_clear();
    snprintf(path, sizeof path, "%s/manifest.json", p->o.like);
    if (ebb_json_load(path, &manifest) == EBB_OK) {
        const char *name = json_string_value(json_object_get(json_object_get(manifest, "provenance"), "format"));
        if (name)
            ebb_format_find(name, &format);
    }
    json_decref(manifest);
    ebb_error_clear();
    if (!format)
        ebb_error_set(&error);
    return format;
}

ebb_status_t ebb_pack_like(ebb_pack_t *p)
{
    char path[PATH_MAX];
    json_t *manifest = NULL;
    ebb_dataset_t *ds = NULL;
    ebb_status_t status;
    if (!p->o.like)
        return EBB_OK;
    snprintf(path, sizeof path, "%s/manifest.json", p->o.like);
    EBB_TRY_GOTO(status, ebb_dataset_open(p->o.like, NULL, &ds), done);
    EBB_TRY_GOTO(status, ebb_json_load(path, &manifest), done);
    EBB_TRY_GOTO(status, adopt(p, manifest, p->o.like), done);
    status = adopt_info(p, ebb_dataset_info(ds));
done:
    json_decref(manifest);
    ebb_dataset_close(ds);
    return status;
}
