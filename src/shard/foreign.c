/* HDF5 files that are not ours, read as they are: AnnData and 10x matrices, plain 2-D datasets, targets wherever they
 * lie.
 *
 * Arrays are indexed once. What we understand (no filter, shuffle, deflate, LZF, zstd; little-endian integers and IEEE
 * floats) is then read with pread like our own shards; anything else goes chunk by chunk through libhdf5 under its lock
 * (EBB_CODEC_HDF5), in which case the file stays open there. Targets are read whole at open: they are small, and
 * classes must be counted. */
#include "shard/foreign.h"
#include "base/alloc.h"
#include "base/file.h"
#include "base/hash.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#define NAME_SIZE 256
#define H5_LZF    32000 /* registered filter id of h5py's LZF */
/* libhdf5 1.10 needs a walk over all chunks to find one; beyond this many it had better read them itself. */
#define MOST_INDEXED 20000

/* ---- one array ---- */

static hid_t native_type(ebb_elem_t elem)
{
    switch (elem) {
    case EBB_ELEM_U8: return H5T_NATIVE_UINT8;
    case EBB_ELEM_I8: return H5T_NATIVE_INT8;
    case EBB_ELEM_U16: return H5T_NATIVE_UINT16;
    case EBB_ELEM_I16: return H5T_NATIVE_INT16;
    case EBB_ELEM_U32: return H5T_NATIVE_UINT32;
    case EBB_ELEM_I32: return H5T_NATIVE_INT32;
    case EBB_ELEM_U64: return H5T_NATIVE_UINT64;
    case EBB_ELEM_I64: return H5T_NATIVE_INT64;
    case EBB_ELEM_F32: return H5T_NATIVE_FLOAT;
    default: return H5T_NATIVE_DOUBLE;
    }
}

static bool integer_elem(hid_t type, ebb_elem_t *elem_p, bool *direct_p)
{
    static const ebb_elem_t table[2][4] = {{EBB_ELEM_U8, EBB_ELEM_U16, EBB_ELEM_U32, EBB_ELEM_U64},
                                           {EBB_ELEM_I8, EBB_ELEM_I16, EBB_ELEM_I32, EBB_ELEM_I64}};
    size_t size = H5Tget_size(type);
    int log2 = size == 1 ? 0 : size == 2 ? 1 : size == 4 ? 2 : size == 8 ? 3 : -1;
    if (log2 < 0)
        return false;
    *elem_p = table[H5Tget_sign(type) == H5T_SGN_2][log2];
    *direct_p = (size == 1 || H5Tget_order(type) == H5T_ORDER_LE) && H5Tget_precision(type) == 8 * size;
    return true;
}

static bool is_half(hid_t type)
{
    size_t sign, exponent, exponent_bits, fraction, fraction_bits;
    return H5Tget_size(type) == 2 && H5Tget_order(type) == H5T_ORDER_LE && H5Tget_ebias(type) == 15 &&
           H5Tget_fields(type, &sign, &exponent, &exponent_bits, &fraction, &fraction_bits) >= 0 && sign == 15 &&
           exponent == 10 && exponent_bits == 5 && fraction == 0 && fraction_bits == 10;
}

/* Element type of a dataset, and whether its bytes are those of this machine. False: not numbers. */
static bool stored_elem(hid_t type, ebb_elem_t *elem_p, bool *direct_p)
{
    *direct_p = true;
    if (H5Tget_class(type) == H5T_ENUM) { /* h5py's booleans */
        hid_t base = H5Tget_super(type);
        bool good = integer_elem(base, elem_p, direct_p);
        H5Tclose(base);
        *direct_p &= good;
        return good;
    }
    if (H5Tget_class(type) == H5T_INTEGER)
        return integer_elem(type, elem_p, direct_p);
    if (H5Tget_class(type) != H5T_FLOAT)
        return false;
    if (H5Tequal(type, H5T_IEEE_F32LE) > 0)
        *elem_p = EBB_ELEM_F32;
    else if (H5Tequal(type, H5T_IEEE_F64LE) > 0)
        *elem_p = EBB_ELEM_F64;
    else if (is_half(type))
        *elem_p = EBB_ELEM_F16;
    else {
        *elem_p = EBB_ELEM_F64;
        *direct_p = false;
    }
    return true;
}

