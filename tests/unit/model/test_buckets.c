/* Backward passes in parts: where the dense gradient is cut, and that the parts of two lanes, taken in turns on one
 * context, have the bits of whole passes and write nothing else. test_buckets [BACKEND]; device memory is reached by
 * the backend's operations alone. */
#include "model/layer.h"
#include "model_data.h"

enum { ROWS = 23, COLS = 31, LANES = 2, MOST_FLOATS = 1 << 13, MOST_MEMORY = 1 << 10 };
static const int64_t ROW0[LANES + 1] = {0, 11, ROWS};

static ebb_backend_t *backend;
static const ebb_backend_ops_t *ops;
static test_data_t data;

/* What becomes of a table's gradient. */
typedef enum table { AS_ROWS, AS_TERMS, AS_DENSE } table_t;

typedef struct lane {
    ebb_pass_t pass;
    ebb_input_t in;
    float *out, *dout;
} lane_t;

/* A model with weights, and two lanes that share a context. */
typedef struct bed {
    ebb_model_t *model;
    const ebb_layout_t *layout;
    ebb_exec_t *x;
    ebb_weights_t weights;
    lane_t lane[LANES];
    int n_memory;
    void *memory[MOST_MEMORY]; /* device */
} bed_t;

/* Gradients on the device. */
typedef struct sum {
    ebb_grads_t grads;
    ebb_terms_t terms;
} sum_t;

/* Gradients on the host: as they were met, and the table's in full. */
typedef struct result {
    float dense[MOST_FLOATS], table[MOST_FLOATS];
    int64_t rows, terms;
    uint64_t touched;
} result_t;

/* ---- memory ---- */

static void *put(bed_t *bed, const void *host, size_t bytes)
{
    void *dev;
    assert_true(bed->n_memory < MOST_MEMORY);
    assert_ok(ops->alloc(backend->dev, bytes ? bytes : 1, "test", &dev));
    assert_ok(ops->upload(bed->x, dev, host, bytes));
    assert_ok(ops->exec_sync(bed->x));
    return bed->memory[bed->n_memory++] = dev;
}

static void get(bed_t *bed, void *host, const void *dev, size_t bytes)
{
    assert_ok(ops->download(bed->x, host, dev, bytes));
    assert_ok(ops->exec_sync(bed->x));
}

static float number(uint64_t stream, int64_t i)
{
    return (float)test_normal(stream, (uint64_t)i);
}

static float *put_numbers(bed_t *bed, uint64_t stream, int64_t n)
{
    float host[MOST_FLOATS];
    assert_true(n <= MOST_FLOATS);
    for (int64_t i = 0; i < n; i++)
        host[i] = number(stream, i);
    return put(bed, host, (size_t)n * sizeof *host);
}

/* ---- lanes ---- */

enum { DENSE_STREAM = 3000, WEIGHT_STREAM = 4000, SLOPE_STREAM = 5000 };

static const ebb_param_t *table_of(const bed_t *bed)
{
    return bed->layout->n_tables ? &bed->layout->params[bed->layout->table_param[0]] : NULL;
}

static ebb_input_t input(bed_t *bed, int64_t row0, int64_t rows)
{
    ebb_input_t in = {.rows = rows, .sparse = data.info.sparse};
    if (!in.sparse) {
        in.x = put(bed, data.x + row0 * COLS, (size_t)(rows * COLS) * sizeof *data.x);
        return in;
    }
    size_t n = (size_t)data.rowptr[ROWS];
    in.csr = (ebb_csr_t){rows,
                         COLS,
                         put(bed, data.rowptr + row0, (size_t)(rows + 1) * sizeof *data.rowptr),
                         put(bed, data.col, n * sizeof *data.col),
                         put(bed, data.val, n * sizeof *data.val),
                         data.rowptr[row0 + rows] - data.rowptr[row0]};
    return in;
}

