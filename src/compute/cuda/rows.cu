/* Sums of row lists along a tree. All entries are sorted by owner and row; the sort is stable and lists come one after
 * the other, so the entries of a row stand in the order of the lists. One thread then adds up one float of a row, as
 * sync/merge.c does on the host: a stack of partial sums, the deeper meeting added first. What lists have no more than
 * room for is sorted behind all rows and left there. What rows_find leaves in the context's scratch memory, rows_add
 * uses. */
#include "compute/cuda/math.h"

#include <vector>

enum { DEPTH = 32 }; /* of a tree over up to 2^31 lists */

typedef struct list {
    const int32_t *idx;
    const float *val;
    const int64_t *count; /* as of ebb_rows_t */
} list_t;

/* The arrays that the two calls share. */
typedef struct found {
    const list_t *list;
    const int64_t *list0, *begin;
    const int32_t *place;
    const uint32_t *key;
} found_t;

/* Rows that the owner of most has, as a multiple of whole blocks. */
static int64_t rows_each(const ebb_rows_merge_t *m)
{
    return (m->rows / 64 / m->owners + 1) * 64;
}

KERNEL list_entries_kernel(int64_t n, int64_t lists, const list_t *list, const int64_t *list0, int64_t owners,
                           int64_t each, uint32_t *key, int32_t *place)
{
    EACH(i, n)
    {
        int64_t k = interval_of(i, lists, list0), at = i - list0[k];
        bool there = !list[k].count || at < *list[k].count;
        int64_t row = there ? list[k].idx[at] : 0;
        key[i] = (uint32_t)(there ? row / 64 % owners * each + row / 64 / owners * 64 + row % 64 : owners * each);
        place[i] = (int32_t)i;
    }
}

/* none: the key of what is no row, above all others. */
KERNEL row_heads_kernel(int64_t n, uint32_t none, const uint32_t *key, int32_t *head)
{
    EACH(i, n)
    {
        head[i] = key[i] != none && (i == 0 || key[i] != key[i - 1]);
    }
}

KERNEL row_begins_kernel(int64_t n, uint32_t none, const uint32_t *key, const int32_t *rank, int64_t *begin)
{
    EACH(i, n)
    {
        if (key[i] != none && (i == 0 || key[i] != key[i - 1]))
            begin[rank[i] - 1] = i;
        if (key[i] != none && (i == n - 1 || key[i + 1] == none))
            begin[rank[i]] = i + 1;
    }
}

/* first (owners + 1): rows before each owner's. */
KERNEL owners_kernel(int64_t owners1, int64_t n, int64_t each, const uint32_t *key, const int32_t *rank, int64_t *first)
{
    EACH(o, owners1)
    {
        int64_t lo = 0, hi = n;
        while (lo < hi) {
            int64_t mid = lo + (hi - lo) / 2;
            if ((int64_t)key[mid] < o * each)
                lo = mid + 1;
            else
                hi = mid;
        }
        first[o] = lo > 0 ? rank[lo - 1] : 0;
    }
}

/* How many bits tell n numbers apart. */
static int bits_for(int64_t n)
{
    int bits = 1;
    while (bits < 32 && ((int64_t)1 << bits) < n)
        bits++;
    return bits;
}

static ebb_status_t make_room(ebb_exec_t *x, const ebb_rows_merge_t *m, int64_t n)
{
    struct {
        room_t *room;
        int64_t n;
        size_t element;
    } need[] = {{&x->lists, m->lists, sizeof(list_t)},
                {&x->fields, m->lists + 1, sizeof(int64_t)},
                {&x->meet, (int64_t)m->lists * m->lists, 1},
                {&x->first, m->owners + 1, sizeof(int64_t)},
                {&x->key, n, sizeof(uint32_t)},
                {&x->key_sorted, n, sizeof(uint32_t)},
                {&x->place, n, sizeof(int32_t)},
                {&x->place_sorted, n, sizeof(int32_t)},
                {&x->head, n, 2 * sizeof(int32_t)},
                {&x->begin, n + 1, sizeof(int64_t)}};
    for (auto &r : need)
        EBB_TRY(ebb_cuda_room(x, r.room, r.n, r.element, "sum of gradient rows"));
    return EBB_OK;
}

static ebb_status_t check(const ebb_rows_merge_t *m, int64_t entries)
{
    if (m->lists < 1 || m->owners < 1 || m->width < 1)
        return EBB_FAIL(EBB_EINVAL, "sum of %d lists of rows of %lld floats for %d owners", m->lists,
                        (long long)m->width, m->owners);
    if (entries > INT32_MAX || rows_each(m) * m->owners > UINT32_MAX)
        return EBB_FAIL(EBB_EINVAL, "sum of %lld gradient rows of a table of %lld: at most 2^31 - 1",
                        (long long)entries, (long long)m->rows);
    return EBB_OK;
}