/* Can we undo the filters of this dataset? */
static bool known_filters(hid_t dcpl, ebb_array_t *a)
{
    int n = H5Pget_nfilters(dcpl);
    a->codec = EBB_CODEC_NONE;
    for (int i = 0; i < n; i++) {
        unsigned flags, config;
        size_t values = 0;
        H5Z_filter_t id = H5Pget_filter2(dcpl, (unsigned)i, &flags, &values, NULL, 0, NULL, &config);
        if (id == H5Z_FILTER_SHUFFLE && i == 0) {
            a->shuffled = true;
            a->shuffle_bit = 1;
        } else if ((id == H5Z_FILTER_DEFLATE || id == EBB_H5_ZSTD || id == H5_LZF) && i == n - 1) {
            a->codec = id == EBB_H5_ZSTD ? EBB_CODEC_ZSTD : id == H5_LZF ? EBB_CODEC_LZF : EBB_CODEC_DEFLATE;
            a->codec_bit = 1u << i;
        } else
            return false;
    }
    return true;
}

/* Chunk addresses from libhdf5. False: leave the array to it. */
static bool index_chunks(hid_t h5, hid_t dcpl, ebb_array_t *a, int64_t file_bytes)
{
    hsize_t n = 0, at[2] = {0, 0}, bytes;
    haddr_t offset;
    unsigned mask;
    hid_t space = H5Dget_space(h5);
    H5D_fill_value_t fill;
    bool good = H5Dget_num_chunks(h5, space, &n) >= 0 && n <= MOST_INDEXED && H5Pfill_value_defined(dcpl, &fill) >= 0;
    if (good && (int64_t)n < a->grid_rows * a->grid_cols &&
        (fill == H5D_FILL_VALUE_USER_DEFINED || a->grid_rows * a->grid_cols > 1 << 24))
        good = false;
    good = good && EBB_NEW_ARRAY("chunk table", a->grid_rows * a->grid_cols, &a->chunk) == EBB_OK;
    for (hsize_t i = 0; good && i < n; i++) {
        good = H5Dget_chunk_info(h5, space, i, at, &mask, &offset, &bytes) >= 0;
        int64_t row = (int64_t)at[0] / a->chunk_rows, col = (int64_t)at[1] / a->chunk_cols;
        good = good && row < a->grid_rows && col < a->grid_cols && bytes <= UINT32_MAX &&
               (int64_t)offset <= file_bytes && (int64_t)bytes <= file_bytes - (int64_t)offset;
        if (good)
            a->chunk[row * a->grid_cols + col] = (ebb_chunk_t){(int64_t)offset, (uint32_t)bytes, mask, 0};
    }
    H5Sclose(space);
    if (!good) {
        ebb_free(a->chunk);
        a->chunk = NULL;
    }
    return good;
}

/* Cut what is not chunked into pieces of our usual size. */
static bool cut_pieces(ebb_array_t *a)
{
    a->padded = false;
    a->chunk_cols = a->cols;
    a->chunk_rows = a->cols < EBB_MOST_CHUNK_ELEMENTS ? EBB_MOST_CHUNK_ELEMENTS / a->cols : 1;
    return ebb_array_grid(a);
}