static void open_lane(bed_t *bed, int i)
{
    lane_t *lane = &bed->lane[i];
    int64_t rows = ROW0[i + 1] - ROW0[i];
    lane->in = input(bed, ROW0[i], rows);
    lane->out = put_numbers(bed, 0, rows * ebb_model_outputs(bed->model));
    lane->dout = put_numbers(bed, 0, rows * ebb_model_outputs(bed->model));
    lane->pass = (ebb_pass_t){.ops = ops,
                              .exec = bed->x,
                              .weights = &bed->weights,
                              .training = true,
                              .seed = 5,
                              .step = 2,
                              .lane = (int32_t)i};
    lane->pass.workspace = put_numbers(bed, 0, ebb_model_workspace_bytes(bed->model, rows) / (int64_t)sizeof(float));
}

static void open_bed(bed_t *bed, const char *config, bool sparse, int64_t classes)
{
    memset(bed, 0, sizeof *bed);
    test_data_make(&data, sparse, ROWS, COLS, classes, 0);
    assert_ok(ebb_model_create(config, &data.info, &bed->model));
    bed->layout = ebb_model_layout(bed->model);
    assert_true(bed->layout->n_tables <= 1);
    assert_ok(ops->exec_create(backend->dev, &bed->x));
    bed->weights.dense = put_numbers(bed, WEIGHT_STREAM, bed->layout->dense_floats);
    if (table_of(bed))
        bed->weights.table[0] = put_numbers(bed, WEIGHT_STREAM + 1, COLS * table_of(bed)->cols);
    for (int i = 0; i < LANES; i++)
        open_lane(bed, i);
}

static void close_bed(bed_t *bed)
{
    for (int i = 0; i < bed->n_memory; i++)
        ops->free(backend->dev, bed->memory[i]);
    ops->exec_destroy(bed->x);
    ebb_model_destroy(bed->model);
}

/* Up to the backward pass. */
static void go_forward(bed_t *bed, int i)
{
    lane_t *lane = &bed->lane[i];
    int64_t n = lane->in.rows * ebb_model_outputs(bed->model);
    assert_ok(ebb_model_forward(bed->model, &lane->pass, &lane->in, lane->out));
    float *slope = put_numbers(bed, SLOPE_STREAM + (uint64_t)i, n);
    assert_ok(ops->copy(bed->x, lane->dout, slope, (size_t)n * sizeof *slope));
}

/* ---- gradients ---- */

enum { UNTOUCHED = -7 };

/* The dense gradient full of numbers, to be added to or to be left. */
static void open_sum(bed_t *bed, table_t kind, bool accumulate, sum_t *s)
{
    static const char zeros[MOST_FLOATS * sizeof(float)];
    *s = (sum_t){.grads = {.accumulate = accumulate}};
    s->grads.dense = put_numbers(bed, DENSE_STREAM, bed->layout->dense_floats);
    s->grads.rows[0].n = UNTOUCHED;
    if (!table_of(bed))
        return;
    if (kind == AS_TERMS)
        s->grads.terms[0] = &s->terms;
    if (kind != AS_DENSE)
        return;
    s->grads.table_dense[0] = put(bed, zeros, (size_t)(COLS * table_of(bed)->cols) * sizeof(float));
    s->grads.touched[0] = put(bed, zeros, sizeof(uint64_t));
}

static void scatter(bed_t *bed, const ebb_rows_t *rows, float *table)
{
    int32_t idx[COLS];
    float val[MOST_FLOATS];
    assert_true(rows->n <= COLS);
    get(bed, idx, rows->idx, (size_t)rows->n * sizeof *idx);
    get(bed, val, rows->val, (size_t)(rows->n * rows->width) * sizeof *val);
    for (int64_t k = 0; k < rows->n; k++)
        memcpy(table + idx[k] * rows->width, val + k * rows->width, (size_t)rows->width * sizeof *val);
}

