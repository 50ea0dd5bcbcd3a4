/* Bands: every block of rows, read by itself, holds what was written; rows of every awkward length; damage is named. */
#include "shards.h"
#include "base/file.h"
#include "shard/bands.h"

#include <fcntl.h>
#include <unistd.h>

enum { ROWS = 700, MOST = 45000 };

/* None, one, some; just to a chunk's end and one beyond; half a chunk more; several chunks. */
static int64_t length_of(int64_t row, int64_t at)
{
    int64_t left = EBB_CHUNK_ELEMENTS - at % EBB_CHUNK_ELEMENTS;
    switch (made_hash((uint64_t)row, 77) % 40) {
    case 0: return left;
    case 1: return left + 1;
    case 2: return left - 1;
    case 3: return left + EBB_CHUNK_ELEMENTS / 2;
    case 4: return left + EBB_CHUNK_ELEMENTS / 2 + 1;
    case 5: return row % 3 == 0 ? MOST : 3000;
    case 6:
    case 7:
    case 8: return 0;
    case 9: return 1;
    default: return (int64_t)(made_hash((uint64_t)row, 78) % 900);
    }
}

typedef struct whole {
    int64_t *rowptr;
    int32_t *col, *label;
    float *val, *weight;
} whole_t;

static whole_t make_whole(void)
{
    whole_t m = {.rowptr = calloc(ROWS + 1, 8), .label = malloc(ROWS * 4), .weight = malloc(ROWS * 4)};
    for (int64_t i = 0; i < ROWS; i++)
        m.rowptr[i + 1] = m.rowptr[i] + length_of(i, m.rowptr[i]);
    m.col = malloc((size_t)m.rowptr[ROWS] * 4);
    m.val = malloc((size_t)m.rowptr[ROWS] * 4);
    for (int64_t i = 0; i < ROWS; i++) {
        m.label[i] = (int32_t)(made_hash((uint64_t)i, 79) % 3);
        m.weight[i] = made_weight(i);
        for (int64_t k = m.rowptr[i]; k < m.rowptr[i + 1]; k++) {
            m.col[k] = (int32_t)(k - m.rowptr[i]) + (int32_t)(i % 100);
            m.val[k] = (float)(made_hash((uint64_t)k, 80) % 200);
        }
    }
    return m;
}

static void free_whole(whole_t *m)
{
    free(m->rowptr);
    free(m->col);
    free(m->label);
    free(m->val);
    free(m->weight);
}

static void write_whole(const char *dir, const ebb_dataset_plan_t *plan, const whole_t *m)
{
    ebb_shard_summary_t summary[8];
    int64_t class_rows[3] = {0}, row = 0;
    int n = 0;
    for (int64_t i = 0; i < ROWS; i++)
        class_rows[m->label[i]]++;
    for (; row < ROWS; n++) {
        ebb_shard_writer_t *w;
        assert_ok(ebb_shard_writer_create(dir, plan, n, 1, &w));
        for (int64_t i = 0; i < plan->shard_rows && row < ROWS; i++, row++) {
            int64_t ptr[2] = {0, m->rowptr[row + 1] - m->rowptr[row]};
            assert_ok(ebb_shard_writer_append(w, 1, ptr, m->col + m->rowptr[row], m->val + m->rowptr[row], NULL,
                                              &m->label[row], NULL, &m->weight[row]));
        }
        assert_ok(ebb_shard_writer_commit(w, &summary[n]));
        ebb_shard_writer_destroy(w);
    }
    assert_ok(ebb_manifest_write(dir, plan, n, summary, class_rows));
}

static void check_block(ebb_reader_t *reader, const whole_t *m, int64_t row, int64_t n)
{
    int64_t *ptr = malloc((size_t)(n + 1) * 8), count = m->rowptr[row + n] - m->rowptr[row];
    int32_t *col = malloc((size_t)count * 4 + 4), *label = malloc((size_t)n * 4);
    float *val = malloc((size_t)count * 4 + 4), *weight = malloc((size_t)n * 4);
    assert_ok(ebb_reader_rowptr(reader, row, n, m->rowptr[row], ptr));
    assert_memory_equal(ptr, m->rowptr + row, (size_t)(n + 1) * 8);
    assert_ok(ebb_reader_csr(reader, row, n, col, val));
    assert_memory_equal(col, m->col + m->rowptr[row], (size_t)count * 4);
    assert_memory_equal(val, m->val + m->rowptr[row], (size_t)count * 4);
    assert_ok(ebb_reader_targets(reader, row, n, label, NULL, weight));
    assert_memory_equal(label, m->label + row, (size_t)n * 4);
    assert_memory_equal(weight, m->weight + row, (size_t)n * 4);
    free(ptr);
    free(col);
    free(val);
    free(label);
    free(weight);
}