static bool index_contiguous(hid_t h5, hid_t dcpl, ebb_array_t *a, int64_t file_bytes)
{
    haddr_t offset = H5Dget_offset(h5);
    int64_t size = (int64_t)ebb_elem_size(a->elem), n;
    if (offset == HADDR_UNDEF || H5Pget_external_count(dcpl) != 0 || !cut_pieces(a))
        return false;
    n = a->rows * a->cols * size;
    if ((int64_t)offset > file_bytes || n > file_bytes - (int64_t)offset || a->chunk_rows * a->cols * size > UINT32_MAX)
        return false;
    if (EBB_NEW_ARRAY("chunk table", a->grid_rows, &a->chunk) != EBB_OK)
        return false;
    for (int64_t c = 0; c < a->grid_rows; c++)
        a->chunk[c] = (ebb_chunk_t){(int64_t)offset + c * a->chunk_rows * a->cols * size,
                                    (uint32_t)ebb_array_chunk_bytes(a, c), 0, 0};
    return true;
}

static bool index_direct(foreign_t *f, hid_t h5, hid_t dcpl, ebb_array_t *a)
{
    hsize_t chunk[2] = {1, 1};
    H5D_layout_t layout = H5Pget_layout(dcpl);
    if (f->user_block || layout == H5D_COMPACT || layout == H5D_VIRTUAL)
        return false;
    if (layout == H5D_CONTIGUOUS)
        return index_contiguous(h5, dcpl, a, f->bytes);
    if (H5Pget_chunk(dcpl, 2, chunk) < 1 || !known_filters(dcpl, a))
        return false;
    a->chunk_rows = (int64_t)chunk[0];
    a->chunk_cols = (int64_t)chunk[1];
    a->padded = true;
    return ebb_array_grid(a) && index_chunks(h5, dcpl, a, f->bytes);
}

/* Leave the array to libhdf5, in pieces of whole chunks where it has any. */
static bool index_slow(hid_t h5, hid_t dcpl, ebb_array_t *a)
{
    hsize_t chunk[2] = {1, 1};
    a->codec = EBB_CODEC_HDF5;
    a->shuffled = false;
    if (a->elem == EBB_ELEM_F16)
        a->elem = EBB_ELEM_F32;
    if (!cut_pieces(a))
        return false;
    if (H5Pget_layout(dcpl) == H5D_CHUNKED && H5Pget_chunk(dcpl, 2, chunk) >= 1 && (int64_t)chunk[0] > a->chunk_rows)
        a->chunk_rows = (int64_t)chunk[0];
    a->h5 = h5;
    return ebb_array_grid(a);
}

static ebb_status_t index_open(foreign_t *f, hid_t h5, ebb_array_t *a)
{
    hsize_t size[2] = {0, 1};
    bool direct;
    hid_t type = H5Dget_type(h5), space = H5Dget_space(h5), dcpl = H5Dget_create_plist(h5);
    int dims = H5Sget_simple_extent_ndims(space);
    ebb_status_t status = EBB_OK;
    if (dims < 1 || dims > 2)
        status = EBB_FAIL(EBB_EDATA, "%s: %s: has %d dimensions; 1 or 2 can be read", f->path, a->name, dims);
    else if (!stored_elem(type, &a->elem, &direct))
        status = EBB_FAIL(EBB_EDATA, "%s: %s: does not hold numbers", f->path, a->name);
    else {
        H5Sget_simple_extent_dims(space, size, NULL);
        a->rows = (int64_t)size[0];
        a->cols = (int64_t)size[1];
        a->chunk_rows = a->chunk_cols = 1;
        if (!ebb_array_grid(a))
            status = EBB_FAIL(EBB_EDATA, "%s: %s: is empty or absurdly large", f->path, a->name);
        else if (!(direct && index_direct(f, h5, dcpl, a)) && !index_slow(h5, dcpl, a))
            status = EBB_FAIL(EBB_EDATA, "%s: %s: chunks are absurdly large", f->path, a->name);
    }
    H5Pclose(dcpl);
    H5Sclose(space);
    H5Tclose(type);
    return status;
}

