/* The canonical tree: node [lo, hi) has children [lo, mid) and [mid, hi), mid = lo + (hi - lo + 1) / 2. */
#include "sync/tree.h"
#include "base/alloc.h"

static int32_t grow_tree(ebb_tree_t *tree, int32_t *next, int32_t lo, int32_t hi, int32_t parent, int depth)
{
    int32_t me = (*next)++;
    tree->depth = depth > tree->depth ? depth : tree->depth;
    tree->node[me] = (ebb_node_t){.lo = lo, .hi = hi, .left = -1, .right = -1, .parent = parent};
    if (hi - lo == 1) {
        tree->leaf[lo] = me;
        return me;
    }
    int32_t mid = lo + (hi - lo + 1) / 2;
    int32_t left = grow_tree(tree, next, lo, mid, me, depth + 1);
    int32_t right = grow_tree(tree, next, mid, hi, me, depth + 1);
    tree->node[me].left = left;
    tree->node[me].right = right;
    return me;
}

ebb_status_t ebb_tree_init(ebb_tree_t *tree, int32_t lanes)
{
    int32_t next = 0;
    *tree = (ebb_tree_t){.lanes = lanes};
    EBB_TRY(EBB_NEW_ARRAY("lane tree", 2 * (int64_t)lanes - 1, &tree->node));
    EBB_TRY(EBB_NEW_ARRAY("lane tree", lanes, &tree->leaf));
    grow_tree(tree, &next, 0, lanes, -1, 1);
    return EBB_OK;
}

void ebb_tree_cleanup(ebb_tree_t *tree)
{
    ebb_free(tree->node);
    ebb_free(tree->leaf);
    *tree = (ebb_tree_t){0};
}

static int list_pieces(const ebb_tree_t *tree, int32_t node, int32_t lo, int32_t hi, int n, int32_t *node_p)
{
    const ebb_node_t *me = &tree->node[node];
    if (me->hi <= lo || me->lo >= hi)
        return n;
    if (me->lo >= lo && me->hi <= hi) {
        if (node_p)
            node_p[n] = node;
        return n + 1;
    }
    n = list_pieces(tree, me->left, lo, hi, n, node_p);
    return list_pieces(tree, me->right, lo, hi, n, node_p);
}

int ebb_tree_pieces(const ebb_tree_t *tree, int32_t lo, int32_t hi, int32_t *node_p)
{
    return list_pieces(tree, 0, lo, hi, 0, node_p);
}

int ebb_tree_meet(const ebb_tree_t *tree, int32_t lane_a, int32_t lane_b)
{
    int depth = 0;
    int32_t node = 0;
    while (lane_a != lane_b) {
        const ebb_node_t *left = &tree->node[tree->node[node].left];
        if ((lane_a < left->hi) != (lane_b < left->hi))
            break;
        node = lane_a < left->hi ? tree->node[node].left : tree->node[node].right;
        depth++;
        if (tree->node[node].hi - tree->node[node].lo == 1)
            break;
    }
    return depth;
}

static bool any_word(const uint64_t *word, int64_t n)
{
    uint64_t any = 0;
    for (int64_t i = 0; i < n; i++)
        any |= word[i];
    return any != 0;
}

static ebb_status_t sum_below(const ebb_tree_sum_t *s, int32_t node, float *free_slot, const float **out_p)
{
    const ebb_view_t *view = &s->view[node];
    const ebb_node_t *me = &s->tree->node[node];
    const float *left, *right;
    *out_p = NULL;
    if (view->p) {
        if (!view->touched || any_word(view->touched + s->word0, s->words))
            *out_p = view->p + (s->at - view->origin);
        return EBB_OK;
    }
    if (me->left < 0)
        return EBB_OK;
    EBB_TRY(sum_below(s, me->left, free_slot, &left));
    EBB_TRY(sum_below(s, me->right, left == free_slot ? free_slot + s->stride : free_slot, &right));
    if (!left || !right) {
        *out_p = left ? left : right;
        return EBB_OK;
    }
    *out_p = free_slot;
    return s->ops->add(s->exec, s->n, left, right, free_slot);
}

ebb_status_t ebb_tree_sum(const ebb_tree_sum_t *sum, int32_t node, const float **out_p)
{
    return sum_below(sum, node, sum->scratch, out_p);
}
