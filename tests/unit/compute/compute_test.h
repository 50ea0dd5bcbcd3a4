/* What the tests of compute/ share: random data, a context per instruction set, comparison with float64 references. */
#ifndef EBB_TESTS_COMPUTE_TEST_H
#define EBB_TESTS_COMPUTE_TEST_H

#include "support.h"
#include <ebb/compute.h>
#include "base/alloc.h"
#include "base/rng.h"
#include "compute/cpu/cpu.h"

#include <math.h>

static const ebb_backend_ops_t *const ops = &ebb_cpu_ops;

/* A context of instruction set 0, 1 or 2; NULL if this CPU lacks it. */
static inline ebb_exec_t *exec_of(int isa)
{
    static const char *const names[] = {"scalar", "avx2", "avx512"};
    ebb_exec_t *x = NULL;
    setenv("EBB_ISA", names[isa], 1);
    if (ops->exec_create(NULL, &x) != EBB_OK) {
        print_message("[  SKIPPED ] %s: %s\n", names[isa], ebb_error()->message);
        ebb_error_clear();
    }
    unsetenv("EBB_ISA");
    return x;
}

#define EACH_ISA(x)                                                                                                    \
    for (int isa_ = 0; isa_ < 3; isa_++)                                                                               \
        for (ebb_exec_t *x = exec_of(isa_); x; ops->exec_destroy(x), x = NULL)

static uint64_t draws;

static inline float uniform(float lo, float hi)
{
    return lo + (hi - lo) * ebb_rng_uniform(7, EBB_RNG_TEST, draws++, 0);
}

static inline int64_t below(int64_t n)
{
    return (int64_t)(ebb_rng_u64(7, EBB_RNG_TEST, draws++, 1) % (uint64_t)n);
}

/* Allocated without alignment beyond malloc's, so that sanitizers see every byte past the end. */
static inline float *random_floats(int64_t n, float size)
{
    float *p = malloc((size_t)(n > 0 ? n : 1) * sizeof *p);
    for (int64_t i = 0; i < n; i++)
        p[i] = uniform(-size, size);
    return p;
}

static inline float *poisoned(int64_t n)
{
    float *p = malloc((size_t)(n > 0 ? n : 1) * sizeof *p);
    for (int64_t i = 0; i < n; i++)
        p[i] = NAN;
    return p;
}

static inline float *copied(const float *a, int64_t n)
{
    float *p = malloc((size_t)(n > 0 ? n : 1) * sizeof *p);
    memcpy(p, a, (size_t)n * sizeof *p);
    return p;
}

/* |got - want| <= tolerance * (size + |want|) for all. */
static inline void assert_near(const char *what, int64_t n, const float *got, const double *want, double size,
                               double tolerance)
{
    for (int64_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - want[i]) <= tolerance * (size + fabs(want[i]))))
            fail_msg("%s[%lld] is %.9g, wanted %.9g", what, (long long)i, (double)got[i], want[i]);
}

/* A random sparse matrix: row r has `per_row` entries, none, one or many; row pointers begin above 0. */
typedef struct sparse {
    ebb_csr_t X;
    int64_t *rowptr;
    int32_t *col;
    float *val;
} sparse_t;

static inline sparse_t random_sparse(int64_t rows, int64_t cols, int64_t most)
{
    enum { OFFSET = 3 };
    sparse_t s;
    int64_t room = OFFSET + rows * most;
    s.rowptr = malloc((size_t)(rows + 1) * sizeof *s.rowptr);
    s.col = malloc((size_t)room * sizeof *s.col);
    s.val = malloc((size_t)room * sizeof *s.val);
    for (int64_t j = 0; j < OFFSET; j++) { /* belongs to nobody */
        s.col[j] = -1;
        s.val[j] = NAN;
    }
    s.rowptr[0] = OFFSET;
    for (int64_t r = 0; r < rows; r++) {
        int64_t n = r % 5 == 1 ? 0 : r % 5 == 2 ? 1 : 1 + below(most < cols ? most : cols), at = s.rowptr[r];
        int64_t step = n > 0 ? cols / n : 1, first = below(step);
        for (int64_t j = 0; j < n; j++) { /* distinct columns, descending in every other row */
            int64_t c = first + j * step;
            s.col[at + (r % 2 ? n - 1 - j : j)] = (int32_t)c;
            s.val[at + (r % 2 ? n - 1 - j : j)] = uniform(-2, 2);
        }
        s.rowptr[r + 1] = at + n;
    }
    s.X = (ebb_csr_t){rows, cols, s.rowptr, s.col, s.val, s.rowptr[rows] - OFFSET};
    return s;
}

static inline void free_sparse(sparse_t *s)
{
    free(s->rowptr);
    free(s->col);
    free(s->val);
}

#endif
