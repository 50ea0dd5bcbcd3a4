/* Names, shapes and the index block of shards. The index is what readers trust least: every count is checked against
 * the manifest before it sizes anything, every offset against the file. */
#include "shard/layout.h"
#include "shard/stored.h"
#include "base/alloc.h"
#include "base/file.h"
#include "base/hash.h"
#include "shard/bands.h"

#include <endian.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

enum { HEAD_WORDS = 8, ARRAY_WORDS = 8, CHUNK_WORDS = 3 };

static const struct {
    const char *name;
    size_t size;
} elems[EBB_ELEMS] = {{"u8", 1},  {"i8", 1},  {"u16", 2}, {"i16", 2}, {"u32", 4}, {"i32", 4},
                      {"u64", 8}, {"i64", 8}, {"f16", 2}, {"f32", 4}, {"f64", 8}};

size_t ebb_elem_size(ebb_elem_t elem)
{
    return elems[elem].size;
}

const char *ebb_elem_name(ebb_elem_t elem)
{
    return elems[elem].name;
}

ebb_elem_t ebb_value_elem(ebb_value_type_t type)
{
    static const ebb_elem_t elem[] = {
        [EBB_F32] = EBB_ELEM_F32, [EBB_F16] = EBB_ELEM_F16, [EBB_U8] = EBB_ELEM_U8,   [EBB_I8] = EBB_ELEM_I8,
        [EBB_U16] = EBB_ELEM_U16, [EBB_I16] = EBB_ELEM_I16, [EBB_I32] = EBB_ELEM_I32,
    };
    return elem[type];
}

size_t ebb_value_type_size(ebb_value_type_t type)
{
    return ebb_elem_size(ebb_value_elem(type));
}

const char *ebb_value_type_name(ebb_value_type_t type)
{
    return ebb_elem_name(ebb_value_elem(type));
}

const char *ebb_role_name(ebb_role_t role, ebb_target_kind_t target, int64_t target_cols)
{
    switch (role) {
    case EBB_ROLE_DATA: return "X/data";
    case EBB_ROLE_INDICES: return "X/indices";
    case EBB_ROLE_INDPTR: return "X/indptr";
    case EBB_ROLE_X: return "X";
    case EBB_ROLE_Y: return target == EBB_TARGET_CLASS ? "obs/y/codes" : target_cols > 1 ? "obsm/y" : "obs/y";
    case EBB_ROLE_WEIGHT: return "obs/weight";
    case EBB_ROLE_ROWID: return "obs/_index";
    case EBB_ROLES: break;
    }
    return "?";
}

bool ebb_array_grid(ebb_array_t *array)
{
    int64_t area, grid;
    if (array->rows < 0 || array->cols < 1 || array->chunk_rows < 1 || array->chunk_cols < 1)
        return false;
    if (__builtin_mul_overflow(array->chunk_rows, array->chunk_cols, &area) || area > (int64_t)1 << 32)
        return false;
    if (__builtin_mul_overflow(array->rows, array->cols, &grid) || grid > INT64_MAX / 16)
        return false;
    array->grid_rows = array->rows / array->chunk_rows + (array->rows % array->chunk_rows != 0);
    array->grid_cols = array->cols / array->chunk_cols + (array->cols % array->chunk_cols != 0);
    return true;
}

int64_t ebb_array_chunk_bytes(const ebb_array_t *array, int64_t chunk)
{
    int64_t rows = array->chunk_rows, cols = array->chunk_cols;
    int64_t row = chunk / array->grid_cols * rows, col = chunk % array->grid_cols * cols;
    if (!array->padded) {
        rows = array->rows - row < rows ? array->rows - row : rows;
        cols = array->cols - col < cols ? array->cols - col : cols;
    }
    return rows * cols * (int64_t)ebb_elem_size(array->elem);
}

int64_t ebb_chunk_elements(const ebb_dataset_plan_t *plan)
{
    enum { CHUNK_BYTES = 65536, LEAST_CHUNKS = 4096 };
    int64_t value = (int64_t)ebb_value_type_size(plan->value_type), column = plan->cols <= 65536 ? 2 : 4;
    int64_t elements = CHUNK_BYTES / (plan->sparse && column > value ? column : value);
    double entries = plan->sparse ? (double)plan->nnz : (double)plan->rows * (double)plan->cols;
    while (elements > EBB_CHUNK_ELEMENTS && entries < (double)elements * LEAST_CHUNKS)
        elements /= 2;
    return elements;
}