ebb_status_t ebb_foreign_index(foreign_t *f, const char *name, ebb_role_t role)
{
    ebb_array_t *a = &f->ds->shard[0].array[role];
    char *kept = f->ds->names + NAME_SIZE * role;
    snprintf(kept, NAME_SIZE, "%s", name);
    *a = (ebb_array_t){.name = kept, .present = true};
    hid_t h5 = H5Dopen2(f->file, name, H5P_DEFAULT);
    if (h5 < 0) {
        H5Eclear2(H5E_DEFAULT);
        return EBB_FAIL(EBB_EDATA, "%s: has no dataset %s", f->path, name);
    }
    ebb_status_t status = index_open(f, h5, a);
    if (a->h5 == 0)
        H5Dclose(h5);
    f->ds->h5_file |= a->h5 != 0;
    return status;
}

ebb_status_t ebb_foreign_read_chunk(const ebb_array_t *a, const char *path, int64_t chunk, void *buf)
{
    hsize_t at[2] = {(hsize_t)(chunk * a->chunk_rows), 0};
    hsize_t size[2] = {(hsize_t)(a->rows - (int64_t)at[0] < a->chunk_rows ? a->rows - (int64_t)at[0] : a->chunk_rows),
                       (hsize_t)a->cols};
    ebb_h5_lock();
    hid_t space = H5Dget_space((hid_t)a->h5), memory = H5Screate_simple(2, size, NULL);
    ebb_status_t status = EBB_OK;
    if (H5Sselect_hyperslab(space, H5S_SELECT_SET, at, NULL, size, NULL) < 0 ||
        H5Dread((hid_t)a->h5, native_type(a->elem), memory, space, H5P_DEFAULT, buf) < 0)
        status = ebb_h5_error(path, "read (a filter that libhdf5 lacks is found through HDF5_PLUGIN_PATH)");
    H5Sclose(memory);
    H5Sclose(space);
    ebb_h5_unlock();
    return status;
}

/* ---- which array ---- */

bool ebb_foreign_has(hid_t file, const char *name, H5I_type_t kind)
{
    char part[NAME_SIZE];
    size_t n = strlen(name);
    if (n == 0 || n >= sizeof part)
        return false;
    for (size_t i = 1; i <= n; i++) { /* every group on the way must be there before its member can be asked for */
        if (name[i] != '/' && name[i] != 0)
            continue;
        snprintf(part, sizeof part, "%.*s", (int)i, name);
        if (H5Lexists(file, part, H5P_DEFAULT) <= 0) {
            H5Eclear2(H5E_DEFAULT);
            return false;
        }
    }
    hid_t object = H5Oopen(file, name, H5P_DEFAULT);
    bool good = object >= 0 && (kind == H5I_BADID || H5Iget_type(object) == kind);
    if (object >= 0)
        H5Oclose(object);
    H5Eclear2(H5E_DEFAULT);
    return good;
}

static bool has_member(const foreign_t *f, const char *group, const char *member)
{
    char name[NAME_SIZE];
    snprintf(name, sizeof name, "%.200s/%s", group, member);
    return ebb_foreign_has(f->file, name, H5I_DATASET);
}

static bool is_matrix(const foreign_t *f, const char *name)
{
    if (ebb_foreign_has(f->file, name, H5I_GROUP))
        return has_member(f, name, "indptr");
    if (!ebb_foreign_has(f->file, name, H5I_DATASET))
        return false;
    hid_t h5 = H5Dopen2(f->file, name, H5P_DEFAULT), space = H5Dget_space(h5), type = H5Dget_type(h5);
    ebb_elem_t elem;
    bool direct, good = H5Sget_simple_extent_ndims(space) == 2 && stored_elem(type, &elem, &direct);
    H5Tclose(type);
    H5Sclose(space);
    H5Dclose(h5);
    return good;
}

typedef struct candidates {
    const foreign_t *f;
    int n;
    char name[NAME_SIZE], list[200];
} candidates_t;

