/* Types of elements. */
#ifndef EBB_SHARD_ELEM_H
#define EBB_SHARD_ELEM_H

#include <stddef.h>

/* Types of elements as stored; the numbers are part of the format. */
typedef enum ebb_elem {
    EBB_ELEM_U8,
    EBB_ELEM_I8,
    EBB_ELEM_U16,
    EBB_ELEM_I16,
    EBB_ELEM_U32,
    EBB_ELEM_I32,
    EBB_ELEM_U64,
    EBB_ELEM_I64,
    EBB_ELEM_F16,
    EBB_ELEM_F32,
    EBB_ELEM_F64,
    EBB_ELEMS
} ebb_elem_t;

size_t ebb_elem_size(ebb_elem_t elem);
const char *ebb_elem_name(ebb_elem_t elem);

#endif
