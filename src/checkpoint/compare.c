/* Comparing two checkpoints' files array by array, bit by bit, in pieces of bounded size. One thread; not collective.
 * Both files' seals are checked before anything is compared.
 */
#include "checkpoint/internal.h"

#include "base/alloc.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

typedef struct side {
    const char *path;
    int fd;
    ebb_ckpt_index_t index;
    float *piece;
} side_t;

static const char *state_name(const side_t *s, const ebb_ckpt_array_t *array)
{
    return array->state < 0 ? NULL : s->index.state[array->state];
}

static bool same_name(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

/* The array of that state and name; the place where it is expected is tried first. */
static const ebb_ckpt_array_t *find(const side_t *s, const char *state, const char *name, int guess)
{
    int n = ebb_ckpt_arrays(&s->index);
    for (int i = 0; i < n; i++) {
        const ebb_ckpt_array_t *array = &s->index.array[(guess + i) % n];
        if (strcmp(array->name, name) == 0 && same_name(state_name(s, array), state))
            return array;
    }
    return NULL;
}

static void compare_piece(const side_t side[2], int64_t at, int64_t n, ebb_checkpoint_difference_t *d)
{
    for (int64_t i = 0; i < n; i++) {
        const float *x = &side[0].piece[i], *y = &side[1].piece[i];
        if (memcmp(x, y, sizeof *x) == 0)
            continue;
        double apart = fabs((double)*x - (double)*y);
        if (d->differing++ == 0) {
            d->first_row = (at + i) / d->cols[0];
            d->first_col = (at + i) % d->cols[0];
            d->first[0] = *x;
            d->first[1] = *y;
        }
        if (isnan(apart) || apart > d->largest)
            d->largest = apart;
    }
}

static ebb_status_t compare_values(const side_t side[2], const ebb_ckpt_array_t *const array[2], int64_t piece,
                                   ebb_checkpoint_difference_t *d)
{
    d->values = ebb_ckpt_floats(array[0]);
    for (int64_t at = 0; at < d->values; at += piece) {
        int64_t n = d->values - at < piece ? d->values - at : piece;
        for (int k = 0; k < 2; k++)
            EBB_TRY(ebb_ckpt_read(side[k].fd, side[k].path, array[k], at, n, side[k].piece));
        if (memcmp(side[0].piece, side[1].piece, (size_t)n * sizeof(float)) != 0)
            compare_piece(side, at, n, d);
    }
    return EBB_OK;
}

/* One array that is in at least one of the files; NULL: not in that one. */
static ebb_status_t compare_array(const side_t side[2], const ebb_ckpt_array_t *const array[2], const char *state,
                                  int64_t piece, ebb_checkpoint_report_t report, void *user)
{
    ebb_checkpoint_difference_t d = {.state = state, .name = array[array[0] ? 0 : 1]->name};
    for (int k = 0; k < 2; k++) {
        d.there[k] = array[k] != NULL;
        d.rows[k] = array[k] ? array[k]->rows : 0;
        d.cols[k] = array[k] ? array[k]->cols : 0;
    }
    bool comparable = array[0] && array[1] && d.rows[0] == d.rows[1] && d.cols[0] == d.cols[1];
    if (comparable)
        EBB_TRY(compare_values(side, array, piece, &d));
    if (!comparable || d.differing > 0)
        report(user, &d);
    return EBB_OK;
}

static ebb_status_t compare_all(side_t side[2], int64_t piece, ebb_checkpoint_report_t report, void *user)
{
    for (int i = 0; i < ebb_ckpt_arrays(&side[0].index); i++) {
        const ebb_ckpt_array_t *a = &side[0].index.array[i];
        const char *state = state_name(&side[0], a);
        const ebb_ckpt_array_t *both[2] = {a, find(&side[1], state, a->name, i)};
        EBB_TRY(compare_array(side, both, state, piece, report, user));
    }
    for (int i = 0; i < ebb_ckpt_arrays(&side[1].index); i++) {
        const ebb_ckpt_array_t *b = &side[1].index.array[i];
        const char *state = state_name(&side[1], b);
        const ebb_ckpt_array_t *both[2] = {NULL, b};
        if (!find(&side[0], state, b->name, i))
            EBB_TRY(compare_array(side, both, state, piece, report, user));
    }
    return EBB_OK;
}

ebb_status_t ebb_checkpoint_compare(const char *a, const char *b, ebb_checkpoint_report_t report, void *user)
{
    side_t side[2] = {{.path = a, .fd = -1}, {.path = b, .fd = -1}};
    int64_t piece = (int64_t)1 << 18;
    ebb_status_t status = EBB_OK;
    for (int k = 0; k < 2; k++) {
        EBB_TRY_GOTO(status, ebb_ckpt_open(side[k].path, &side[k].index, NULL, &side[k].fd), done);
        EBB_TRY_GOTO(status, EBB_NEW_ARRAY("checkpoint piece", piece, &side[k].piece), done);
    }
    status = compare_all(side, piece, report, user);
done:
    for (int k = 0; k < 2; k++) {
        if (side[k].fd >= 0)
            close(side[k].fd);
        ebb_free(side[k].piece);
        ebb_ckpt_index_destroy(&side[k].index);
    }
    return status;
}
