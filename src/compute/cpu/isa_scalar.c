/* The kernels compiled for the baseline CPU (any CPU at all). */
#define ISA_NAME scalar
#include "compute/cpu/isa.inc"