bool ebb_stored_is_near(const ebb_dataset_info_t *info)
{
    double n = (double)info->nnz / (double)info->rows;
    double planes = (double)ebb_value_type_size(info->value_type) + (info->cols <= 65536 ? 2 : 4);
    return !info->sparse || planes * (1 + n / 64) <= 2 * (1 + n / 16);
}

static ebb_elem_t code_elem(int64_t classes)
{
    return classes <= 128 ? EBB_ELEM_I8 : classes <= 32768 ? EBB_ELEM_I16 : EBB_ELEM_I32;
}

bool ebb_array_plan(ebb_array_t *array, ebb_role_t role, const ebb_dataset_info_t *info)
{
    bool has_y = info->target != EBB_TARGET_NONE;
    int64_t elements = info->chunk_elements;
    *array = (ebb_array_t){.name = ebb_role_name(role, info->target, info->target_cols),
                           .cols = 1,
                           .chunk_cols = 1,
                           .codec = EBB_CODEC_ZSTD,
                           .shuffled = true,
                           .padded = true,
                           .hashed = true,
                           .shuffle_bit = 1,
                           .codec_bit = 2,
                           .chunk_rows = EBB_CHUNK_ROWS,
                           .present = true};
    switch (role) {
    case EBB_ROLE_DATA:
        array->elem = ebb_value_elem(info->value_type);
        array->chunk_rows = elements;
        return info->sparse;
    case EBB_ROLE_INDICES:
        array->elem = info->cols <= 65536 ? EBB_ELEM_U16 : EBB_ELEM_I32;
        array->chunk_rows = elements;
        return info->sparse;
    case EBB_ROLE_INDPTR: array->elem = EBB_ELEM_I64; return info->sparse;
    case EBB_ROLE_X:
        array->elem = ebb_value_elem(info->value_type);
        array->cols = info->cols;
        array->chunk_cols = info->cols < elements ? info->cols : elements;
        array->chunk_rows = elements / array->chunk_cols;
        return !info->sparse;
    case EBB_ROLE_Y:
        array->elem = info->target == EBB_TARGET_CLASS ? code_elem(info->classes) : EBB_ELEM_F32;
        array->cols = array->chunk_cols = has_y ? info->target_cols : 1;
        array->chunk_rows = array->cols < EBB_CHUNK_ROWS ? EBB_CHUNK_ROWS / array->cols : 1;
        return has_y;
    case EBB_ROLE_WEIGHT: array->elem = EBB_ELEM_F32; return info->weighted;
    case EBB_ROLE_ROWID: array->elem = EBB_ELEM_I64; return true;
    case EBB_ROLES: break;
    }
    return false;
}

static int64_t role_rows(const ebb_shard_t *shard, ebb_role_t role)
{
    return role == EBB_ROLE_DATA || role == EBB_ROLE_INDICES ? shard->nnz : shard->rows + (role == EBB_ROLE_INDPTR);
}

