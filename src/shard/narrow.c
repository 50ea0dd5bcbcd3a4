/* Back to the types in which shards hold values and columns, of what readers have widened: nothing is lost. */
#include "shard/layout.h"
#include "shard/stored.h"

#include <string.h>

#define NARROW(type, from)                                                                                             \
    for (int64_t i = 0; i < n; i++)                                                                                    \
    ((type *)out)[i] = (type)(from)

void ebb_narrow_values(ebb_value_type_t type, const float *in, int64_t n, void *out)
{
    switch (type) {
    case EBB_F32: memcpy(out, in, (size_t)n * sizeof *in); break;
    case EBB_F16: NARROW(uint16_t, ebb_float_to_half(in[i])); break;
    case EBB_U8: NARROW(uint8_t, in[i]); break;
    case EBB_I8: NARROW(int8_t, in[i]); break;
    case EBB_U16: NARROW(uint16_t, in[i]); break;
    case EBB_I16: NARROW(int16_t, in[i]); break;
    case EBB_I32: NARROW(int32_t, in[i]); break;
    }
}

void ebb_narrow_columns(ebb_value_type_t type, const int32_t *in, int64_t n, void *out)
{
    if (type == EBB_U16)
        NARROW(uint16_t, in[i]);
    else
        memcpy(out, in, (size_t)n * sizeof *in);
}
