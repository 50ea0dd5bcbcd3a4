/* Every operation of a loadable backend beside the CPU's: random shapes, empty rows, rows of one and of very many
 * non-zeros, poisoned outputs. test_ops NAME: "cuda" on a GPU, or "cuda_double", the same kernels as loops on the host.
 * What compute.h promises to be equal in bits to itself (rows and dense, terms and rows, a second run) is compared so;
 * the CPU's figures within the tolerance that each test names. */
#include "support.h"
#include "cuda_double/counts.h"
#include "base/rng.h"

#include <ebb/compute.h>
#include <dlfcn.h>
#include <math.h>

enum { MOST = 128, CPU = 0, DEV = 1 };

/* One backend, and what was allocated on it. */
typedef struct side {
    ebb_backend_t *backend;
    const ebb_backend_ops_t *ops;
    ebb_exec_t *x;
    void *ptr[MOST], *host[MOST];
    int n, n_host;
} side_t;

static side_t side[2];
static uint64_t draws;

static float uniform(float lo, float hi)
{
    return lo + (hi - lo) * ebb_rng_uniform(11, EBB_RNG_TEST, draws++, 0);
}

static int64_t below(int64_t n)
{
    return (int64_t)(ebb_rng_u64(11, EBB_RNG_TEST, draws++, 1) % (uint64_t)n);
}

static float *numbers(int64_t n, float size)
{
    float *p = malloc((size_t)(n > 0 ? n : 1) * sizeof *p);
    for (int64_t i = 0; i < n; i++)
        p[i] = uniform(-size, size);
    return p;
}

static void *put(side_t *s, const void *host, size_t bytes)
{
    void *p;
    assert_true(s->n < MOST);
    assert_ok(s->ops->alloc(s->backend->dev, bytes, "test", &p));
    assert_ok(s->ops->upload(s->x, p, host, bytes));
    assert_ok(s->ops->exec_sync(s->x));
    s->ptr[s->n++] = p;
    return p;
}

static float *put_floats(side_t *s, const float *host, int64_t n)
{
    return put(s, host, (size_t)n * sizeof *host);
}

/* n floats of NaN. */
static float *poisoned(side_t *s, int64_t n)
{
    size_t bytes = (size_t)n * sizeof(float);
    void *host = malloc(bytes + 1);
    memset(host, 0xff, bytes);
    float *p = put(s, host, bytes);
    free(host);
    return p;
}

static void *get(side_t *s, const void *dev, size_t bytes)
{
    void *host = calloc(1, bytes + 1);
    assert_true(s->n_host < MOST);
    assert_ok(s->ops->download(s->x, host, dev, bytes));
    assert_ok(s->ops->exec_sync(s->x));
    return s->host[s->n_host++] = host;
}

static float *get_floats(side_t *s, const float *dev, int64_t n)
{
    return get(s, dev, (size_t)n * sizeof *dev);
}

static void clear(void)
{
    for (side_t *s = side; s < side + 2; s++) {
        while (s->n > 0)
            s->ops->free(s->backend->dev, s->ptr[--s->n]);
        while (s->n_host > 0)
            free(s->host[--s->n_host]);
    }
}

/* |device - cpu| <= tolerance (size + |cpu|). */
static void assert_near(const char *what, int64_t n, const float *cpu, const float *dev, double size, double tolerance)
{
    for (int64_t i = 0; i < n; i++)
        if (!(fabs((double)dev[i] - (double)cpu[i]) <= tolerance * (size + fabs((double)cpu[i]))))
            fail_msg("%s[%lld] is %.9g, the CPU says %.9g", what, (long long)i, (double)dev[i], (double)cpu[i]);
}

#define BOTH(s)  for (side_t *s = side; s < side + 2; s++)
#define WHICH(s) ((s)-side)

/* ---- dense ---- */

static void products_of_any_shape_layout_and_epilogue_equal_the_cpus(void **state)
{
    for (int round = 0; round < 40; round++) {
        int64_t M = below(70), N = 1 + below(70), K = round % 9 ? below(90) : 0;
        bool ta = round & 1, tb = round & 2, add = round & 4, with_bias = round % 3 == 0;
        ebb_act_t act = (ebb_act_t)(round % 5);
        int64_t lda = (ta ? M : K) + below(3), ldb = (tb ? K : N) + below(3), ldc = N + below(3);
        int64_t na = (ta ? K : M) * lda, nb = (tb ? N : K) * ldb, nc = M * ldc;
        float *A = numbers(na, 1), *B = numbers(nb, 1), *C = numbers(nc, 1), *bias = numbers(N, 1), *out[2];
        BOTH(s)
        {
            float *c = put_floats(s, C, nc);
            assert_ok(s->ops->gemm(s->x, ta, tb, M, N, K, put_floats(s, A, na), lda, put_floats(s, B, nb), ldb,
                                   add ? 1.0f : 0.0f, c, ldc, with_bias ? put_floats(s, bias, N) : NULL, act));
            out[WHICH(s)] = get_floats(s, c, nc);
        }
        assert_near("C", nc, out[CPU], out[DEV], 10, 1e-6);
        free(A), free(B), free(C), free(bias);
        clear();
    }
    ebb_exec_t *x = side[DEV].x;
    assert_int_equal(side[DEV].ops->gemm(x, false, false, 3, 4, 5, NULL, 4, NULL, 4, 0, NULL, 4, NULL, EBB_ACT_NONE),
                     EBB_EINVAL);
    ebb_error_clear();
}

/* Factors are rounded by at most 2^-9 (bf16) or 2^-11 (tf32) of themselves, and products by twice that. */
static void products_in_other_precisions_are_within_their_rounding(void **state)
{
    static const double rounding[] = {[EBB_PRECISION_TF32] = 0x1p-10, [EBB_PRECISION_BF16] = 0x1p-8};
    for (ebb_precision_t p = EBB_PRECISION_TF32; p <= EBB_PRECISION_BF16; p++)
        for (int round = 0; round < 8; round++) {
            int64_t M = 1 + below(70), N = 1 + below(70), K = 1 + below(90);
            bool ta = round & 1, tb = round & 2;
            int64_t lda = (ta ? M : K) + below(3), ldb = (tb ? K : N) + below(3);
            int64_t na = (ta ? K : M) * lda, nb = (tb ? N : K) * ldb;
            float *A = numbers(na, 1), *B = numbers(nb, 1), *out[2];
            assert_ok(side[DEV].ops->set_precision(side[DEV].backend->dev, p));
            BOTH(s)
            {
                float *c = poisoned(s, M * N);
                assert_ok(s->ops->gemm(s->x, ta, tb, M, N, K, put_floats(s, A, na), lda, put_floats(s, B, nb), ldb,
                                       0.0f, c, N, NULL, EBB_ACT_NONE));
                out[WHICH(s)] = get_floats(s, c, M * N);
            }
            assert_near("C", M * N, out[CPU], out[DEV], (double)K, rounding[p]);
            assert_true(K < 20 || memcmp(out[CPU], out[DEV], (size_t)(M * N) * sizeof(float)) != 0);
            free(A), free(B);
            clear();
        }
    assert_ok(side[DEV].ops->set_precision(side[DEV].backend->dev, EBB_PRECISION_FP32));
}

/* A product, its operands on the device. */
typedef struct operands {
    int64_t M, N, K;
    float *A, *B, *C, *bias;
} operands_t;

static void multiply(ebb_exec_t *x, const operands_t *o, ebb_act_t act)
{
    assert_ok(
        side[DEV].ops->gemm(x, false, false, o->M, o->N, o->K, o->A, o->K, o->B, o->N, 0.0f, o->C, o->N, o->bias, act));
}

static void products_of_one_row_one_column_or_one_term_take_every_epilogue(void **state)
{
    for (int shape = 0; shape < 8; shape++)
        for (int act = EBB_ACT_NONE; act <= EBB_ACT_SIGMOID; act++)
            for (int with_bias = 0; with_bias < 2; with_bias++) {
                int64_t M = shape & 1 ? 1 : 33, N = shape & 2 ? 1 : 17, K = shape & 4 ? 1 : 65;
                float *A = numbers(M * K, 1), *B = numbers(K * N, 1), *bias = numbers(N, 1), *out[2];
                BOTH(s)
                {
                    float *c = poisoned(s, M * N);
                    assert_ok(s->ops->gemm(s->x, false, false, M, N, K, put_floats(s, A, M * K), K,
                                           put_floats(s, B, K * N), N, 0.0f, c, N,
                                           with_bias ? put_floats(s, bias, N) : NULL, (ebb_act_t)act));
                    out[WHICH(s)] = get_floats(s, c, M * N);
                }
                assert_near("C", M * N, out[CPU], out[DEV], 10, 1e-6);
                free(A), free(B), free(bias);
                clear();
            }
}

/* The same product from operands that lie `by[i]` floats further on, on context x. */
static float *product_from(ebb_exec_t *x, const float *const host[3], const int64_t shape[3], const int64_t by[4],
                           float beta)
{
    side_t *s = &side[DEV];
    int64_t M = shape[0], N = shape[1], K = shape[2], size[4] = {M * K, K * N, N, M * N};
    float *on[4];
    for (int i = 0; i < 4; i++) {
        float *moved = numbers(size[i] + by[i], 1);
        if (i < 3)
            memcpy(moved + by[i], host[i], (size_t)size[i] * sizeof *moved);
        else
            for (int64_t j = 0; j < size[i]; j++)
                moved[by[i] + j] = 0.25f;
        on[i] = put_floats(s, moved, size[i] + by[i]) + by[i];
        free(moved);
    }
    assert_ok(s->ops->gemm(x, false, false, M, N, K, on[0], K, on[1], N, beta, on[3], N, on[2], EBB_ACT_RELU));
    assert_ok(s->ops->exec_sync(x));
    return get_floats(s, on[3], M * N);
}