/* Add up terms as whoever uses them does. */
static ebb_rows_t add_terms(bed_t *bed, const ebb_terms_t *terms)
{
    ebb_rows_t rows = {.n = terms->n, .width = terms->width, .idx = terms->idx};
    rows.val = put_numbers(bed, 0, terms->n * terms->width);
    assert_ok(ops->terms_sum(bed->x, terms, 0, terms->n, rows.val));
    return rows;
}

/* Bring the gradients to the host and give up the device's. */
static void close_sum(bed_t *bed, sum_t *s, result_t *r)
{
    memset(r, 0, sizeof *r);
    get(bed, r->dense, s->grads.dense, (size_t)bed->layout->dense_floats * sizeof *r->dense);
    r->rows = s->grads.rows[0].n;
    r->terms = s->terms.n;
    if (s->grads.table_dense[0]) {
        get(bed, r->table, s->grads.table_dense[0], (size_t)(COLS * table_of(bed)->cols) * sizeof *r->table);
        get(bed, &r->touched, s->grads.touched[0], sizeof r->touched);
    } else if (r->terms > 0) {
        ebb_rows_t rows = add_terms(bed, &s->terms);
        scatter(bed, &rows, r->table);
    } else if (r->rows > 0) {
        scatter(bed, &s->grads.rows[0], r->table);
    }
    ops->terms_free(backend->dev, &s->terms);
}

static void whole_pass(bed_t *bed, int i, table_t kind, bool accumulate, result_t *r)
{
    sum_t s;
    go_forward(bed, i);
    open_sum(bed, kind, accumulate, &s);
    assert_ok(ebb_model_backward(bed->model, &bed->lane[i].pass, &bed->lane[i].in, bed->lane[i].dout, &s.grads));
    close_sum(bed, &s, r);
}

static void bucket_pass(bed_t *bed, int i, table_t kind, bool accumulate, int bucket, result_t *r)
{
    sum_t s;
    open_sum(bed, kind, accumulate, &s);
    assert_ok(ebb_model_backward_bucket(bed->model, &bed->lane[i].pass, &bed->lane[i].in, bed->lane[i].dout, &s.grads,
                                        bucket));
    close_sum(bed, &s, r);
}

/* In the bucket what a whole pass gives, elsewhere what was there. */
static void assert_bucket(const bed_t *bed, const result_t *whole, const result_t *r, int bucket)
{
    const int64_t *begin;
    int n = ebb_model_buckets(bed->model, &begin);
    int64_t end = bucket == 0 ? bed->layout->dense_floats : begin[bucket - 1];
    for (int64_t i = 0; i < bed->layout->dense_floats; i++) {
        float want = i >= begin[bucket] && i < end ? whole->dense[i] : number(DENSE_STREAM, i);
        if (memcmp(&want, &r->dense[i], sizeof want) != 0)
            fail_msg("bucket %d of %d, float %lld: %g, wanted %g", bucket, n, (long long)i, (double)r->dense[i],
                     (double)want);
    }
    if (bucket == n - 1) {
        assert_memory_equal(r->table, whole->table, sizeof r->table);
        assert_int_equal(r->rows, whole->rows);
        assert_int_equal(r->terms, whole->terms);
        assert_int_equal(r->touched, whole->touched);
        return;
    }
    assert_int_equal(r->rows, UNTOUCHED);
    assert_int_equal(r->terms, 0);
    assert_int_equal(r->touched, 0);
    for (size_t i = 0; i < MOST_FLOATS; i++)
        assert_true(r->table[i] == 0.0f);
}