ebb_status_t ebb_cuda_rows_find(ebb_exec_t *x, const ebb_rows_merge_t *m, int64_t *n_p)
{
    std::vector<list_t> list;
    std::vector<int64_t> list0(1, 0), first((size_t)m->owners + 1, 0);
    for (int k = 0; k < m->lists; k++) {
        list.push_back(list_t{m->list[k].idx, m->list[k].val, m->list[k].count});
        list0.push_back(list0.back() + m->list[k].n);
    }
    int64_t n = list0.back(), lists = m->lists, each = rows_each(m);
    EBB_TRY(check(m, n));
    uint32_t none = (uint32_t)(each * m->owners);
    EBB_TRY(make_room(x, m, n));
    uint32_t *key = (uint32_t *)x->key.ptr, *sorted = (uint32_t *)x->key_sorted.ptr;
    int32_t *place = (int32_t *)x->place.ptr, *head = (int32_t *)x->head.ptr, *rank = head + n;
    EBB_TRY(ebb_cuda_upload(x, x->lists.ptr, list.data(), list.size() * sizeof list[0]));
    EBB_TRY(ebb_cuda_upload(x, x->fields.ptr, list0.data(), list0.size() * sizeof list0[0]));
    EBB_TRY(ebb_cuda_upload(x, x->meet.ptr, m->meet, (size_t)lists * (size_t)lists));
    if (n > 0) {
        LAUNCH(list_entries_kernel, n, x, lists, (const list_t *)x->lists.ptr, (const int64_t *)x->fields.ptr,
               m->owners, each, key, place);
        EBB_TRY(ebb_cuda_sort(x, n, bits_for((int64_t)none + 1), key, sorted, place, (int32_t *)x->place_sorted.ptr));
        LAUNCH(row_heads_kernel, n, x, none, sorted, head);
        EBB_TRY(ebb_cuda_running_sum(x, n, head, rank));
        LAUNCH(row_begins_kernel, n, x, none, sorted, rank, (int64_t *)x->begin.ptr);
        LAUNCH(owners_kernel, m->owners + 1, x, n, each, sorted, rank, (int64_t *)x->first.ptr);
        LAUNCHED("sum of gradient rows");
        EBB_TRY(ebb_cuda_download(x, first.data(), x->first.ptr, first.size() * sizeof first[0]));
    }
    EBB_TRY(ebb_cuda_exec_sync(x)); /* the host's arrays end here */
    for (int o = 0; o < m->owners; o++)
        n_p[o] = first[(size_t)o + 1] - first[(size_t)o];
    x->rows_found = first.back();
    return EBB_OK;
}

KERNEL row_numbers_kernel(int64_t n, found_t f, int64_t owners, int64_t each, int32_t *idx, int32_t *local)
{
    EACH(k, n)
    {
        int64_t key = f.key[f.begin[k]], owner = key / each, row = key % each;
        if (idx)
            idx[k] = (int32_t)((row / 64 * owners + owner) * 64 + row % 64);
        if (local)
            local[k] = (int32_t)row;
    }
}

KERNEL add_rows_kernel(int64_t n, int64_t width, found_t f, int64_t lists, const uint8_t *meet, bool canonical,
                       float *val)
{
    EACH(i, n)
    {
        float sum[DEPTH];
        int depth[DEPTH], top = -1;
        int64_t k = i / width, h = i % width, last = 0;
        for (int64_t j = f.begin[k]; j < f.begin[k + 1]; j++) {
            int64_t at = f.place[j], list = interval_of(at, lists, f.list0);
            int d = top < 0 ? 0 : meet[last * lists + list];
            for (; top > 0 && depth[top] > d; top--)
                sum[top - 1] += sum[top];
            top++;
            sum[top] = f.list[list].val[(at - f.list0[list]) * width + h];
            depth[top] = d;
            last = list;
        }
        for (; top > 0; top--)
            sum[top - 1] += sum[top];
        val[i] = canonical ? sum[0] + 0.0f : sum[0];
    }
}

ebb_status_t ebb_cuda_rows_add(ebb_exec_t *x, const ebb_rows_merge_t *m, int32_t *idx, int32_t *local, float *val)
{
    found_t f = {(const list_t *)x->lists.ptr, (const int64_t *)x->fields.ptr, (const int64_t *)x->begin.ptr,
                 (const int32_t *)x->place_sorted.ptr, (const uint32_t *)x->key_sorted.ptr};
    EBB_TRY(ebb_cuda_use(x));
    LAUNCH(row_numbers_kernel, x->rows_found, x, f, m->owners, rows_each(m), idx, local);
    LAUNCH(add_rows_kernel, x->rows_found * m->width, x, m->width, f, m->lists, (const uint8_t *)x->meet.ptr,
           m->canonical, val);
    LAUNCHED("sum of gradient rows");
    return EBB_OK;
}

KERNEL get_rows_kernel(int64_t n, int64_t width, const int32_t *idx, const float *table, float *val)
{
    EACH(i, n)
    {
        val[i] = table[idx[i / width] * width + i % width];
    }
}

ebb_status_t ebb_cuda_get_rows(ebb_exec_t *x, int64_t n, int64_t width, const int32_t *idx, const float *table,
                               float *val)
{
    EBB_TRY(ebb_cuda_use(x));
    LAUNCH(get_rows_kernel, n * width, x, width, idx, table, val);
    LAUNCHED("rows of a table");
    return EBB_OK;
}