static void products_have_the_same_bits_wherever_their_operands_lie_on_any_context_at_any_time(void **state)
{
    static const int64_t shapes[][3] = {{32, 16, 64}, {7, 12, 200}, {33, 17, 65}, {64, 64, 8}, {5, 1, 128}};
    side_t *s = &side[DEV];
    ebb_exec_t *other;
    assert_ok(s->ops->exec_create(s->backend->dev, &other));
    for (ebb_precision_t p = EBB_PRECISION_FP32; p <= EBB_PRECISION_BF16; p++)
        for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
            const int64_t *n = shapes[k];
            float beta = k % 2 ? 1.0f : 0.0f;
            const float *host[] = {numbers(n[0] * n[2], 1), numbers(n[2] * n[1], 1), numbers(n[1], 1)};
            assert_ok(s->ops->set_precision(s->backend->dev, p));
            const float *first = product_from(s->x, host, n, (int64_t[]){0, 0, 0, 0}, beta);
            for (int64_t move = 0; move < 10; move++) {
                int64_t by[] = {move % 5, (move + 4) % 6, move * 4 % 7, (move + 7) % 10};
                const float *again = product_from(move % 2 ? other : s->x, host, n, by, beta);
                assert_memory_equal(first, again, (size_t)(n[0] * n[1]) * sizeof *first);
            }
            free((void *)host[0]), free((void *)host[1]), free((void *)host[2]);
            clear();
        }
    assert_ok(s->ops->set_precision(s->backend->dev, EBB_PRECISION_FP32));
    s->ops->exec_destroy(other);
}

static void products_of_more_shapes_than_are_kept_have_the_same_bits_again(void **state)
{
    enum { SHAPES = 300, N = 8, K = 64 };
    side_t *s = &side[DEV];
    float *A = numbers((int64_t)SHAPES * K, 1), *B = numbers((int64_t)N * K, 1), *out[2];
    operands_t o = {0, N, K, put_floats(s, A, (int64_t)SHAPES * K), put_floats(s, B, (int64_t)N * K), NULL, NULL};
    for (int round = 0; round < 2; round++) {
        o.C = poisoned(s, (int64_t)SHAPES * N);
        for (o.M = SHAPES; o.M > 0; o.M--) /* each leaves its last row */
            multiply(s->x, &o, EBB_ACT_NONE);
        out[round] = get_floats(s, o.C, (int64_t)SHAPES * N);
    }
    assert_memory_equal(out[0], out[1], SHAPES * N * sizeof *out[0]);
    free(A), free(B);
    clear();
}

/* Of the double alone: what was asked of it. */
static ebb_double_counts_t counted(void)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/libebb_%s.so", getenv("EBB_BACKEND_PATH"), side[DEV].ops->name);
    void *library = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
    assert_non_null(library);
    ebb_double_counts_t (*counts)(void) = (ebb_double_counts_t(*)(void))dlsym(library, "ebb_double_counts");
    assert_non_null(counts);
    dlclose(library);
    return counts();
}

static void bias_and_relu_are_part_of_the_product_and_a_shape_is_prepared_once(void **state)
{
    enum { M = 40, N = 24, K = 56 };
    side_t *s = &side[DEV];
    float *v = numbers((int64_t)M * K, 1);
    operands_t o = {M,
                    N,
                    K,
                    put_floats(s, v, (int64_t)M * K),
                    put_floats(s, v, (int64_t)K * N),
                    poisoned(s, (int64_t)M * N),
                    put_floats(s, v, N)};
    free(v);
    if (strcmp(s->ops->name, "cuda") == 0) {
        clear();
        skip();
    }
    for (ebb_precision_t p = EBB_PRECISION_FP32; p <= EBB_PRECISION_BF16; p++) {
        assert_ok(s->ops->set_precision(s->backend->dev, p));
        ebb_double_counts_t before = counted();
        multiply(s->x, &o, EBB_ACT_RELU);
        ebb_double_counts_t first = counted();
        assert_int_equal(first.heuristics - before.heuristics, 1);
        for (int i = 0; i < 5; i++)
            multiply(s->x, &o, EBB_ACT_RELU);
        ebb_double_counts_t after = counted();
        assert_int_equal(after.products - first.products, 5);
        assert_int_equal(after.enqueued - first.enqueued, p == EBB_PRECISION_BF16 ? 15 : 5); /* two factors to round */
        assert_int_equal(after.heuristics, first.heuristics);
        assert_int_equal(after.allocations, first.allocations);
    }
    assert_ok(s->ops->set_precision(s->backend->dev, EBB_PRECISION_FP32));
    clear();
}

/* Weights with what multiplies them from either side, as layers of a model lie one after another. */
enum { HELD_ROWS = 24, HELD = 4096 };
typedef struct layers {
    float *w, *x, *out;
} layers_t;

/* Forward and backward products of each layer's weights, one after another in out. */
static int64_t multiply_layers(ebb_exec_t *x, const layers_t *l)
{
    static const struct {
        int64_t at, in, out;
    } layer[] = {{0, 40, 32}, {1280, 32, 16}, {1792, 48, 10}, {2272, 7, 8}, {2336, 16, 1}, {2352, 8, 24}};
    const ebb_backend_ops_t *ops = side[DEV].ops;
    float *to = l->out;
    for (size_t k = 0; k < sizeof layer / sizeof *layer; k++) {
        const float *w = l->w + layer[k].at;
        int64_t in = layer[k].in, out = layer[k].out;
        assert_ok(ops->gemm(x, false, false, HELD_ROWS, out, in, l->x, in, w, out, 0.0f, to, out, NULL, EBB_ACT_RELU));
        to += (HELD_ROWS * out + 15) / 16 * 16;
        assert_ok(ops->gemm(x, false, true, HELD_ROWS, in, out, l->x, out, w, out, 0.0f, to, in, NULL, EBB_ACT_NONE));
        to += (HELD_ROWS * in + 15) / 16 * 16;
    }
    return to - l->out;
}

static layers_t make_layers(const float *w)
{
    float *x = numbers((int64_t)HELD_ROWS * 48, 1);
    layers_t l = {.w = put_floats(&side[DEV], w, HELD), .x = put_floats(&side[DEV], x, (int64_t)HELD_ROWS * 48)};
    float *zeros = calloc(HELD_ROWS * 600, sizeof *zeros);
    l.out = put_floats(&side[DEV], zeros, (int64_t)HELD_ROWS * 600);
    free(zeros);
    free(x);
    return l;
}

/* Their products on a context of its own, the first weights being held or none. */
static const float *products_of(const layers_t *l, int64_t held, int64_t *n)
{
    side_t *s = &side[DEV];
    ebb_exec_t *x;
    assert_ok(s->ops->exec_create(s->backend->dev, &x));
    if (held > 0) {
        assert_ok(s->ops->hold_weights(s->x, held, l->w));
        assert_ok(s->ops->exec_mark(s->x, 0));
        assert_ok(s->ops->exec_await(x, s->x, 0));
    }
    *n = multiply_layers(x, l);
    assert_ok(s->ops->exec_sync(x));
    if (held > 0)
        assert_ok(s->ops->hold_weights(s->x, 0, NULL));
    s->ops->exec_destroy(x);
    return get_floats(s, l->out, *n);
}

static void held_weights_give_the_bits_of_others_and_are_rounded_once(void **state)
{
    static const struct {
        int64_t held, layers; /* those that are read as they were rounded: on full words and held to their end */
    } cases[] = {{HELD, 4}, {2272 + 56, 3}, {1280 + 511, 1}};
    side_t *s = &side[DEV];
    bool counts = strcmp(s->ops->name, "cuda") != 0;
    float *w = numbers(HELD, 1);
    layers_t l = make_layers(w);
    int64_t n;
    for (ebb_precision_t p = EBB_PRECISION_FP32; p <= EBB_PRECISION_BF16; p++)
        for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
            assert_ok(s->ops->set_precision(s->backend->dev, p));
            int64_t before = counts ? counted().enqueued : 0;
            const float *others = products_of(&l, 0, &n);
            int64_t between = counts ? counted().enqueued : 0;
            const float *held = products_of(&l, cases[k].held, &n);
            int64_t after = counts ? counted().enqueued : 0;
            assert_memory_equal(others, held, (size_t)n * sizeof *others);
            if (counts && p == EBB_PRECISION_BF16) /* two products a layer; a kernel and an order are more */
                assert_int_equal(after - between, between - before - 2 * cases[k].layers + 2);
        }
    assert_ok(s->ops->set_precision(s->backend->dev, EBB_PRECISION_FP32));
    free(w);
    clear();
}

/* Whatever wrote to them: uploads of a resumed run, updates, or a wire, which no operation is. */
static void weights_that_were_written_are_seen_by_the_next_product(void **state)
{
    side_t *s = &side[DEV];
    float *w = numbers(HELD, 1), *g = numbers(HELD, 1);
    layers_t l = make_layers(w);
    const float *dg = put_floats(s, g, HELD);
    ebb_optim_hyper_t h = {.kind = EBB_OPTIM_SGD, .lr = 0.1f, .scale = 1, .t = 1};
    int64_t n;
    assert_ok(s->ops->set_precision(s->backend->dev, EBB_PRECISION_BF16));
    const float *last = products_of(&l, HELD, &n);
    for (int way = 0; way < 4; way++) {
        if (way == 0)
            assert_ok(s->ops->update(s->x, &h, HELD, l.w, dg, NULL, NULL));
        else if (way == 1)
            assert_ok(s->ops->upload(s->x, l.w, g, HELD * sizeof *g));
        else if (way == 2)
            assert_ok(s->ops->add(s->x, HELD, l.w, dg, l.w));
        else
            assert_ok(s->ops->copy(s->x, l.w + 64, dg, (HELD - 64) * sizeof *g));
        assert_ok(s->ops->exec_sync(s->x));
        const float *held = products_of(&l, HELD, &n), *others = products_of(&l, 0, &n);
        assert_memory_equal(others, held, (size_t)n * sizeof *others);
        assert_memory_not_equal(last, held, (size_t)n * sizeof *last);
        last = held;
    }
    assert_ok(s->ops->set_precision(s->backend->dev, EBB_PRECISION_FP32));
    free(w), free(g);
    clear();
}

