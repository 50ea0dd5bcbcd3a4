/* The kernels compiled for AVX512. */
#define ISA_NAME   avx512
#define ISA_AVX512 1
#include "compute/cpu/isa.inc"