/* Returns the number of buckets. */
static int compare(bed_t *bed, int64_t least, table_t kind, bool accumulate)
{
    static result_t whole[LANES], r;
    const int64_t *begin;
    ebb_model_cut(bed->model, INT64_MAX);
    assert_int_equal(ebb_model_buckets(bed->model, &begin), 1);
    for (int i = 0; i < LANES; i++)
        whole_pass(bed, i, kind, accumulate, &whole[i]);
    ebb_model_cut(bed->model, least);
    int n = ebb_model_buckets(bed->model, &begin);
    for (int i = 0; i < LANES; i++)
        go_forward(bed, i);
    for (int b = 0; b < n; b++)
        for (int i = 0; i < LANES; i++) {
            bucket_pass(bed, i, kind, accumulate, b, &r);
            assert_bucket(bed, &whole[i], &r, b);
        }
    whole_pass(bed, 0, kind, accumulate, &r); /* of a model in buckets */
    assert_memory_equal(&r, &whole[0], sizeof r);
    return n;
}

/* buckets: when cut below every layer that can have one. */
static void parts_are_the_whole(const char *config, bool sparse, int64_t classes, int buckets)
{
    static const int64_t least[] = {1, 60, 400};
    static bed_t bed;
    for (size_t k = 0; k < sizeof least / sizeof *least; k++)
        for (table_t kind = AS_ROWS; kind <= (sparse ? AS_DENSE : AS_ROWS); kind++)
            for (int accumulate = 0; accumulate < 2; accumulate++) {
                open_bed(&bed, config, sparse, classes);
                int n = compare(&bed, least[k], kind, accumulate);
                if (k == 0)
                    assert_int_equal(n, buckets);
                close_bed(&bed);
            }
}

#define LAYERS(list) "{\"layers\":[" list "]}"
#define LINEAR(out)  "{\"linear\":{\"out\":" #out "}}"
#define NO_BIAS      "{\"linear\":{\"out\":17,\"bias\":false}}"
#define LAST         "{\"linear\":{}}"
#define FOUR(layer)  layer "," layer "," layer "," layer
#define MLP          LAYERS(LINEAR(40) ",\"relu\"," LINEAR(8) ",\"tanh\"," LAST)

static void buckets_of_dense_models_have_the_bits_of_the_whole_pass(void **state)
{
    parts_are_the_whole(LAYERS(LAST), false, 3, 1);
    parts_are_the_whole(MLP, false, 3, 3);
    parts_are_the_whole(LAYERS(LINEAR(20) ",\"gelu\",\"layer_norm\",{\"dropout\":{\"p\":0.3}}," LINEAR(12) "," LAST),
                        false, 3, 4);
    parts_are_the_whole(LAYERS("\"layer_norm\"," LINEAR(12) ",\"layer_norm\",\"tanh\"," LAST), false, 3, 4);
    parts_are_the_whole(
        LAYERS("{\"dropout\":{\"p\":0.2}}," LINEAR(12) ",\"dropout\"," NO_BIAS ",\"sigmoid\",\"gelu\"," LAST), false, 3,
        3);
    parts_are_the_whole(LAYERS(LINEAR(9) "," LINEAR(3) ",\"gelu\",\"dropout\""), false, 3, 2);
    parts_are_the_whole(LAYERS(FOUR(LINEAR(12)) "," FOUR(LINEAR(12)) "," FOUR(LINEAR(12)) "," LAST), false, 3, 6);
}

static void buckets_of_sparse_models_have_the_bits_of_the_whole_pass_and_tables_in_the_last(void **state)
{
    parts_are_the_whole(LAYERS(LAST), true, 3, 1);
    parts_are_the_whole(LAYERS("{\"linear\":{\"bias\":false}}"), true, 3, 1);
    parts_are_the_whole(LAYERS(LINEAR(17) ",\"relu\"," LAST), true, 3, 2);
    parts_are_the_whole(LAYERS(NO_BIAS ",\"sigmoid\"," LINEAR(9) "," LAST), true, 3, 2);
    parts_are_the_whole(LAYERS("{\"embedding\":{\"dim\":6}},\"gelu\",\"layer_norm\"," LINEAR(7) ",\"tanh\"," LAST),
                        true, 3, 3);
    parts_are_the_whole(LAYERS("{\"fm\":{\"rank\":4}}"), true, 2, 1);
}