static herr_t add_candidate(hid_t group, const char *name, const H5L_info_t *info, void *user)
{
    candidates_t *c = user;
    if (!is_matrix(c->f, name))
        return 0;
    snprintf(c->name, sizeof c->name, "%s", name);
    snprintf(c->list + strlen(c->list), sizeof c->list - strlen(c->list), "%s%s", c->n > 0 ? ", " : "", name);
    c->n++;
    return 0;
}

static ebb_status_t choose_matrix(const foreign_t *f, const char *wanted, char name[NAME_SIZE])
{
    candidates_t c = {.f = f};
    H5Literate(f->file, H5_INDEX_NAME, H5_ITER_INC, NULL, add_candidate, &c);
    H5Eclear2(H5E_DEFAULT);
    if (wanted[0]) {
        snprintf(name, NAME_SIZE, "%s", wanted);
        if (is_matrix(f, name))
            return EBB_OK;
        return EBB_FAIL(EBB_EDATA,
                        "%s: %s is no matrix: a 2-D dataset of numbers or a group with data, indices, indptr; %s%s",
                        f->path, name, c.n > 0 ? "there is " : "there is none at the top of the file", c.list);
    }
    const char *usual = is_matrix(f, "X") ? "X" : is_matrix(f, "matrix") ? "matrix" : c.n == 1 ? c.name : NULL;
    if (!usual && c.n == 0)
        return EBB_FAIL(EBB_EDATA, "%s: holds no matrix at its top: name one inside it (--dataset path/to/matrix)",
                        f->path);
    if (!usual)
        return EBB_FAIL(EBB_EDATA, "%s: holds several matrices: choose one of %s (--dataset)", f->path, c.list);
    snprintf(name, NAME_SIZE, "%s", usual);
    return EBB_OK;
}

/* ---- sparse and dense ---- */

static bool read_shape_attribute(hid_t group, int64_t shape[2])
{
    const char *name = H5Aexists(group, "shape") > 0 ? "shape" : "h5sparse_shape";
    if (H5Aexists(group, name) <= 0)
        return false;
    hid_t attribute = H5Aopen(group, name, H5P_DEFAULT), space = H5Aget_space(attribute);
    bool good = H5Sget_simple_extent_npoints(space) == 2 && H5Aread(attribute, H5T_NATIVE_INT64, shape) >= 0;
    H5Sclose(space);
    H5Aclose(attribute);
    return good;
}

static bool read_shape_dataset(const foreign_t *f, const char *group, int64_t shape[2])
{
    char name[NAME_SIZE];
    snprintf(name, sizeof name, "%.200s/shape", group);
    if (!ebb_foreign_has(f->file, name, H5I_DATASET))
        return false;
    hid_t h5 = H5Dopen2(f->file, name, H5P_DEFAULT), space = H5Dget_space(h5);
    bool good = H5Sget_simple_extent_npoints(space) == 2 &&
                H5Dread(h5, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, shape) >= 0;
    H5Sclose(space);
    H5Dclose(h5);
    return good;
}

/* Rows and columns as they are stored: 10x files keep genes x cells by columns, which is cells x genes by rows. */
static ebb_status_t read_shape(foreign_t *f, const char *name, int64_t *rows_p, int64_t *cols_p)
{
    char format[64] = "";
    int64_t shape[2] = {0, 0};
    hid_t group = H5Gopen2(f->file, name, H5P_DEFAULT);
    if (!ebb_h5_read_text(group, "encoding-type", format, sizeof format))
        ebb_h5_read_text(group, "h5sparse_format", format, sizeof format);
    bool attribute = read_shape_attribute(group, shape);
    bool tenx = !attribute && read_shape_dataset(f, name, shape);
    H5Gclose(group);
    H5Eclear2(H5E_DEFAULT);
    bool columns = strncmp(format, "csc", 3) == 0;
    if (!attribute && !tenx)
        return EBB_FAIL(EBB_EDATA, "%s: %s: says nowhere what shape it has (attribute or dataset \"shape\")", f->path,
                        name);
    if (columns && !f->by_columns)
        return EBB_FAIL(
            EBB_EDATA,
            "%s: %s: is stored by columns (%s), so rows cannot be read: pack it, which transposes (ebb pack %s DEST)",
            f->path, name, format, f->path);
    if (columns)
        *f->by_columns = true;
    *rows_p = shape[columns || tenx];
    *cols_p = shape[!(columns || tenx)];
    return EBB_OK;
}