static void every_block_reads_as_it_was_written(void **state)
{
    whole_t m = make_whole();
    for (int variant = 0; variant < 6; variant++) {
        char *dir = test_mkdir();
        ebb_dataset_plan_t plan = made_plan(true, (ebb_value_type_t[]){EBB_F32, EBB_U8, EBB_F16}[variant % 3], ROWS,
                                            variant < 3 ? 70000 : 60000);
        ebb_dataset_t *ds;
        ebb_reader_t *reader;
        plan.weighted = true;
        plan.shard_rows = variant % 2 ? 150 : ROWS;
        write_whole(dir, &plan, &m);
        assert_ok(ebb_dataset_verify(dir, 1, NULL, NULL));
        assert_ok(ebb_dataset_open(dir, NULL, &ds));
        assert_ok(ebb_reader_create(ds, 0, &reader));
        const ebb_row_blocks_t *blocks = ebb_dataset_info(ds)->blocks;
        assert_non_null(blocks);
        assert_int_equal(blocks->row[0], 0);
        assert_int_equal(blocks->row[blocks->n], ROWS);
        for (int64_t i = 0; i < blocks->n; i++) {
            int64_t b = (i * 7 + 3) % blocks->n, row = blocks->row[b], n = blocks->row[b + 1] - row;
            assert_in_range(n, blocks->min_rows, blocks->max_rows);
            assert_true(m.rowptr[row + n] - m.rowptr[row] <= blocks->max_entries);
            check_block(reader, &m, row, n);
        }
        check_block(reader, &m, 33, 400);
        ebb_reader_destroy(reader);
        ebb_dataset_close(ds);
        test_rmdir(dir);
    }
    free_whole(&m);
}

static void a_block_decodes_none_but_its_own_chunks(void **state)
{
    char *dir = test_mkdir(), path[5000];
    ebb_dataset_plan_t plan = made_plan(true, EBB_F32, 4000, 300);
    ebb_dataset_t *ds;
    ebb_reader_t *reader;
    int fd;
    plan.shard_rows = 4000;
    make_dataset(dir, &plan, 1, 1000);
    assert_ok(ebb_dataset_open(dir, NULL, &ds));
    const ebb_row_blocks_t *blocks = ebb_dataset_info(ds)->blocks;
    const ebb_shard_t *s = &ds->shard[0];
    assert_true(blocks->n >= 4 && s->bands == blocks->n);
    /* Damage all chunks but those of band 2. */
    snprintf(path, sizeof path, "%s/shard-00000.h5", dir);
    assert_ok(ebb_file_open(path, O_RDWR, 0, &fd));
    for (int role = 0; role < EBB_ROLES; role++)
        for (int64_t c = 0; s->array[role].present && c < s->array[role].grid_rows; c++)
            if (c != 2 || role > EBB_ROLE_INDICES)
                assert_ok(ebb_file_pwrite(fd, path, "damage", 6, s->array[role].chunk[c].offset + 9));
    made_t m = make_rows(&plan, 0, 4000);
    int64_t row = blocks->row[2], n = blocks->row[3] - row, count = m.rowptr[row + n] - m.rowptr[row];
    int32_t *col = malloc((size_t)count * 4), *label = malloc((size_t)n * 4);
    float *val = malloc((size_t)count * 4);
    int64_t *ptr = malloc((size_t)(n + 1) * 8);
    assert_ok(ebb_reader_create(ds, 0, &reader));
    assert_ok(ebb_reader_rowptr(reader, row, n, m.rowptr[row], ptr));
    assert_memory_equal(ptr, m.rowptr + row, (size_t)(n + 1) * 8);
    assert_ok(ebb_reader_csr(reader, row, n, col, val));
    assert_memory_equal(col, m.col + m.rowptr[row], (size_t)count * 4);
    assert_ok(ebb_reader_targets(reader, row, n, label, NULL, NULL));
    assert_memory_equal(label, m.label + row, (size_t)n * 4);
    assert_fails(ebb_reader_csr(reader, 0, blocks->row[1], col, val), EBB_ECORRUPT, "X/indices: chunk 0");
    /* And the record of a band. */
    assert_ok(ebb_file_pwrite(fd, path, "damage", 6, s->band[2].offset + 1));
    ebb_reader_destroy(reader);
    assert_ok(ebb_reader_create(ds, 0, &reader));
    assert_fails(ebb_reader_rowptr(reader, row, n, 0, ptr), EBB_ECORRUPT, "uns/ebb/bands: band 2");
    close(fd);
    made_free(&m);
    free(col);
    free(val);
    free(ptr);
    free(label);
    ebb_reader_destroy(reader);
    ebb_dataset_close(ds);
    test_rmdir(dir);
}

static void groups_hold_every_block_once(void **state)
{
    enum { N = 5000 };
    ebb_row_blocks_t blocks = {.n = N, .groups = 7};
    char seen[N] = {0};
    for (int64_t g = 0; g < 7; g++)
        for (int64_t i = ebb_group_first(&blocks, g); i < ebb_group_first(&blocks, g + 1); i++)
            assert_int_equal(seen[ebb_group_block(&blocks, i)]++, 0);
    assert_null(memchr(seen, 0, N));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_block_reads_as_it_was_written),
                                       cmocka_unit_test(a_block_decodes_none_but_its_own_chunks),
                                       cmocka_unit_test(groups_hold_every_block_once)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
