/* The canonical tree over lanes, and sums along it. */
#ifndef EBB_SYNC_TREE_H
#define EBB_SYNC_TREE_H

#include <ebb/base.h>
#include <ebb/compute.h>

typedef struct ebb_node {
    int32_t lo, hi;              /* lanes [lo, hi) */
    int32_t left, right, parent; /* -1: none */
} ebb_node_t;

typedef struct ebb_tree {
    int32_t lanes;
    int depth;        /* nodes on the longest way down */
    ebb_node_t *node; /* (2 lanes - 1); node 0 is the root */
    int32_t *leaf;    /* (lanes): node of each lane */
} ebb_tree_t;

ebb_status_t ebb_tree_init(ebb_tree_t *tree, int32_t lanes) EBB_MUST_CHECK;
void ebb_tree_cleanup(ebb_tree_t *tree);
/* Maximal nodes within lanes [lo, hi), in lane order; returns how many (node_p may be NULL to count). */
int ebb_tree_pieces(const ebb_tree_t *tree, int32_t lo, int32_t hi, int32_t *node_p);
/* Depth of the lowest node that holds both lanes. */
int ebb_tree_meet(const ebb_tree_t *tree, int32_t lane_a, int32_t lane_b);

/* What is known of one node's sum: floats, the first of which is number `origin`. p NULL: ask its children. */
typedef struct ebb_view {
    const float *p;
    int64_t origin;
    const uint64_t
        *touched; /* tables: a bit per row, from word 0 at origin; words that are 0 stand for zeros. NULL: no bitmap */
} ebb_view_t;

typedef struct ebb_tree_sum {
    const ebb_tree_t *tree;
    const ebb_view_t *view; /* (nodes) */
    const ebb_backend_ops_t *ops;
    ebb_exec_t *exec;
    float *scratch; /* (depth + 1, stride) */
    int64_t stride;
    int64_t at, n;        /* floats to sum */
    int64_t word0, words; /* their words, for views with bitmaps */
} ebb_tree_sum_t;

/* Sum of [at, at + n) below a node: a view's own floats, or in scratch; NULL where there is nothing. */
ebb_status_t ebb_tree_sum(const ebb_tree_sum_t *sum, int32_t node, const float **out_p);

#endif