ebb_status_t ebb_index_encode(const ebb_shard_t *shard, int number, int64_t cols, uint64_t **words_p, int64_t *n_p)
{
    int64_t arrays = 0, chunks = 0;
    for (int role = 0; role < EBB_ROLES; role++) {
        const ebb_array_t *a = &shard->array[role];
        arrays += a->present;
        chunks += a->present ? a->grid_rows * a->grid_cols : 0;
    }
    int64_t table = HEAD_WORDS + arrays * ARRAY_WORDS;
    int64_t n = table + chunks * CHUNK_WORDS + EBB_BAND_HEAD_WORDS + shard->bands * EBB_BAND_WORDS + 1;
    uint64_t *w;
    EBB_TRY(EBB_NEW_ARRAY("shard index", n, &w));
    const int64_t head[HEAD_WORDS] = {
        (int64_t)EBB_INDEX_MAGIC, EBB_INDEX_VERSION, number, shard->row0, shard->rows, cols, shard->nnz, arrays};
    uint64_t *next = w;
    for (int i = 0; i < HEAD_WORDS; i++)
        *next++ = htole64((uint64_t)head[i]);
    for (int role = 0; role < EBB_ROLES; role++) {
        const ebb_array_t *a = &shard->array[role];
        if (!a->present)
            continue;
        const int64_t entry[ARRAY_WORDS] = {role,          a->elem,       a->rows, a->cols,
                                            a->chunk_rows, a->chunk_cols, table,   a->grid_rows * a->grid_cols};
        for (int i = 0; i < ARRAY_WORDS; i++)
            *next++ = htole64((uint64_t)entry[i]);
        for (int64_t c = 0; c < entry[7]; c++, table += CHUNK_WORDS) {
            w[table] = htole64((uint64_t)a->chunk[c].offset);
            w[table + 1] = htole64(a->chunk[c].bytes | (uint64_t)a->chunk[c].mask << 32);
            w[table + 2] = htole64(a->chunk[c].xxh3);
        }
    }
    ebb_bands_encode(shard, w + table);
    w[n - 1] = htole64(ebb_xxh3(w, (size_t)(n - 1) * 8));
    *words_p = w;
    *n_p = n;
    return EBB_OK;
}

#define BAD_INDEX(shard, ...)                                                                                          \
    (EBB_FAIL(EBB_ECORRUPT, __VA_ARGS__), ebb_error_prefix("%s: chunk table: ", (shard)->file), EBB_ECORRUPT)

static ebb_status_t decode_chunks(const ebb_shard_t *shard, ebb_array_t *a, const uint64_t *words)
{
    int64_t n = a->grid_rows * a->grid_cols;
    EBB_TRY(EBB_NEW_ARRAY("chunk table", n, &a->chunk));
    for (int64_t c = 0; c < n; c++, words += CHUNK_WORDS) {
        uint64_t offset = le64toh(words[0]), packed = le64toh(words[1]);
        ebb_chunk_t *chunk = &a->chunk[c];
        chunk->bytes = (uint32_t)packed;
        chunk->mask = (uint32_t)(packed >> 32);
        chunk->xxh3 = le64toh(words[2]);
        if (offset > (uint64_t)shard->bytes || chunk->bytes > (uint64_t)shard->bytes - offset)
            return BAD_INDEX(shard, "%s: chunk %lld lies beyond the end of the file", a->name, (long long)c);
        if (chunk->bytes > ZSTD_COMPRESSBOUND((size_t)ebb_array_chunk_bytes(a, c)))
            return BAD_INDEX(shard, "%s: chunk %lld is absurdly large", a->name, (long long)c);
        if (chunk->bytes == 0 || chunk->mask != 0)
            return BAD_INDEX(shard, "%s: chunk %lld is empty or not filtered", a->name, (long long)c);
        chunk->offset = (int64_t)offset;
    }
    return EBB_OK;
}

/* One array of the index must be just what the manifest implies; then only its chunks are new. */
static ebb_status_t decode_array(ebb_shard_t *shard, const ebb_dataset_info_t *info, const uint64_t *words, int64_t n,
                                 const uint64_t *entry)
{
    uint64_t role = le64toh(entry[0]), first = le64toh(entry[6]);
    if (role >= EBB_ROLES)
        return BAD_INDEX(shard, "unknown array %llu", (unsigned long long)role);
    ebb_array_t *a = &shard->array[role];
    if (a->present)
        return BAD_INDEX(shard, "%s is there twice", a->name);
    ebb_array_t plan;
    if (!ebb_array_plan(&plan, (ebb_role_t)role, info))
        return BAD_INDEX(shard, "has %s, which the manifest does not know", plan.name);
    plan.rows = role_rows(shard, (ebb_role_t)role);
    if (!ebb_array_grid(&plan))
        return BAD_INDEX(shard, "%s is absurdly large", plan.name);
    int64_t chunks = plan.grid_rows * plan.grid_cols;
    const int64_t want[ARRAY_WORDS] = {(int64_t)role,   plan.elem,       plan.rows,      plan.cols,
                                       plan.chunk_rows, plan.chunk_cols, (int64_t)first, chunks};
    for (int i = 0; i < ARRAY_WORDS; i++)
        if (le64toh(entry[i]) != (uint64_t)want[i])
            return BAD_INDEX(shard, "%s does not have the shape that the manifest implies", plan.name);
    if (first > (uint64_t)n || chunks > (n - (int64_t)first) / CHUNK_WORDS)
        return BAD_INDEX(shard, "%s: more chunks than the table holds", plan.name);
    *a = plan;
    return decode_chunks(shard, a, words + first);
}