static void weights_that_are_held_cannot_be_written(void **state)
{
    side_t *s = &side[DEV];
    float *w = numbers(HELD, 1);
    layers_t l = make_layers(w);
    int32_t *row = put(s, &(int32_t){0}, sizeof *row);
    float *end = l.w + HELD - 1, *last_but = l.w - 16 + HELD;
    ebb_optim_hyper_t h = {.kind = EBB_OPTIM_SGD, .lr = 0.1f, .scale = 1, .t = 1};
    assert_ok(s->ops->hold_weights(s->x, HELD, l.w));
    ebb_status_t refused[] = {
        s->ops->upload(s->x, end, w, 4),
        s->ops->copy(s->x, l.w, l.x, 4),
        s->ops->zero(s->x, l.w + 5, 4),
        s->ops->add(s->x, 4, l.x, l.x, l.w),
        s->ops->update(s->x, &h, 1, end, l.x, NULL, NULL),
        s->ops->update_rows(s->x, &h, 1, 4, row, row, l.w, l.x, NULL, NULL),
        s->ops->set_rows(s->x, 1, 4, row, l.x, l.w),
        s->ops->gemm(s->x, false, false, 4, 4, 4, l.x, 4, l.x, 4, 0, last_but, 4, NULL, EBB_ACT_NONE)};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        assert_int_equal(refused[i], EBB_EINVAL);
    assert_non_null(strstr(ebb_error()->message, "held"));
    ebb_error_clear();
    assert_memory_equal(get_floats(s, l.w, HELD), w, HELD * sizeof *w);
    assert_ok(s->ops->zero(s->x, l.out, 4)); /* others can */
    assert_ok(s->ops->hold_weights(s->x, 0, NULL));
    assert_ok(s->ops->zero(s->x, l.w, HELD * sizeof *w));
    assert_ok(s->ops->exec_sync(s->x));
    free(w);
    clear();
}

static void bias_gradients_are_written_or_added(void **state)
{
    static const int64_t shapes[][2] = {{1, 1}, {33, 5}, {64, 64}, {1000, 17}, {5, 300}};
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
        for (int add = 0; add < 2; add++) {
            int64_t M = shapes[k][0], N = shapes[k][1];
            float *dY = numbers(M * N, 1), *db = numbers(N, 1), *out[2];
            BOTH(s)
            {
                float *to = add ? put_floats(s, db, N) : poisoned(s, N);
                assert_ok(s->ops->bias_grad(s->x, M, N, put_floats(s, dY, M * N), (float)add, to));
                out[WHICH(s)] = get_floats(s, to, N);
            }
            assert_near("db", N, out[CPU], out[DEV], 30, 1e-6);
            free(dY), free(db);
            clear();
        }
}

static void activations_and_their_gradients_equal_the_cpus_also_at_the_ends(void **state)
{
    enum { N = 1000 };
    float *in = numbers(N, 6), *d = numbers(N, 2);
    in[0] = 0, in[1] = -0.0f, in[2] = 100, in[3] = -100;
    for (int act = EBB_ACT_NONE; act <= EBB_ACT_SIGMOID; act++) {
        float *out[2], *back[2];
        BOTH(s)
        {
            float *i = put_floats(s, in, N), *o = poisoned(s, N), *b = put_floats(s, d, N);
            assert_ok(s->ops->act_forward(s->x, (ebb_act_t)act, N, i, o));
            assert_ok(s->ops->act_backward(s->x, (ebb_act_t)act, N, i, o, b, b));
            out[WHICH(s)] = get_floats(s, o, N);
            back[WHICH(s)] = get_floats(s, b, N);
        }
        assert_near("out", N, out[CPU], out[DEV], 1, 1e-6);
        assert_near("din", N, back[CPU], back[DEV], 1, 2e-6);
        clear();
    }
    assert_int_equal(side[DEV].ops->act_backward(side[DEV].x, EBB_ACT_GELU, 1, NULL, in, d, d), EBB_EINVAL);
    ebb_error_clear();
    free(in), free(d);
}

static void layer_normalisation_and_its_gradients_equal_the_cpus(void **state)
{
    static const int64_t widths[] = {1, 3, 64, 127, 128, 129, 1000};
    for (size_t k = 0; k < sizeof widths / sizeof *widths; k++) {
        int64_t M = 37, N = widths[k];
        float *in = numbers(M * N, 3), *d = numbers(M * N, 1), *gamma = numbers(N, 2), *beta = numbers(N, 1),
              *out[2][6];
        for (int64_t j = 0; j < N; j++)
            in[5 * N + j] = 2; /* a row without variance */
        BOTH(s)
        {
            float *i = put_floats(s, in, M * N), *g = put_floats(s, gamma, N), *o = poisoned(s, M * N);
            float *mean = poisoned(s, M), *rstd = poisoned(s, M), *b = put_floats(s, d, M * N);
            float *dgamma = k % 2 ? put_floats(s, beta, N) : poisoned(s, N), *dbeta = put_floats(s, gamma, N);
            float acc = k % 2 ? 1.0f : 0.0f;
            assert_ok(s->ops->layernorm_forward(s->x, M, N, i, g, put_floats(s, beta, N), 1e-5f, o, mean, rstd));
            assert_ok(s->ops->layernorm_backward(s->x, M, N, i, g, mean, rstd, b, b, acc, dgamma, dbeta));
            float *from[] = {o, mean, rstd, b, dgamma, dbeta};
            for (int f = 0; f < 6; f++)
                out[WHICH(s)][f] = get_floats(s, from[f], f == 1 || f == 2 ? M : f > 3 ? N : M * N);
        }
        assert_near("out", M * N, out[CPU][0], out[DEV][0], 1, 1e-5);
        assert_near("mean", M, out[CPU][1], out[DEV][1], 1, 1e-6);
        assert_near("rstd", M, out[CPU][2], out[DEV][2], 1, 1e-5);
        assert_near("din", N > 1 ? M * N : 0, out[CPU][3], out[DEV][3], 3,
                    1e-4); /* of one column it is 0 times a lot */
        assert_near("dgamma", N, out[CPU][4], out[DEV][4], 10, 1e-5);
        assert_near("dbeta", N, out[CPU][5], out[DEV][5], 10, 1e-6);
        free(in), free(d), free(gamma), free(beta);
        clear();
    }
}

static void dropout_keeps_and_scales_the_very_same_elements_as_the_cpu(void **state)
{
    enum { N = 1001 };
    uint64_t key[2] = {0x123456789abcdef0u, 77};
    float *in = numbers(N, 1), *out[2];
    for (uint64_t index0 = 0; index0 < 6; index0++) {
        BOTH(s)
        {
            float *v = put_floats(s, in, N);
            assert_ok(s->ops->dropout(s->x, N, 0.3f, key, index0 + (index0 > 4 ? (uint64_t)1 << 40 : 0), v, v));
            out[WHICH(s)] = get_floats(s, v, N);
        }
        assert_memory_equal(out[CPU], out[DEV], N * sizeof *in);
        clear();
    }
    free(in);
}

/* ---- sparse ---- */

typedef struct sparse {
    int64_t rows, cols, nnz;
    int64_t *rowptr;
    int32_t *col;
    float *val;
} sparse_t;

/* Rows of none, one, or up to `most` non-zeros in distinct columns; row 3 has `long_row` of them. Row pointers begin
 * above 0, as those of a piece of a batch do. */
static sparse_t random_sparse(int64_t rows, int64_t cols, int64_t most, int64_t long_row)
{
    enum { BEFORE = 5 };
    sparse_t s = {rows, cols, 0, malloc((size_t)(rows + 1) * 8), NULL, NULL};
    size_t room = (size_t)(BEFORE + rows * most + long_row);
    s.col = malloc(room * sizeof *s.col);
    s.val = malloc(room * sizeof *s.val);
    for (int j = 0; j < BEFORE; j++) {
        s.col[j] = 0x7fffffff;
        s.val[j] = NAN;
    }
    s.rowptr[0] = BEFORE;
    for (int64_t r = 0; r < rows; r++) {
        int64_t n = r == 3 ? long_row : r % 5 == 1 ? 0 : r % 5 == 2 ? 1 : 1 + below(most < cols ? most : cols);
        int64_t step = n > 0 ? cols / n : 1, first = below(step > 0 ? step : 1), at = s.rowptr[r];
        for (int64_t j = 0; j < n; j++) {
            s.col[at + (r % 2 ? n - 1 - j : j)] = (int32_t)(first + j * step);
            s.val[at + j] = uniform(-2, 2);
        }
        s.rowptr[r + 1] = at + n;
    }
    s.nnz = s.rowptr[rows];
    return s;
}

static void free_sparse(sparse_t *s)
{
    free(s->rowptr);
    free(s->col);
    free(s->val);
}