static void without_rows_each_bucket_is_zero_or_stays(void **state)
{
    static bed_t bed;
    for (int accumulate = 0; accumulate < 2; accumulate++) {
        open_bed(&bed, LAYERS(LINEAR(17) ",\"relu\"," LINEAR(9) "," LAST), true, 3);
        for (int i = 0; i < LANES; i++)
            bed.lane[i].in.rows = bed.lane[i].in.csr.rows = 0;
        assert_int_equal(compare(&bed, 1, AS_ROWS, accumulate), 3);
        sum_t s;
        result_t r;
        open_sum(&bed, AS_ROWS, accumulate, &s);
        assert_ok(
            ebb_model_backward_bucket(bed.model, &bed.lane[0].pass, &bed.lane[0].in, bed.lane[0].dout, &s.grads, 2));
        assert_int_equal(s.grads.rows[0].width, 17);
        close_sum(&bed, &s, &r);
        assert_int_equal(r.rows, 0);
        assert_true(r.dense[0] == (accumulate ? number(DENSE_STREAM, 0) : 0.0f));
        close_bed(&bed);
    }
}

static ebb_status_t no_norm(ebb_exec_t *x, int64_t M, int64_t N, const float *in, const float *gamma, const float *mean,
                            const float *rstd, const float *dout, float *din, float acc, float *dgamma, float *dbeta)
{
    return EBB_EIO;
}

static void a_failure_is_told_by_the_bucket_it_is_met_in(void **state)
{
    static bed_t bed;
    sum_t s;
    result_t r;
    open_bed(&bed, LAYERS("\"layer_norm\"," LINEAR(9) "," LAST), false, 3);
    ebb_model_cut(bed.model, 1);
    ebb_backend_ops_t broken = *ops;
    broken.layernorm_backward = no_norm;
    lane_t *lane = &bed.lane[0];
    lane->pass.ops = &broken;
    go_forward(&bed, 0);
    open_sum(&bed, AS_ROWS, false, &s);
    assert_ok(ebb_model_backward_bucket(bed.model, &lane->pass, &lane->in, lane->dout, &s.grads, 0));
    assert_ok(ebb_model_backward_bucket(bed.model, &lane->pass, &lane->in, lane->dout, &s.grads, 1));
    assert_fails(ebb_model_backward_bucket(bed.model, &lane->pass, &lane->in, lane->dout, &s.grads, 2), EBB_EIO,
                 "model \"layers\": backward failed");
    for (int b = -1; b < 4; b += 4)
        assert_fails(ebb_model_backward_bucket(bed.model, &lane->pass, &lane->in, lane->dout, &s.grads, b), EBB_EINVAL,
                     "there is no bucket");
    close_sum(&bed, &s, &r);
    close_bed(&bed);
}

/* ---- where the cuts are ---- */

/* names: the parameter that each bucket begins with, in order, NULL at the end; least 0: as the model is made. */
static void cut_is(const char *config, bool sparse, int64_t least, const char *const *names)
{
    ebb_model_t *model;
    const int64_t *begin;
    test_data_make(&data, sparse, ROWS, COLS, 3, 0);
    assert_ok(ebb_model_create(config, &data.info, &model));
    const ebb_layout_t *layout = ebb_model_layout(model);
    if (least > 0)
        ebb_model_cut(model, least);
    int n = ebb_model_buckets(model, &begin);
    assert_int_equal(begin[n - 1], 0);
    for (int b = 0; b < n; b++) {
        const char *name = "nothing";
        for (int i = layout->n_params - 1; i >= 0; i--)
            if (layout->params[i].kind == EBB_PARAM_DENSE && layout->params[i].offset == begin[b])
                name = layout->params[i].name;
        assert_non_null(names[b]);
        assert_string_equal(name, names[b]);
    }
    assert_null(names[n]);
    ebb_model_destroy(model);
}

#define NAMES(...) ((const char *const[]){__VA_ARGS__, NULL})