ebb_status_t ebb_index_decode(ebb_shard_t *shard, int number, const ebb_dataset_info_t *info, const uint64_t *words,
                              int64_t n)
{
    if (n < HEAD_WORDS + 1 || le64toh(words[0]) != EBB_INDEX_MAGIC)
        return BAD_INDEX(shard, "is not there: the file is damaged or not of this data set");
    if (le64toh(words[1]) != EBB_INDEX_VERSION)
        return BAD_INDEX(shard, "version %llu, this ebb reads %d", (unsigned long long)le64toh(words[1]),
                         EBB_INDEX_VERSION);
#ifndef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
    if (le64toh(words[n - 1]) != ebb_xxh3(words, (size_t)(n - 1) * 8))
        return BAD_INDEX(shard, "does not match its checksum: the file is damaged; restore it or pack again");
#endif
    const int64_t want[HEAD_WORDS - 3] = {number, shard->row0, shard->rows, info->cols, shard->nnz};
    for (int i = 0; i < HEAD_WORDS - 3; i++)
        if (le64toh(words[2 + i]) != (uint64_t)want[i])
            return BAD_INDEX(shard, "belongs to another shard than the manifest says: files were mixed up; pack again");
    uint64_t arrays = le64toh(words[7]);
    if (arrays > EBB_ROLES || (int64_t)(HEAD_WORDS + arrays * ARRAY_WORDS) > n - 1)
        return BAD_INDEX(shard, "%llu arrays", (unsigned long long)arrays);
    int64_t end = HEAD_WORDS + (int64_t)arrays * ARRAY_WORDS;
    for (uint64_t i = 0; i < arrays; i++) {
        const uint64_t *entry = words + HEAD_WORDS + i * ARRAY_WORDS;
        EBB_TRY(decode_array(shard, info, words, n - 1, entry));
        int64_t after = (int64_t)le64toh(entry[6]) + (int64_t)le64toh(entry[7]) * CHUNK_WORDS;
        end = after > end ? after : end;
    }
    for (int role = 0; role < EBB_ROLES; role++) {
        ebb_array_t plan;
        if (ebb_array_plan(&plan, (ebb_role_t)role, info) && !shard->array[role].present)
            return BAD_INDEX(shard, "lacks %s", plan.name);
    }
    return ebb_bands_decode(shard, info, words + end, n - 1 - end);
}

ebb_status_t ebb_shard_read_index(ebb_shard_t *shard, int number, const ebb_dataset_info_t *info)
{
    int fd;
    void *words = NULL;
    ebb_status_t status;
    int64_t size = ebb_file_size(shard->path);
    EBB_TRY(ebb_file_open(shard->path, O_RDONLY, 0, &fd));
    if (size != shard->bytes) {
        status = EBB_FAIL(EBB_ECORRUPT,
                          "%s: %lld bytes, the manifest says %lld: truncated or replaced; restore it or pack again",
                          shard->path, (long long)size, (long long)shard->bytes);
        goto done;
    }
    EBB_TRY_GOTO(status, ebb_alloc("shard index", (size_t)shard->index_bytes, &words), done);
    EBB_TRY_GOTO(status, ebb_file_pread(fd, shard->path, words, (size_t)shard->index_bytes, shard->index_offset), done);
    status = ebb_index_decode(shard, number, info, words, shard->index_bytes / 8);
done:
    ebb_free(words);
    close(fd);
    return status;
}

void ebb_shard_clear(ebb_shard_t *shard)
{
    for (int role = 0; role < EBB_ROLES; role++)
        ebb_free(shard->array[role].chunk);
    ebb_free(shard->band);
    ebb_free(shard->path);
}
