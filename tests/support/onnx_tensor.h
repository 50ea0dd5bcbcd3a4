/* The part of ONNX's TensorProto (protobuf) that its node tests use: dims, data_type, raw_data. */
#ifndef EBB_TESTS_ONNX_TENSOR_H
#define EBB_TESTS_ONNX_TENSOR_H

#include "support.h"

typedef struct onnx_tensor {
    int n_dims;
    int64_t dim[8];
    int64_t type; /* 1: float32, 7: int64 */
    int64_t n;    /* elements */
    union {
        float f[4096];
        int64_t i[2048];
    };
} onnx_tensor_t;

static inline uint64_t onnx_varint(const unsigned char **p, const unsigned char *end)
{
    uint64_t v = 0;
    for (int shift = 0; *p < end && shift < 64; shift += 7) {
        unsigned char byte = *(*p)++;
        v |= (uint64_t)(byte & 127) << shift;
        if (byte < 128)
            break;
    }
    return v;
}

/* Read tests/data/node-like folder/test_data_set_0/file; false if it is not there. */
static inline bool onnx_read(const char *test, const char *file, onnx_tensor_t *t)
{
    char name[256];
    unsigned char bytes[16384 + 256];
    snprintf(name, sizeof name, "onnx-node/%s/test_data_set_0/%s.pb", test, file);
    const char *path = test_shared(name);
    FILE *f = path ? fopen(path, "rb") : NULL;
    if (!f)
        return false;
    size_t n = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    memset(t, 0, sizeof *t);
    const unsigned char *p = bytes, *end = bytes + n;
    while (p < end) {
        uint64_t tag = onnx_varint(&p, end), value = onnx_varint(&p, end); /* value, or length of what follows */
        if ((tag & 7) == 0 && tag >> 3 == 1)
            t->dim[t->n_dims++] = (int64_t)value;
        else if ((tag & 7) == 0 && tag >> 3 == 2)
            t->type = (int64_t)value;
        else if ((tag & 7) == 2 && tag >> 3 == 9) {
            assert_true(value <= sizeof t->f && value <= (uint64_t)(end - p));
            memcpy(t->f, p, value);
        }
        if ((tag & 7) == 2)
            p += value;
    }
    t->n = 1;
    for (int i = 0; i < t->n_dims; i++)
        t->n *= t->dim[i];
    return true;
}

#endif