static ebb_status_t index_member(foreign_t *f, const char *group, const char *member, ebb_role_t role)
{
    char name[NAME_SIZE];
    snprintf(name, sizeof name, "%.200s/%s", group, member);
    EBB_TRY(ebb_foreign_index(f, name, role));
    if (f->ds->shard[0].array[role].cols != 1)
        return EBB_FAIL(EBB_EDATA, "%s: %s: must have one dimension", f->path, name);
    return EBB_OK;
}

static ebb_status_t open_sparse(foreign_t *f, const char *name)
{
    ebb_shard_t *s = &f->ds->shard[0];
    ebb_dataset_info_t *info = &f->ds->info;
    EBB_TRY(read_shape(f, name, &info->rows, &info->cols));
    EBB_TRY(index_member(f, name, "data", EBB_ROLE_DATA));
    EBB_TRY(index_member(f, name, "indices", EBB_ROLE_INDICES));
    EBB_TRY(index_member(f, name, "indptr", EBB_ROLE_INDPTR));
    if (s->array[EBB_ROLE_INDPTR].rows - 1 != info->rows)
        return EBB_FAIL(EBB_EDATA, "%s: %s: %lld row pointers for %lld rows", f->path, name,
                        (long long)s->array[EBB_ROLE_INDPTR].rows, (long long)info->rows);
    if (s->array[EBB_ROLE_DATA].rows != s->array[EBB_ROLE_INDICES].rows)
        return EBB_FAIL(EBB_EDATA, "%s: %s: %lld values but %lld indices", f->path, name,
                        (long long)s->array[EBB_ROLE_DATA].rows, (long long)s->array[EBB_ROLE_INDICES].rows);
    info->sparse = true;
    s->nnz = s->array[EBB_ROLE_DATA].rows;
    return EBB_OK;
}

static ebb_status_t open_dense(foreign_t *f, const char *name)
{
    ebb_shard_t *s = &f->ds->shard[0];
    EBB_TRY(ebb_foreign_index(f, name, EBB_ROLE_X));
    f->ds->info.rows = s->array[EBB_ROLE_X].rows;
    f->ds->info.cols = s->array[EBB_ROLE_X].cols;
    s->nnz = f->ds->info.rows * f->ds->info.cols;
    return EBB_OK;
}

static ebb_value_type_t nearest_value_type(ebb_elem_t elem)
{
    static const ebb_value_type_t type[EBB_ELEMS] = {
        [EBB_ELEM_U8] = EBB_U8,   [EBB_ELEM_I8] = EBB_I8,   [EBB_ELEM_U16] = EBB_U16, [EBB_ELEM_I16] = EBB_I16,
        [EBB_ELEM_U32] = EBB_I32, [EBB_ELEM_I32] = EBB_I32, [EBB_ELEM_U64] = EBB_I32, [EBB_ELEM_I64] = EBB_I32,
        [EBB_ELEM_F16] = EBB_F16, [EBB_ELEM_F32] = EBB_F32, [EBB_ELEM_F64] = EBB_F32};
    return type[elem];
}