static void buckets_begin_with_layers_last_ones_first(void **state)
{
    cut_is(MLP, false, 1, NAMES("4.linear.weight", "2.linear.weight", "0.linear.weight"));
    cut_is(MLP, false, 48, NAMES("4.linear.weight", "2.linear.weight", "0.linear.weight")); /* 32 + 16 floats */
    cut_is(MLP, false, 49, NAMES("2.linear.weight", "0.linear.weight"));
    cut_is(MLP, false, 385, NAMES("0.linear.weight")); /* 48 + 336 floats, then */
    cut_is(LAYERS("\"layer_norm\"," LINEAR(40) ",\"layer_norm\"," LAST), false, 1,
           NAMES("3.linear.weight", "2.layer_norm.gamma", "1.linear.weight", "0.layer_norm.gamma"));
    cut_is(LAYERS(LINEAR(40) "," LAST), true, 1, NAMES("1.linear.weight", "0.linear.bias"));
    cut_is(LAYERS("{\"embedding\":{}}," LINEAR(40) "," LAST), true, 1, NAMES("2.linear.weight", "1.linear.weight"));
    cut_is(LAYERS("{\"linear\":{\"bias\":false}}"), true, 1, NAMES("nothing"));
}

static void buckets_are_of_a_megafloat_or_more_but_for_the_last(void **state)
{
    cut_is(MLP, false, 0, NAMES("0.linear.weight"));
    cut_is(LAYERS(LINEAR(1024) "," LINEAR(1024) "," LINEAR(512) "," LINEAR(2048) "," LAST), false, 0,
           NAMES("3.linear.weight", "1.linear.weight", "0.linear.weight"));
    cut_is(LAYERS(LINEAR(1024) "," LINEAR(1023) "," LAST), false, 0, NAMES("1.linear.weight", "0.linear.weight"));
    cut_is(LAYERS(LINEAR(1024) "," LINEAR(1019) "," LAST), false, 0, NAMES("0.linear.weight"));
}

static void a_model_of_many_wide_layers_has_fewer_and_larger_buckets(void **state)
{
    static const char wide[] = LAYERS(FOUR(LINEAR(1024)) "," FOUR(LINEAR(1024)) "," FOUR(LINEAR(1024)) "," LAST);
    static const char edge[] = LAYERS(FOUR(LINEAR(1024)) "," FOUR(LINEAR(1024)) "," LAST);
    cut_is(wide, false, 0,
           NAMES("10.linear.weight", "8.linear.weight", "6.linear.weight", "4.linear.weight", "2.linear.weight",
                 "0.linear.weight"));
    cut_is(edge, false, 0,
           NAMES("7.linear.weight", "6.linear.weight", "5.linear.weight", "4.linear.weight", "3.linear.weight",
                 "2.linear.weight", "1.linear.weight", "0.linear.weight"));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buckets_of_dense_models_have_the_bits_of_the_whole_pass),
        cmocka_unit_test(buckets_of_sparse_models_have_the_bits_of_the_whole_pass_and_tables_in_the_last),
        cmocka_unit_test(without_rows_each_bucket_is_zero_or_stays),
        cmocka_unit_test(a_failure_is_told_by_the_bucket_it_is_met_in),
        cmocka_unit_test(buckets_begin_with_layers_last_ones_first),
        cmocka_unit_test(buckets_are_of_a_megafloat_or_more_but_for_the_last),
        cmocka_unit_test(a_model_of_many_wide_layers_has_fewer_and_larger_buckets),
    };
    const char *name = argc > 1 ? argv[1] : "cpu";
    if (ebb_backend_open(name, 0, &backend) != EBB_OK) {
        printf("%s: %s\n", strcmp(name, "cuda") == 0 ? "SKIPPED" : "FAILED", ebb_error()->message);
        return strcmp(name, "cuda") == 0 ? 77 : 1;
    }
    ops = backend->ops;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ebb_backend_close(backend);
    return failed;
}