static ebb_csr_t put_sparse(side_t *s, const sparse_t *m)
{
    return (ebb_csr_t){.rows = m->rows,
                       .cols = m->cols,
                       .rowptr = put(s, m->rowptr, (size_t)(m->rows + 1) * sizeof *m->rowptr),
                       .col = put(s, m->col, (size_t)m->nnz * sizeof *m->col),
                       .val = put_floats(s, m->val, m->nnz),
                       .nnz = m->rowptr[m->rows] - m->rowptr[0]};
}

static const int64_t widths[] = {1, 2, 3, 4, 16, 60, 64, 65, 128};
enum { WIDTHS = sizeof widths / sizeof *widths };

static void sparse_products_equal_the_cpus(void **state)
{
    for (int k = 0; k < WIDTHS; k++) {
        int64_t H = widths[k], ldw = H + k % 3, cols = k == 4 ? 100000 : 997;
        sparse_t m = random_sparse(23, cols, 40, k == 4 ? 100000 : 1);
        float *W = numbers(cols * ldw, 1), *bias = numbers(H, 1), *out[2];
        BOTH(s)
        {
            ebb_csr_t X = put_sparse(s, &m);
            float *Y = poisoned(s, m.rows * H);
            assert_ok(s->ops->csr_gemm(s->x, &X, H, put_floats(s, W, cols * ldw), ldw,
                                       k % 2 ? put_floats(s, bias, H) : NULL, k % 3 ? EBB_ACT_NONE : EBB_ACT_RELU, Y));
            out[WHICH(s)] = get_floats(s, Y, m.rows * H);
        }
        assert_near("Y", m.rows * H, out[CPU], out[DEV], k == 4 ? 300 : 10, 1e-6);
        free(W), free(bias), free_sparse(&m);
        clear();
    }
}

typedef struct rows_on_host {
    int64_t n, width;
    int32_t *idx;
    float *val;
} rows_on_host_t;

static rows_on_host_t get_rows(side_t *s, const ebb_rows_t *r)
{
    int64_t n;
    assert_ok(ebb_rows_count(s->ops, s->x, r, &n));
    assert_true(n <= r->n && r->n <= r->capacity);
    return (rows_on_host_t){n, r->width, get(s, r->idx, (size_t)n * sizeof *r->idx),
                            get_floats(s, r->val, n * r->width)};
}

static void assert_rows_near(const rows_on_host_t *cpu, const rows_on_host_t *dev, double size)
{
    assert_int_equal(cpu->n, dev->n);
    assert_int_equal(cpu->width, dev->width);
    assert_memory_equal(cpu->idx, dev->idx, (size_t)cpu->n * sizeof *cpu->idx);
    assert_near("gradient", cpu->n * cpu->width, cpu->val, dev->val, size, 1e-6);
}

/* Rows against the dense gradient on the same side: bits, columns, bitmap. */
static void assert_dense_is(const rows_on_host_t *rows, const float *G, const uint64_t *touched, int64_t cols)
{
    int64_t k = 0;
    for (int64_t c = 0; c < cols; c++) {
        if (!(touched[c / 64] >> (c % 64) & 1))
            continue;
        assert_true(k < rows->n);
        assert_int_equal(rows->idx[k], c);
        assert_memory_equal(rows->val + k * rows->width, G + c * rows->width, (size_t)rows->width * sizeof *G);
        k++;
    }
    assert_int_equal(k, rows->n);
}

static void sparse_gradients_as_rows_dense_and_terms_are_one_and_the_cpus(void **state)
{
    for (int k = 0; k < WIDTHS; k++) {
        int64_t H = widths[k], cols = k % 2 ? 97 : 110000;
        sparse_t m = random_sparse(41, cols, 40, k == 4 ? 100000 : 1);
        float *dY = numbers(m.rows * H, 1);
        rows_on_host_t rows[2];
        BOTH(s)
        {
            ebb_csr_t X = put_sparse(s, &m);
            ebb_rows_t out;
            ebb_terms_t terms = {0};
            float *d = put_floats(s, dY, m.rows * H), *zeros = calloc((size_t)(cols * H), sizeof *zeros);
            float *G = put_floats(s, zeros, cols * H);
            uint64_t *touched = put(s, zeros, (size_t)((cols + 63) / 64) * 8);
            assert_ok(s->ops->csr_grad(s->x, k % 8, &X, H, d, &out));
            rows[WHICH(s)] = get_rows(s, &out);
            const rows_on_host_t *r = &rows[WHICH(s)];
            assert_ok(s->ops->csr_grad_dense(s->x, &X, H, d, G, touched));
            assert_dense_is(r, get_floats(s, G, cols * H), get(s, touched, (size_t)((cols + 63) / 64) * 8), cols);
            assert_ok(s->ops->csr_terms(s->x, &X, H, d, &terms));
            assert_int_equal(terms.n, r->n);
            float *sums = poisoned(s, r->n * H);
            int64_t half = r->n / 2;
            assert_ok(s->ops->terms_sum(s->x, &terms, 0, half, sums));
            assert_ok(s->ops->terms_sum(s->x, &terms, half, r->n - half, sums + half * H));
            assert_memory_equal(get_floats(s, sums, r->n * H), r->val, (size_t)(r->n * H) * sizeof *sums);
            s->ops->terms_free(s->backend->dev, &terms);
            free(zeros);
        }
        assert_rows_near(&rows[CPU], &rows[DEV], 10);
        free(dY), free_sparse(&m);
        clear();
    }
}

static void a_gradient_is_the_same_where_the_host_does_not_know_how_many_non_zeros_there_are(void **state)
{
    side_t *s = &side[DEV];
    sparse_t m = random_sparse(37, 300, 20, 1);
    float *dY = numbers(m.rows * 5, 1), *d = put_floats(s, dY, m.rows * 5);
    ebb_csr_t X = put_sparse(s, &m);
    rows_on_host_t rows[2];
    for (int k = 0; k < 2; k++) {
        ebb_rows_t out;
        X.nnz *= 1 - k;
        assert_ok(s->ops->csr_grad(s->x, 0, &X, 5, d, &out));
        rows[k] = get_rows(s, &out);
    }
    assert_true(rows[0].n > 0);
    assert_int_equal(rows[0].n, rows[1].n);
    assert_memory_equal(rows[0].idx, rows[1].idx, (size_t)rows[0].n * sizeof *rows[0].idx);
    assert_memory_equal(rows[0].val, rows[1].val, (size_t)(rows[0].n * 5) * sizeof *rows[0].val);
    free(dY), free_sparse(&m);
    clear();
}

/* Its number of rows is the device's alone; a large one, which would take memory for many more, is counted first. */
static void a_gradient_is_given_without_waiting_unless_its_bound_is_large(void **state)
{
    side_t *s = &side[DEV];
    sparse_t m = random_sparse(7, 110000, 50, 90000);
    for (int64_t H = 64; H <= 192; H += 128) {
        ebb_csr_t X = put_sparse(s, &m);
        float *dY = numbers(m.rows * H, 1);
        ebb_rows_t out;
        assert_ok(s->ops->csr_grad(s->x, 3, &X, H, put_floats(s, dY, m.rows * H), &out));
        rows_on_host_t rows = get_rows(s, &out);
        assert_true(rows.n >= 90000);
        assert_int_equal(out.count != NULL, H == 64);
        assert_int_equal(out.n, H == 64 ? X.nnz : rows.n);
        free(dY);
        clear();
    }
    free_sparse(&m);
}

/* Several tables' gradients of one lane lie side by side until the next calls with the same slots. */
static void gradients_in_several_slots_keep_their_numbers_of_rows(void **state)
{
    enum { GRADIENTS = 3, H = 4 };
    side_t *s = &side[DEV];
    ebb_rows_t out[2][GRADIENTS];
    int64_t n[2][GRADIENTS];
    float *dY = numbers(40 * H, 1), *d = put_floats(s, dY, 40 * H);
    for (int late = 0; late < 2; late++)
        for (int k = 0; k < GRADIENTS; k++) {
            sparse_t m = random_sparse(20 + 5 * k, 100, 12, 1);
            ebb_csr_t X = put_sparse(s, &m);
            assert_ok(s->ops->csr_grad(s->x, k, &X, H, d, &out[late][k]));
            n[late][k] = get_rows(s, &out[late][k]).n;
            free_sparse(&m);
        }
    for (int k = 0; k < GRADIENTS; k++) {
        int64_t now;
        assert_ok(ebb_rows_count(s->ops, s->x, &out[1][k], &now));
        assert_int_equal(now, n[1][k]);
        assert_true(k == 0 || now != n[1][k - 1]);
    }
    free(dY);
    clear();
}

static void a_batch_without_non_zeros_has_an_empty_gradient(void **state)
{
    int64_t rowptr[4] = {7, 7, 7, 7};
    side_t *s = &side[DEV];
    sparse_t m = {3, 50, 0, rowptr, (int32_t[]){0}, (float[]){0}};
    ebb_csr_t X = put_sparse(s, &m);
    float *Y = poisoned(s, 3 * 4);
    ebb_rows_t out;
    assert_ok(s->ops->csr_gemm(s->x, &X, 4, poisoned(s, 50 * 4), 4, NULL, EBB_ACT_NONE, Y));
    for (int i = 0; i < 12; i++)
        assert_true(get_floats(s, Y, 12)[i] == 0.0f);
    assert_ok(s->ops->csr_grad(s->x, 0, &X, 4, Y, &out));
    assert_int_equal(out.n, 0);
    X.rows = 0;
    assert_ok(s->ops->csr_grad(s->x, 0, &X, 4, Y, &out));
    assert_int_equal(out.n, 0);
    assert_int_equal(s->ops->csr_grad(s->x, 8, &X, 4, Y, &out), EBB_EINVAL);
    ebb_error_clear();
    clear();
}