static ebb_status_t open_matrix(foreign_t *f, const char *name)
{
    ebb_dataset_info_t *info = &f->ds->info;
    ebb_shard_t *s = &f->ds->shard[0];
    EBB_TRY(ebb_foreign_has(f->file, name, H5I_GROUP) ? open_sparse(f, name) : open_dense(f, name));
    if (info->cols < 1 || info->cols > INT32_MAX || info->rows < 0)
        return EBB_FAIL(EBB_EDATA, "%s: %s: %lld rows of %lld columns: 1 to 2^31-1 columns can be read", f->path, name,
                        (long long)info->rows, (long long)info->cols);
    const ebb_array_t *main = &s->array[info->sparse ? EBB_ROLE_DATA : EBB_ROLE_X];
    info->value_type = nearest_value_type(main->elem);
    info->chunk_elements = main->chunk_rows * main->chunk_cols;
    s->rows = info->rows;
    f->n_targets = f->by_columns && *f->by_columns ? info->cols : info->rows;
    return EBB_OK;
}

/* ---- the file ---- */

static ebb_status_t open_file(foreign_t *f)
{
    if (H5Fis_hdf5(f->path) <= 0) {
        H5Eclear2(H5E_DEFAULT);
        return EBB_FAIL(EBB_EDATA, "%s: is not an HDF5 file: pack it first (ebb pack %s DEST)", f->path, f->path);
    }
    hid_t fapl = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_fclose_degree(fapl, H5F_CLOSE_STRONG);
    f->file = H5Fopen(f->path, H5F_ACC_RDONLY, fapl);
    ebb_status_t status = f->file < 0 ? ebb_h5_error(f->path, "open") : EBB_OK;
    H5Pclose(fapl);
    EBB_TRY(status);
    hid_t fcpl = H5Fget_create_plist(f->file);
    H5Pget_userblock(fcpl, &f->user_block);
    H5Pclose(fcpl);
    return EBB_OK;
}

/* Lock held. dataset: "matrix:targets", either part may be missing. */
static ebb_status_t index_file(foreign_t *f, const char *dataset)
{
    char name[NAME_SIZE], wanted[NAME_SIZE] = "";
    const char *colon = dataset ? strrchr(dataset, ':') : NULL;
    if (dataset)
        snprintf(wanted, sizeof wanted, "%.*s", (int)(colon ? colon - dataset : (ptrdiff_t)strlen(dataset)), dataset);
    EBB_TRY(open_file(f));
    EBB_TRY(choose_matrix(f, wanted, name));
    EBB_TRY(open_matrix(f, name));
    return colon ? ebb_foreign_index_targets(f, colon + 1) : EBB_OK;
}

/* Equal files give equal hashes; of the index only, so that a big file opens at once. */
static ebb_status_t hash_index(const foreign_t *f, ebb_dataset_t *ds)
{
    ebb_sha256_t *sha;
    EBB_TRY(ebb_sha256_create(&sha));
    const int64_t head[] = {ds->info.rows,  ds->info.cols,    ds->info.nnz,
                            ds->info.bytes, ds->info.classes, ds->info.target};
    ebb_sha256_update(sha, head, sizeof head);
    for (int role = 0; role < EBB_ROLES; role++) {
        const ebb_array_t *a = &ds->shard[0].array[role];
        if (!a->present)
            continue;
        const int64_t shape[] = {role, a->elem, a->rows, a->cols, a->chunk_rows, a->chunk_cols};
        ebb_sha256_update(sha, shape, sizeof shape);
        if (a->chunk)
            ebb_sha256_update(sha, a->chunk, (size_t)(a->grid_rows * a->grid_cols) * sizeof *a->chunk);
    }
    if (ds->labels)
        ebb_sha256_update(sha, ds->labels, (size_t)f->n_targets * sizeof *ds->labels);
    ebb_sha256_final(sha, ds->hash);
    ebb_sha256_destroy(sha);
    return EBB_OK;
}

