/* The kernels compiled for AVX2. */
#define ISA_NAME avx2
#define ISA_AVX2 1
#include "compute/cpu/isa.inc"