static void factorization_machines_equal_the_cpus(void **state)
{
    for (int64_t k = 1; k < 40; k += 6) {
        int64_t cols = 500, width = 1 + k;
        sparse_t m = random_sparse(31, cols, 30, 1);
        float *T = numbers(cols * width, 0.5f), *d = numbers(m.rows, 1), bias = 0.25f, *out[2], *sums[2];
        rows_on_host_t rows[2];
        BOTH(s)
        {
            ebb_csr_t X = put_sparse(s, &m);
            ebb_rows_t grad;
            float *t = put_floats(s, T, cols * width), *o = poisoned(s, m.rows), *sum = poisoned(s, m.rows * k);
            float *zeros = calloc((size_t)(cols * width), sizeof *zeros), *dout = put_floats(s, d, m.rows);
            float *G = put_floats(s, zeros, cols * width);
            uint64_t *touched = put(s, zeros, (size_t)((cols + 63) / 64) * 8);
            assert_ok(s->ops->fm_forward(s->x, &X, k, t, put_floats(s, &bias, 1), o, sum));
            assert_ok(s->ops->fm_grad(s->x, 1, &X, k, t, sum, dout, &grad));
            assert_ok(s->ops->fm_grad_dense(s->x, &X, k, t, sum, dout, G, touched));
            out[WHICH(s)] = get_floats(s, o, m.rows);
            sums[WHICH(s)] = get_floats(s, sum, m.rows * k);
            rows[WHICH(s)] = get_rows(s, &grad);
            assert_dense_is(&rows[WHICH(s)], get_floats(s, G, cols * width),
                            get(s, touched, (size_t)((cols + 63) / 64) * 8), cols);
            free(zeros);
        }
        assert_near("out", m.rows, out[CPU], out[DEV], 20, 2e-6);
        assert_near("sums", m.rows * k, sums[CPU], sums[DEV], 5, 1e-6);
        assert_rows_near(&rows[CPU], &rows[DEV], 10);
        free(T), free(d), free_sparse(&m);
        clear();
    }
}

static void embeddings_equal_the_cpus_and_leave_columns_outside_fields_alone(void **state)
{
    static const int32_t fields[] = {3, 40, 41, 90};
    for (int64_t dim = 1; dim < 40; dim += 7) {
        int64_t cols = 97, n_fields = 3;
        sparse_t m = random_sparse(33, cols, 30, 90);
        float *T = numbers(cols * dim, 1), *d = numbers(m.rows * n_fields * dim, 1), *out[2];
        rows_on_host_t rows[2];
        BOTH(s)
        {
            ebb_csr_t X = put_sparse(s, &m);
            ebb_rows_t grad;
            float *Y = poisoned(s, m.rows * n_fields * dim), *dY = put_floats(s, d, m.rows * n_fields * dim);
            float *zeros = calloc((size_t)(cols * dim), sizeof *zeros), *G = put_floats(s, zeros, cols * dim);
            uint64_t none[2] = {0}, *touched = put(s, none, sizeof none);
            assert_ok(s->ops->embed_forward(s->x, &X, 3, fields, dim, put_floats(s, T, cols * dim), Y));
            assert_ok(s->ops->embed_grad(s->x, 2, &X, 3, fields, dim, dY, &grad));
            assert_ok(s->ops->embed_grad_dense(s->x, &X, 3, fields, dim, dY, G, touched));
            out[WHICH(s)] = get_floats(s, Y, m.rows * n_fields * dim);
            rows[WHICH(s)] = get_rows(s, &grad);
            assert_dense_is(&rows[WHICH(s)], get_floats(s, G, cols * dim), get(s, touched, sizeof none), cols);
            free(zeros);
        }
        assert_near("Y", m.rows * n_fields * dim, out[CPU], out[DEV], 20, 1e-6);
        assert_rows_near(&rows[CPU], &rows[DEV], 10);
        free(T), free(d), free_sparse(&m);
        clear();
    }
}

/* ---- losses ---- */

typedef struct loss_case {
    ebb_loss_kind_t kind;
    int64_t width;
    bool labels;
} loss_case_t;

static void losses_slopes_and_predictions_equal_the_cpus(void **state)
{
    static const loss_case_t cases[] = {{EBB_LOSS_SOFTMAX_CE, 2, true},   {EBB_LOSS_SOFTMAX_CE, 58, true},
                                        {EBB_LOSS_SOFTMAX_CE, 300, true}, {EBB_LOSS_BINARY_CE, 1, true},
                                        {EBB_LOSS_BINARY_CE, 3, false},   {EBB_LOSS_SQUARED, 4, false},
                                        {EBB_LOSS_HUBER, 2, false},       {EBB_LOSS_POISSON, 2, false}};
    enum { ROWS = 77 };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        const loss_case_t *k = &cases[c];
        int64_t n = ROWS * k->width;
        float *o = numbers(n, 5), *y = numbers(n, 2), *weight = numbers(ROWS, 1), *class_weight = numbers(300, 1);
        int32_t label[ROWS];
        float *dout[2], *pred[2];
        double loss[2][ROWS], row_weight[2][ROWS];
        for (int r = 0; r < ROWS; r++) {
            label[r] = (int32_t)below(k->kind == EBB_LOSS_SOFTMAX_CE ? k->width : 2);
            weight[r] = fabsf(weight[r]);
        }
        for (int64_t i = 0; i < n; i++)
            y[i] = k->kind == EBB_LOSS_POISSON     ? (float)below(5)
                   : k->kind == EBB_LOSS_BINARY_CE ? (float)(i % 2)
                                                   : y[i];
        o[0] = k->kind == EBB_LOSS_POISSON ? 20 : 90, o[1] = -90;
        BOTH(s)
        {
            float *out = put_floats(s, o, n), *d = poisoned(s, n), *p = poisoned(s, n);
            assert_ok(s->ops->loss(s->x, k->kind, 0.7f, ROWS, k->width, out,
                                   k->labels ? put(s, label, sizeof label) : NULL,
                                   k->labels ? NULL : put_floats(s, y, n), c % 2 ? put_floats(s, weight, ROWS) : NULL,
                                   k->labels && c != 3 ? put_floats(s, class_weight, 300) : NULL, loss[WHICH(s)],
                                   row_weight[WHICH(s)], d));
            assert_ok(s->ops->link(s->x, k->kind, ROWS, k->width, out, p));
            assert_ok(s->ops->exec_sync(s->x));
            dout[WHICH(s)] = get_floats(s, d, n);
            pred[WHICH(s)] = get_floats(s, p, n);
        }
        assert_memory_equal(row_weight[CPU], row_weight[DEV], sizeof row_weight[CPU]);
        for (int r = 0; r < ROWS; r++)
            if (!(fabs(loss[DEV][r] - loss[CPU][r]) <= 1e-6 * (1 + fabs(loss[CPU][r]))))
                fail_msg("case %zu, row %d: loss %.9g, the CPU says %.9g", c, r, loss[DEV][r], loss[CPU][r]);
        assert_near("dout", n, dout[CPU], dout[DEV], 1, 1e-6);
        assert_near("prediction", n, pred[CPU], pred[DEV], 1e-3, 1e-5);
        free(o), free(y), free(weight), free(class_weight);
        clear();
    }
}

static void a_label_that_is_no_class_is_named_by_the_first_such_row(void **state)
{
    side_t *s = &side[DEV];
    float out[6 * 3] = {0};
    int32_t label[6] = {0, 2, 1, 3, -1, 0};
    double loss[6], weight[6];
    assert_ok(s->ops->loss(s->x, EBB_LOSS_SOFTMAX_CE, 0, 6, 3, put_floats(s, out, 18), put(s, label, sizeof label),
                           NULL, NULL, NULL, loss, weight, NULL));
    assert_int_equal(s->ops->exec_sync(s->x), EBB_EDATA);
    assert_non_null(strstr(ebb_error()->message, "row 3 of the batch has label 3: classes are 0 to 2"));
    ebb_error_clear();
    clear();
}

static void of_losses_under_way_together_the_least_bad_row_is_named_once(void **state)
{
    side_t *s = &side[DEV];
    float out[6 * 3] = {0};
    int32_t label[3][6] = {{0, 2, 1, 0, 7, 0}, {0, 1, -5, 3, 0, 1}, {0, 1, 2, 0, 1, 2}};
    double loss[6], weight[6];
    const float *there = put_floats(s, out, 18);
    const int32_t *labels[3];
    for (int i = 0; i < 3; i++)
        labels[i] = put(s, label[i], sizeof label[i]);
    for (int i = 0; i < 3; i++)
        assert_ok(
            s->ops->loss(s->x, EBB_LOSS_SOFTMAX_CE, 0, 6, 3, there, labels[i], NULL, NULL, NULL, loss, weight, NULL));
    assert_int_equal(s->ops->exec_sync(s->x), EBB_EDATA);
    assert_non_null(strstr(ebb_error()->message, "row 2 of the batch has label -5: classes are 0 to 2"));
    ebb_error_clear();
    assert_ok(s->ops->exec_sync(s->x));
    assert_ok(s->ops->loss(s->x, EBB_LOSS_SOFTMAX_CE, 0, 6, 3, there, labels[2], NULL, NULL, NULL, loss, weight, NULL));
    assert_ok(s->ops->exec_sync(s->x));
    clear();
}

