/* Back to the types in which shards hold values and columns, of what readers have widened: nothing is lost. */
#include "shard/stored.h"

#include <string.h>

/* Of a float that is a half: what is cut off is 0. Of a NaN one bit is kept at least, the quiet one. */
static uint16_t half_of(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, 4);
    uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude >= 0x7f800000)
        return (uint16_t)(sign | 0x7c00 | (magnitude >> 13 & 0x3ff));
    if (magnitude >= 0x38800000) /* 2^-14: normal */
        return (uint16_t)(sign | ((magnitude - 0x38000000) >> 13));
    return (uint16_t)(sign | (uint32_t)((f < 0 ? -f : f) * 0x1p24f));
}

#define NARROW(type, from)                                                                                             \
    for (int64_t i = 0; i < n; i++)                                                                                    \
    ((type *)out)[i] = (type)(from)

void ebb_narrow_values(ebb_value_type_t type, const float *in, int64_t n, void *out)
{
    switch (type) {
    case EBB_F32: memcpy(out, in, (size_t)n * sizeof *in); break;
    case EBB_F16: NARROW(uint16_t, half_of(in[i])); break;
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
