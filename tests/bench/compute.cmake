ebb_bench(gemm LIBS ebb_compute)
ebb_bench(kernels LIBS ebb_compute)