static void a_wait_for_a_posted_mark_tells_of_the_losses_before_it(void **state)
{
    side_t *s = &side[DEV];
    float out[6 * 3] = {0};
    int32_t good[6] = {0, 1, 2, 0, 1, 2}, bad[6] = {0, 2, 1, 3, -1, 0};
    double loss[6] = {0}, weight[6];
    const float *there = put_floats(s, out, 18);
    const int32_t *labels[] = {put(s, good, sizeof good), put(s, bad, sizeof bad)};
    for (int i = 0; i < 4; i++) {
        assert_ok(s->ops->loss(s->x, EBB_LOSS_SOFTMAX_CE, 0, 6, 3, there, labels[i % 2], NULL, NULL, NULL, loss, weight,
                               NULL));
        assert_ok(s->ops->exec_post(s->x, 9));
        assert_ok(s->ops->zero(s->x, s->ptr[0], sizeof out)); /* goes on */
        assert_int_equal(s->ops->exec_wait(s->x, 9), i % 2 ? EBB_EDATA : EBB_OK);
        if (i % 2)
            assert_non_null(strstr(ebb_error()->message, "row 3 of the batch has label 3: classes are 0 to 2"));
        assert_true(i % 2 || fabs(loss[5] - log(3)) < 1e-6);
        ebb_error_clear();
    }
    assert_ok(s->ops->exec_sync(s->x));
    assert_int_equal(s->ops->exec_post(s->x, EBB_MARKS), EBB_EINVAL);
    assert_int_equal(s->ops->exec_wait(s->x, -1), EBB_EINVAL);
    ebb_error_clear();
    clear();
}

/* ---- sums and updates ---- */

static void sums_and_sums_of_squares_equal_the_cpus(void **state)
{
    enum { N = 10007 };
    float *a = numbers(N, 1), *b = numbers(N, 1), *out[2];
    double squares[2][N / 100 + 1];
    BOTH(s)
    {
        float *da = put_floats(s, a, N), *db = put_floats(s, b, N);
        assert_ok(s->ops->sumsq(s->x, N, 100, da, squares[WHICH(s)]));
        assert_ok(s->ops->add(s->x, N, da, db, da));
        out[WHICH(s)] = get_floats(s, da, N);
    }
    assert_memory_equal(out[CPU], out[DEV], N * sizeof *a);
    for (int i = 0; i <= N / 100; i++)
        assert_true(fabs(squares[CPU][i] - squares[DEV][i]) <= 1e-13 * squares[CPU][i]);
    free(a), free(b);
    clear();
}

static void every_update_rule_gives_the_cpus_bits_on_slices_and_rows(void **state)
{
    enum { ROWS = 50, TOUCHED = 17, WIDTH = 6, N = ROWS * WIDTH };
    for (int rule = 0; rule < 14; rule++) {
        ebb_optim_hyper_t h = {.kind = (ebb_optim_kind_t)(rule % 5),
                               .lr = 0.05f,
                               .scale = 0.01f,
                               .beta1 = 0.9f,
                               .beta2 = 0.999f,
                               .eps = rule % 3 ? 1e-8f : 0.0f,
                               .t = 1 + rule * 7};
        h.l1 = rule % 2 ? 0.01f : 0.0f;
        h.l2 = rule % 4 ? 0.1f : 0.0f;
        h.momentum = rule > 7 ? 0.9f : 0.0f;
        h.nesterov = rule > 9;
        float *w = numbers(N, 1), *g = numbers(N, 30), *s0 = numbers(N, 1), *s1 = numbers(N, 1), *out[2][3];
        int32_t idx_w[TOUCHED], idx_s[TOUCHED];
        for (int i = 0; i < N; i++) {
            s0[i] = h.kind == EBB_OPTIM_FTRL ? s0[i] : fabsf(s0[i]);
            s1[i] = fabsf(s1[i]);
            g[i] = i % 11 ? g[i] : 0.0f;
        }
        for (int k = 0; k < TOUCHED; k++) {
            idx_w[k] = 3 * k % ROWS;
            idx_s[k] = 2 * k;
        }
        BOTH(s)
        {
            float *dw = put_floats(s, w, N), *dg = put_floats(s, g, N), *d0 = put_floats(s, s0, N);
            float *d1 = put_floats(s, s1, N);
            assert_ok(s->ops->update(s->x, &h, N - 1, dw, dg, d0, d1));
            assert_ok(s->ops->update_rows(s->x, &h, TOUCHED, WIDTH, put(s, idx_w, sizeof idx_w),
                                          put(s, idx_s, sizeof idx_s), dw, dg, d0, d1));
            float *from[] = {dw, d0, d1};
            for (int f = 0; f < 3; f++)
                out[WHICH(s)][f] = get_floats(s, from[f], N);
        }
        for (int f = 0; f < 3; f++)
            assert_memory_equal(out[CPU][f], out[DEV][f], N * sizeof(float));
        free(w), free(g), free(s0), free(s1);
        clear();
    }
}

static void rows_of_a_table_are_set_and_others_stay(void **state)
{
    enum { ROWS = 40, WIDTH = 7, SET = 11 };
    float *table = numbers(ROWS * WIDTH, 1), *val = numbers(SET * WIDTH, 1), *out[2];
    int32_t idx[SET];
    for (int k = 0; k < SET; k++)
        idx[k] = (k * 13 + 5) % ROWS;
    BOTH(s)
    {
        float *t = put_floats(s, table, ROWS * WIDTH);
        assert_ok(s->ops->set_rows(s->x, SET, WIDTH, put(s, idx, sizeof idx), put_floats(s, val, SET * WIDTH), t));
        out[WHICH(s)] = get_floats(s, t, ROWS * WIDTH);
        assert_memory_equal(out[WHICH(s)] + idx[3] * WIDTH, val + 3 * WIDTH, WIDTH * sizeof *val);
    }
    assert_memory_equal(out[CPU], out[DEV], ROWS * WIDTH * sizeof *table);
    free(table), free(val);
    clear();
}

/* Sums of row lists, by a walk down the tree over the lists: [lo, hi) splits at lo + (hi - lo + 1) / 2. */
typedef struct row_lists {
    int lists;
    int64_t rows, width;
    int64_t *n;
    int32_t **idx;
    float **val;
} row_lists_t;

static int depth_of_meeting(int lo, int hi, int a, int b)
{
    int mid = lo + (hi - lo + 1) / 2;
    if (a < mid && b >= mid)
        return 0;
    return 1 + (b < mid ? depth_of_meeting(lo, mid, a, b) : depth_of_meeting(mid, hi, a, b));
}

/* Whether any list of [lo, hi) has the row; its sum then. */
static bool walk(const row_lists_t *l, int lo, int hi, int32_t row, float *sum)
{
    if (hi - lo == 1) {
        for (int64_t k = 0; k < l->n[lo]; k++)
            if (l->idx[lo][k] == row) {
                memcpy(sum, l->val[lo] + k * l->width, (size_t)l->width * sizeof *sum);
                return true;
            }
        return false;
    }
    int mid = lo + (hi - lo + 1) / 2;
    float right[16];
    bool a = walk(l, lo, mid, row, sum), b = walk(l, mid, hi, row, a ? right : sum);
    for (int64_t c = 0; a && b && c < l->width; c++)
        sum[c] += right[c];
    return a || b;
}

static void fill_lists(row_lists_t *l, int shared)
{
    for (int k = 0; k < l->lists; k++) {
        l->idx[k] = malloc((size_t)l->rows * sizeof *l->idx[k]);
        l->n[k] = 0;
        for (int32_t row = 0; row < l->rows; row++)
            if (shared == 0 ? row % l->lists == k : below(shared) == 0)
                l->idx[k][l->n[k]++] = row;
        l->val[k] = numbers(l->n[k] * l->width, 1);
        for (int64_t i = 0; i < l->n[k] * l->width; i += 7)
            l->val[k][i] = -0.0f;
    }
}

/* The host's sums, by owner, beside the device's. */
static void assert_sums(const row_lists_t *l, int owners, bool canonical, const int64_t *n, const int32_t *idx,
                        const int32_t *local, const float *val)
{
    int64_t at = 0;
    for (int o = 0; o < owners; o++) {
        int64_t end = at + n[o];
        for (int32_t row = 0; row < l->rows; row++) {
            float sum[16];
            if (row / 64 % owners != o || !walk(l, 0, l->lists, row, sum))
                continue;
            assert_true(at < end);
            assert_int_equal(idx[at], row);
            assert_int_equal(local[at], row / 64 / owners * 64 + row % 64);
            for (int64_t c = 0; c < l->width; c++) {
                float want = canonical ? sum[c] + 0.0f : sum[c];
                assert_memory_equal(&want, &val[at * l->width + c], sizeof want);
            }
            at++;
        }
        assert_int_equal(at, end);
    }
}

/* A list whose host knows its number of rows, or one with some more that only the device knows not to be there. */
static ebb_rows_t put_list(side_t *s, const row_lists_t *l, int a, bool counted)
{
    int64_t n = l->n[a], more = counted ? 1 + below(20) : 0;
    int32_t *idx = calloc((size_t)(n + more) + 1, sizeof *idx);
    float *val = numbers((n + more) * l->width, 9);
    if (n > 0) {
        memcpy(idx, l->idx[a], (size_t)n * sizeof *idx);
        memcpy(val, l->val[a], (size_t)(n * l->width) * sizeof *val);
    }
    ebb_rows_t list = {.n = n + more,
                       .width = l->width,
                       .idx = put(s, idx, (size_t)(n + more) * sizeof *idx),
                       .val = put_floats(s, val, (n + more) * l->width),
                       .count = counted ? put(s, &n, sizeof n) : NULL};
    free(idx), free(val);
    return list;
}