/* What the arrays in use take: the file may hold much else. */
static int64_t stored_bytes(const ebb_shard_t *s)
{
    int64_t bytes = 0;
    for (int role = 0; role < EBB_ROLES; role++) {
        const ebb_array_t *a = &s->array[role];
        if (a->present && !a->chunk && a->rows > 0)
            return s->bytes; /* libhdf5 alone knows */
        for (int64_t c = 0; a->chunk && c < a->grid_rows * a->grid_cols; c++)
            bytes += a->chunk[c].bytes;
    }
    return bytes;
}

static ebb_status_t finish(foreign_t *f, ebb_dataset_t *ds)
{
    ebb_reader_t *reader;
    ds->info.bytes = stored_bytes(&ds->shard[0]);
    ds->info.nnz = ds->shard[0].nnz;
    if (ds->info.sparse && ds->info.rows > 0) {
        ds->info.target = EBB_TARGET_NONE;
        EBB_TRY(ebb_reader_create(ds, 0, &reader));
        ebb_status_t status =
            ebb_reader_take(reader, 0, EBB_ROLE_INDPTR, ds->info.rows, 1, EBB_ELEM_I64, &ds->info.nnz);
        ebb_reader_destroy(reader);
        EBB_TRY(status);
        if (ds->info.nnz != ds->shard[0].nnz)
            return EBB_FAIL(EBB_EDATA, "%s: row pointers end at %lld, but there are %lld values", f->path,
                            (long long)ds->info.nnz, (long long)ds->shard[0].nnz);
    }
    EBB_TRY(ebb_foreign_read_targets(f));
    ds->info.hash = ds->hash;
    return hash_index(f, ds);
}

static ebb_status_t make_dataset(const char *path, ebb_dataset_t *ds)
{
    const char *slash = strrchr(path, '/');
    EBB_TRY(EBB_NEW_ARRAY("shards", 1, &ds->shard));
    EBB_TRY(ebb_alloc("array names", NAME_SIZE * EBB_ROLES, (void **)&ds->names));
    ds->info.n_shards = 1;
    ds->path = ebb_strdup(path);
    ds->name = ebb_strdup(slash ? slash + 1 : path);
    ds->shard[0].path = ebb_strdup(path);
    if (!ds->path || !ds->name || !ds->shard[0].path)
        return EBB_FAIL(EBB_ENOMEM, "out of memory for a name");
    slash = strrchr(ds->shard[0].path, '/');
    ds->shard[0].file = slash ? slash + 1 : ds->shard[0].path;
    ds->info.name = ds->name;
    ds->info.bytes = ds->shard[0].bytes = ebb_file_size(path);
    return EBB_OK;
}

ebb_status_t ebb_foreign_open(const char *path, const char *dataset, bool *by_columns, ebb_dataset_t **ds_p)
{
    foreign_t f = {.path = path, .file = -1, .by_columns = by_columns, .bytes = ebb_file_size(path)};
    ebb_status_t status;
    *ds_p = NULL;
    EBB_TRY(EBB_NEW("data set", &f.ds));
    EBB_TRY_GOTO(status, make_dataset(path, f.ds), done);
    ebb_h5_lock();
    status = index_file(&f, dataset);
    if (f.file >= 0 && (status != EBB_OK || f.ds->h5_file == 0)) {
        H5Fclose(f.file); /* strong: closes its datasets too */
        f.ds->h5_file = 0;
    } else
        f.ds->h5_file = f.file >= 0 ? f.file : 0;
    ebb_h5_unlock();
    if (status == EBB_OK)
        status = finish(&f, f.ds);
done:
    ebb_foreign_clear(&f);
    if (status == EBB_OK)
        *ds_p = f.ds;
    else
        ebb_dataset_close(f.ds);
    return status;
}

void ebb_foreign_close(ebb_dataset_t *ds)
{
    if (ds->h5_file == 0)
        return;
    ebb_h5_lock();
    H5Fclose((hid_t)ds->h5_file);
    ebb_h5_unlock();
}
