/* The nodes of a Slurm allocation, and which of them still answer. */
#ifndef EBB_SUPERVISE_NODES_H
#define EBB_SUPERVISE_NODES_H

#include "base/text.h"

typedef struct ebb_node {
    char name[64];
    int slots; /* tasks that the allocation has there */
    bool gone;
} ebb_node_t;

typedef struct ebb_nodes {
    ebb_node_t *node; /* owned */
    int64_t n, capacity;
    int slots; /* of those that are not gone */
} ebb_nodes_t;

/* Those of the allocation of several nodes that this process is in; none elsewhere, and where Slurm does not tell. */
void ebb_nodes_find(ebb_nodes_t *nodes);
void ebb_nodes_free(ebb_nodes_t *nodes);
/* Ask each by an empty job step. Those that do not answer within seconds are gone, if the node of this process does:
 * what fails here as well says nothing about others. Adds the names of those that are newly gone to `lost`: " n2 n3".
 */
void ebb_nodes_look(ebb_nodes_t *nodes, ebb_text_t *lost);
/* "n1:2,n3:2", for mpirun's --host; nothing if none is gone. */
void ebb_nodes_hosts(const ebb_nodes_t *nodes, ebb_text_t *hosts);

#endif