static void sum_on_device(const row_lists_t *l, int owners, bool canonical)
{
    side_t *s = &side[DEV];
    ebb_rows_t list[32];
    uint8_t meet[32 * 32] = {0};
    int64_t n[8], total = 0;
    int counted = (int)below(3); /* all, none, or some */
    for (int a = 0; a < l->lists; a++) {
        list[a] = put_list(s, l, a, counted == 2 ? a % 2 == 0 : counted == 1);
        for (int b = a + 1; b < l->lists; b++)
            meet[a * l->lists + b] = (uint8_t)depth_of_meeting(0, l->lists, a, b);
    }
    ebb_rows_merge_t merge = {.lists = l->lists,
                              .list = list,
                              .meet = meet,
                              .rows = l->rows,
                              .width = l->width,
                              .owners = owners,
                              .canonical = canonical};
    assert_ok(s->ops->rows_find(s->x, &merge, n));
    for (int o = 0; o < owners; o++)
        total += n[o];
    int32_t *idx = (int32_t *)poisoned(s, total), *local = (int32_t *)poisoned(s, total);
    float *val = poisoned(s, total * l->width);
    assert_ok(s->ops->rows_add(s->x, &merge, idx, local, val));
    assert_sums(l, owners, canonical, n, get(s, idx, (size_t)total * sizeof *idx),
                get(s, local, (size_t)total * sizeof *local), get_floats(s, val, total * l->width));
    clear();
}

static void row_lists_are_added_along_the_tree_by_owner(void **state)
{
    enum { LISTS = 24 };
    static const int64_t of_rows[] = {1, 3, 8, 16};
    for (int round = 0; round < 24; round++) {
        int64_t n[LISTS];
        int32_t *idx[LISTS];
        float *val[LISTS];
        row_lists_t l = {.lists = 1 + (round * 7) % LISTS,
                         .rows = round == 5 ? 1 : 1 + below(700),
                         .width = of_rows[round % 4],
                         .n = n,
                         .idx = idx,
                         .val = val};
        fill_lists(&l, round % 5); /* 0: no row in common; 1: all rows in all; else some */
        for (int owners = 1; owners <= 5; owners += 2)
            sum_on_device(&l, owners, owners == 1);
        for (int k = 0; k < l.lists; k++)
            free(idx[k]), free(val[k]);
    }
    row_lists_t none = {.lists = 2,
                        .rows = 9,
                        .width = 4,
                        .n = (int64_t[]){0, 0},
                        .idx = (int32_t *[]){NULL, NULL},
                        .val = (float *[]){NULL, NULL}};
    sum_on_device(&none, 3, true);
}

static void rows_of_a_table_are_got(void **state)
{
    enum { ROWS = 40, WIDTH = 7, GET = 11 };
    side_t *s = &side[DEV];
    float *table = numbers(ROWS * WIDTH, 1), *val = poisoned(s, GET * WIDTH);
    int32_t idx[GET];
    for (int k = 0; k < GET; k++)
        idx[k] = (k * 13 + 5) % ROWS;
    assert_ok(s->ops->get_rows(s->x, GET, WIDTH, put(s, idx, sizeof idx), put_floats(s, table, ROWS * WIDTH), val));
    const float *got = get_floats(s, val, GET * WIDTH);
    for (int k = 0; k < GET; k++)
        assert_memory_equal(got + k * WIDTH, table + idx[k] * WIDTH, WIDTH * sizeof *got);
    free(table);
    clear();
}

/* ---- memory ---- */

static void memory_comes_zeroed_keeps_what_is_put_in_and_says_when_there_is_none(void **state)
{
    side_t *s = &side[DEV];
    float in[1000], zeros[1000] = {0};
    void *p, *more;
    assert_ok(s->ops->alloc(s->backend->dev, sizeof in, "test", &p));
    s->ptr[s->n++] = p;
    assert_memory_equal(get(s, p, sizeof in), zeros, sizeof in);
    for (int i = 0; i < 1000; i++)
        in[i] = (float)i;
    assert_ok(s->ops->upload(s->x, p, in, sizeof in));
    assert_memory_equal(get(s, p, sizeof in), in, sizeof in);
    assert_int_equal(s->ops->alloc(s->backend->dev, (size_t)1 << 46, "the impossible", &more), EBB_ENOMEM);
    assert_non_null(strstr(ebb_error()->message, "the impossible: out of GPU memory"));
    ebb_error_clear();
    assert_null(more);
    assert_ok(s->ops->zero(s->x, p, sizeof in)); /* and goes on */
    assert_memory_equal(get(s, p, sizeof in), zeros, sizeof in);
    clear();
}

/* Much work on one context, a copy of its result on another: by a mark in between, or (where a stream is known to be
 * late: the double's) without one, which must not do. */
static void what_awaits_a_mark_sees_all_that_was_done_before_it(void **state)
{
    enum { N = 1 << 22, ROUNDS = 50 };
    side_t *s = &side[DEV];
    ebb_exec_t *other;
    size_t bytes = (size_t)N * sizeof(float);
    bool late = strcmp(s->ops->name, "cuda") != 0;
    assert_ok(s->ops->exec_create(s->backend->dev, &other));
    for (int with_mark = !late; with_mark < 3; with_mark++) { /* 2: by its event */
        int64_t n = late ? 64 : N;
        float one = 1, *sum = put(s, &(float){0}, 4), *a, *b, first, last;
        assert_ok(s->ops->alloc(s->backend->dev, bytes, "test", (void **)&a));
        assert_ok(s->ops->alloc(s->backend->dev, bytes, "test", (void **)&b));
        s->ptr[s->n++] = a;
        s->ptr[s->n++] = b;
        assert_ok(s->ops->exec_await(other, s->x, 3)); /* never set */
        for (int i = 0; i < ROUNDS; i++) {
            assert_ok(s->ops->upload(s->x, sum, &one, sizeof one));
            assert_ok(s->ops->copy(s->x, b + n - 1, sum, sizeof one));
            assert_ok(s->ops->copy(s->x, b, sum, sizeof one));
            assert_ok(s->ops->add(s->x, n, a, b, a));
        }
        void *event;
        assert_ok(s->ops->exec_mark(s->x, 1));
        assert_ok(s->ops->exec_event(s->x, 1, &event));
        if (with_mark == 1)
            assert_ok(s->ops->exec_await(other, s->x, 1));
        else if (with_mark == 2)
            assert_ok(s->ops->exec_await_event(other, event));
        assert_ok(s->ops->download(other, &first, a, sizeof first));
        assert_ok(s->ops->download(other, &last, a + n - 1, sizeof last));
        assert_ok(s->ops->exec_sync(other));
        assert_true((first == ROUNDS && last == ROUNDS) == (with_mark > 0));
        assert_ok(s->ops->exec_sync(s->x));
        clear();
    }
    void *event = NULL, *other_event = NULL, *again = NULL;
    assert_ok(s->ops->exec_event(s->x, 1, &event));
    assert_ok(s->ops->exec_event(s->x, 2, &other_event));
    assert_ok(s->ops->exec_mark(s->x, 1));
    assert_ok(s->ops->exec_event(s->x, 1, &again));
    assert_non_null(event);
    assert_ptr_equal(again, event);
    assert_ptr_not_equal(other_event, event);
    assert_int_equal(s->ops->exec_event(s->x, EBB_MARKS, &event), EBB_EINVAL);
    assert_int_equal(s->ops->exec_mark(s->x, EBB_MARKS), EBB_EINVAL);
    assert_int_equal(s->ops->exec_await(other, s->x, -1), EBB_EINVAL);
    ebb_error_clear();
    s->ops->exec_destroy(other);
}

/* ---- graphs ---- */

typedef struct small_pass {
    float *x, *w, *y, *db;
    const int32_t *label;
    double *loss; /* host_alloc's: of rows, then their weights */
} small_pass_t;

enum { PASS_ROWS = 37, PASS_IN = 19, PASS_OUT = 5 };

static small_pass_t make_pass(side_t *s, int32_t bad_label)
{
    small_pass_t p;
    int32_t label[PASS_ROWS];
    float *x = numbers(PASS_ROWS * PASS_IN, 1), *w = numbers(PASS_IN * PASS_OUT, 1);
    for (int i = 0; i < PASS_ROWS; i++)
        label[i] = i == 11 ? bad_label : (int32_t)below(PASS_OUT);
    p.x = put_floats(s, x, PASS_ROWS * PASS_IN);
    p.w = put_floats(s, w, PASS_IN * PASS_OUT);
    p.y = poisoned(s, PASS_ROWS * PASS_OUT);
    p.db = poisoned(s, PASS_OUT);
    p.label = put(s, label, sizeof label);
    p.loss = s->ops->host_alloc(s->backend->dev, 2 * PASS_ROWS * sizeof *p.loss);
    assert_non_null(p.loss);
    free(x), free(w);
    return p;
}

static void give_pass(side_t *s, const small_pass_t *p)
{
    assert_ok(s->ops->gemm(s->x, false, false, PASS_ROWS, PASS_OUT, PASS_IN, p->x, PASS_IN, p->w, PASS_OUT, 0, p->y,
                           PASS_OUT, NULL, EBB_ACT_TANH));
    assert_ok(s->ops->loss(s->x, EBB_LOSS_SOFTMAX_CE, 0, PASS_ROWS, PASS_OUT, p->y, p->label, NULL, NULL, NULL, p->loss,
                           p->loss + PASS_ROWS, p->y));
    assert_ok(s->ops->bias_grad(s->x, PASS_ROWS, PASS_OUT, p->y, 0, p->db));
}

/* The rows' losses, the gradient. */
static void read_pass(side_t *s, const small_pass_t *p, double *loss, float *db)
{
    assert_ok(s->ops->download(s->x, db, p->db, PASS_OUT * sizeof *db));
    assert_ok(s->ops->exec_sync(s->x));
    memcpy(loss, p->loss, 2 * PASS_ROWS * sizeof *loss);
}

