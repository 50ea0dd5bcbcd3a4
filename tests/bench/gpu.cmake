# bench_gpu: where nvcc is; tests/bench/bench_gpu.py calls it.
if(TARGET ebb_cuda)
  find_package(CUDAToolkit REQUIRED)
  ebb_bench(gpu LIBS ebb_compute CUDA::cudart_static CUDA::cublas CUDA::cusparse)
  set_target_properties(bench_gpu PROPERTIES ENABLE_EXPORTS ON)
endif()