static void what_a_graph_does_has_the_bits_of_the_same_calls_on_what_is_there_then(void **state)
{
    side_t *s = &side[DEV];
    small_pass_t p = make_pass(s, 0);
    double loss[2][2 * PASS_ROWS];
    float db[2][PASS_OUT], before[PASS_OUT];
    ebb_graph_t *graph;
    bool done;
    give_pass(s, &p); /* scratch memory grows */
    assert_ok(s->ops->zero(s->x, p.db, sizeof before));
    assert_ok(s->ops->capture_begin(s->x));
    give_pass(s, &p);
    assert_ok(s->ops->capture_end(s->x, &graph));
    read_pass(s, &p, loss[0], before);
    for (int i = 0; i < PASS_OUT; i++)
        assert_true(before[i] == 0); /* nothing was carried out */
    for (int round = 0; round < 3; round++) {
        float *w = numbers(PASS_IN * PASS_OUT, 1);
        assert_ok(s->ops->upload(s->x, p.w, w, PASS_IN * PASS_OUT * sizeof *w));
        assert_ok(s->ops->graph_launch(s->x, graph, &done));
        assert_true(done);
        read_pass(s, &p, loss[0], db[0]);
        give_pass(s, &p);
        read_pass(s, &p, loss[1], db[1]);
        assert_memory_equal(loss[0], loss[1], sizeof loss[0]);
        assert_memory_equal(db[0], db[1], sizeof db[0]);
        free(w);
    }
    s->ops->graph_free(s->backend->dev, graph);
    s->ops->graph_free(s->backend->dev, NULL);
    s->ops->host_free(s->backend->dev, p.loss);
    clear();
}

static void a_graph_judges_labels_and_ends_where_scratch_memory_moves(void **state)
{
    enum { LARGER = 1 << 20 };
    side_t *s = &side[DEV];
    small_pass_t p = make_pass(s, 9);
    ebb_graph_t *graph;
    bool done;
    give_pass(s, &p);
    assert_int_equal(s->ops->exec_sync(s->x), EBB_EDATA);
    assert_ok(s->ops->capture_begin(s->x));
    give_pass(s, &p);
    assert_ok(s->ops->capture_end(s->x, &graph));
    assert_ok(s->ops->exec_sync(s->x));
    for (int round = 0; round < 2; round++) {
        assert_ok(s->ops->graph_launch(s->x, graph, &done));
        assert_int_equal(s->ops->exec_sync(s->x), EBB_EDATA);
        assert_non_null(strstr(ebb_error()->message, "row 11 of the batch has label 9: classes are 0 to 4"));
    }
    ebb_error_clear();
    float *much = poisoned(s, LARGER), *db = poisoned(s, LARGER);
    assert_ok(s->ops->bias_grad(s->x, 1, LARGER, much, 0, db));
    assert_ok(s->ops->graph_launch(s->x, graph, &done));
    assert_false(done);
    assert_ok(s->ops->exec_sync(s->x));
    s->ops->graph_free(s->backend->dev, graph);
    s->ops->host_free(s->backend->dev, p.loss);
    clear();
}

static void what_a_graph_cannot_hold_is_refused_and_the_context_goes_on(void **state)
{
    enum { N = 3 << 20 };
    side_t *s = &side[DEV];
    float *a = poisoned(s, N), *b = poisoned(s, N), host[4] = {0};
    const uint64_t key[2] = {1, 2};
    int64_t rowptr[] = {0, 1, 2};
    int32_t col[] = {1, 0};
    float val[] = {1, 1};
    ebb_csr_t csr = {.rows = 2,
                     .cols = 2,
                     .rowptr = put(s, rowptr, sizeof rowptr),
                     .col = put(s, col, sizeof col),
                     .val = put(s, val, sizeof val),
                     .nnz = 2};
    ebb_rows_t rows;
    void *more;
    ebb_graph_t *graph;
    int cases = strcmp(s->ops->name, "cuda") == 0 ? 5 : 6; /* what CUDA says to the last is not documented */
    for (int what = 0; what < cases; what++) {
        ebb_status_t status = s->ops->capture_begin(s->x);
        assert_ok(status);
        switch (what) {
        case 0: status = s->ops->exec_sync(s->x); break;
        case 1: status = s->ops->dropout(s->x, 4, 0.5f, key, 0, a, b); break;
        case 2: status = s->ops->bias_grad(s->x, 1, N, a, 0, b); break; /* scratch memory grows */
        case 3: status = s->ops->csr_grad(s->x, 0, &csr, 1, a, &rows); break;
        case 4: status = s->ops->alloc(s->backend->dev, 16, "test", &more); break;
        default: status = s->ops->download(s->x, host, a, sizeof host); break; /* not pinned */
        }
        ebb_error_clear();
        ebb_status_t end = s->ops->capture_end(s->x, &graph);
        ebb_error_clear();
        if (status == EBB_OK && end == EBB_OK)
            fail_msg("%d was noted", what);
        s->ops->graph_free(s->backend->dev, graph);
        assert_ok(s->ops->zero(s->x, a, sizeof host));
        assert_memory_equal(get(s, a, sizeof host), host, sizeof host);
    }
    clear();
}

static bool driver_is_here(void)
{
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    int (*init)(unsigned) = driver ? (int (*)(unsigned))dlsym(driver, "cuInit") : NULL;
    return init && init(0) == 0;
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "cuda";
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_comes_zeroed_keeps_what_is_put_in_and_says_when_there_is_none),
        cmocka_unit_test(products_of_any_shape_layout_and_epilogue_equal_the_cpus),
        cmocka_unit_test(products_in_other_precisions_are_within_their_rounding),
        cmocka_unit_test(products_of_one_row_one_column_or_one_term_take_every_epilogue),
        cmocka_unit_test(products_have_the_same_bits_wherever_their_operands_lie_on_any_context_at_any_time),
        cmocka_unit_test(products_of_more_shapes_than_are_kept_have_the_same_bits_again),
        cmocka_unit_test(bias_and_relu_are_part_of_the_product_and_a_shape_is_prepared_once),
        cmocka_unit_test(held_weights_give_the_bits_of_others_and_are_rounded_once),
        cmocka_unit_test(weights_that_were_written_are_seen_by_the_next_product),
        cmocka_unit_test(weights_that_are_held_cannot_be_written),
        cmocka_unit_test(bias_gradients_are_written_or_added),
        cmocka_unit_test(activations_and_their_gradients_equal_the_cpus_also_at_the_ends),
        cmocka_unit_test(layer_normalisation_and_its_gradients_equal_the_cpus),
        cmocka_unit_test(dropout_keeps_and_scales_the_very_same_elements_as_the_cpu),
        cmocka_unit_test(sparse_products_equal_the_cpus),
        cmocka_unit_test(sparse_gradients_as_rows_dense_and_terms_are_one_and_the_cpus),
        cmocka_unit_test(a_gradient_is_the_same_where_the_host_does_not_know_how_many_non_zeros_there_are),
        cmocka_unit_test(a_gradient_is_given_without_waiting_unless_its_bound_is_large),
        cmocka_unit_test(gradients_in_several_slots_keep_their_numbers_of_rows),
        cmocka_unit_test(a_batch_without_non_zeros_has_an_empty_gradient),
        cmocka_unit_test(factorization_machines_equal_the_cpus),
        cmocka_unit_test(embeddings_equal_the_cpus_and_leave_columns_outside_fields_alone),
        cmocka_unit_test(losses_slopes_and_predictions_equal_the_cpus),
        cmocka_unit_test(a_label_that_is_no_class_is_named_by_the_first_such_row),
        cmocka_unit_test(a_wait_for_a_posted_mark_tells_of_the_losses_before_it),
        cmocka_unit_test(of_losses_under_way_together_the_least_bad_row_is_named_once),
        cmocka_unit_test(sums_and_sums_of_squares_equal_the_cpus),
        cmocka_unit_test(every_update_rule_gives_the_cpus_bits_on_slices_and_rows),
        cmocka_unit_test(rows_of_a_table_are_set_and_others_stay),
        cmocka_unit_test(rows_of_a_table_are_got),
        cmocka_unit_test(row_lists_are_added_along_the_tree_by_owner),
        cmocka_unit_test(what_awaits_a_mark_sees_all_that_was_done_before_it),
        cmocka_unit_test(what_a_graph_does_has_the_bits_of_the_same_calls_on_what_is_there_then),
        cmocka_unit_test(a_graph_judges_labels_and_ends_where_scratch_memory_moves),
        cmocka_unit_test(what_a_graph_cannot_hold_is_refused_and_the_context_goes_on),
    };
    if (strcmp(name, "cuda") == 0 && !driver_is_here()) {
        puts("SKIPPED: no NVIDIA driver with a GPU here");
        return 77;
    }
    if (ebb_backend_open(name, 0, &side[DEV].backend) != EBB_OK) {
        printf("%s: %s\n", strcmp(name, "cuda") == 0 ? "SKIPPED" : "FAILED", ebb_error()->message);
        return strcmp(name, "cuda") == 0 ? 77 : 1;
    }
    if (ebb_backend_open("cpu", 0, &side[CPU].backend) != EBB_OK)
        return 1;
    BOTH(s)
    {
        s->ops = s->backend->ops;
        if (s->ops->exec_create(s->backend->dev, &s->x) != EBB_OK)
            return 1;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    BOTH(s)
    {
        s->ops->exec_destroy(s->x);
        ebb_backend_close(s->backend);
    }
    return failed;
}
