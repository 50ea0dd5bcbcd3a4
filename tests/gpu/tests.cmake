# The CUDA backend's operations beside the CPU's: on a GPU where there is one, and always as loops on the host.
add_executable(gputest_ops gpu/test_ops.c)
set_target_properties(gputest_ops PROPERTIES ENABLE_EXPORTS ON) # backends meet one copy of the error record
target_include_directories(gputest_ops PRIVATE support)
target_link_libraries(gputest_ops PRIVATE ebb_compute cmocka ${CMAKE_DL_LIBS})
add_test(NAME gpu.ops COMMAND gputest_ops cuda)
set_tests_properties(gpu.ops PROPERTIES LABELS gpu TIMEOUT 600 SKIP_RETURN_CODE 77)
if(TARGET ebb_cuda)
  set_tests_properties(gpu.ops PROPERTIES ENVIRONMENT "EBB_BACKEND_PATH=$<TARGET_FILE_DIR:ebb_cuda>")
endif()

# The double: the backend's own files as C++, on doubles of CUDA's runtime and libraries. Without sanitisers, since its
# device memory is poisoned for the rest of the program.
include(CheckLanguage)
check_language(CXX)
if(CMAKE_CXX_COMPILER)
  enable_language(CXX)
  set(kernels ${PROJECT_SOURCE_DIR}/src/compute/cuda)
  set(sources ${kernels}/device.cu ${kernels}/dense.cu ${kernels}/gemm.cu ${kernels}/graph.cu ${kernels}/loss.cu ${kernels}/rows.cu ${kernels}/sparse.cu ${kernels}/update.cu)
  set_source_files_properties(${sources} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-xc++")
  add_library(ebb_cuda_double MODULE ${sources} support/cuda_double/blas.cc support/cuda_double/double.cc)
  target_include_directories(ebb_cuda_double PRIVATE support/cuda_double ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
  target_compile_features(ebb_cuda_double PRIVATE cxx_std_17)
  target_compile_definitions(ebb_cuda_double PRIVATE EBB_CUDA_DOUBLE EBB_CUDA_NAME="cuda_double" _GNU_SOURCE)
  target_compile_options(ebb_cuda_double PRIVATE -O2 -ffp-contract=off -fno-tree-loop-distribute-patterns -Wall -Wextra
    -Wno-unused-parameter $<$<BOOL:${EBB_WERROR}>:-Werror>)
  set_target_properties(ebb_cuda_double PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/doubles)
  add_test(NAME gpu.double.ops COMMAND gputest_ops cuda_double)
  add_dependencies(gputest_ops ebb_cuda_double)
  set_tests_properties(gpu.double.ops PROPERTIES LABELS gpu TIMEOUT 600
    ENVIRONMENT "EBB_BACKEND_PATH=${CMAKE_CURRENT_BINARY_DIR}/doubles")
endif()

# The NCCL wire on a double of NCCL: calls, order, errors and standstill, on 1 to 4 ranks. That through host memory.
if(TARGET ebb_cuda_double)
  add_library(ebb_nccl_double MODULE ${PROJECT_SOURCE_DIR}/src/comm/nccl/nccl.c support/nccl_double/double.c support/cuda_double/double.cc)
  target_include_directories(ebb_nccl_double PRIVATE support/nccl_double support/cuda_double ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
  target_compile_definitions(ebb_nccl_double PRIVATE EBB_CUDA_DOUBLE _GNU_SOURCE)
  target_compile_features(ebb_nccl_double PRIVATE cxx_std_17)
  target_compile_options(ebb_nccl_double PRIVATE -O2 -Wall -Wextra -Wno-unused-parameter
    $<$<OR:$<COMPILE_LANG_AND_ID:C,GNU>,$<COMPILE_LANG_AND_ID:CXX,GNU>>:-fno-tree-loop-distribute-patterns>
    $<$<BOOL:${EBB_WERROR}>:-Werror>)
  target_link_libraries(ebb_nccl_double PRIVATE MPI::MPI_C)
  set_target_properties(ebb_nccl_double PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/doubles)
  add_executable(mpitest_wire mpi/wire/test_wire.c)
  set_target_properties(mpitest_wire PROPERTIES ENABLE_EXPORTS ON)
  target_include_directories(mpitest_wire PRIVATE support)
  target_link_libraries(mpitest_wire PRIVATE -Wl,--whole-archive ebb_comm -Wl,--no-whole-archive ebb_sync ebb_compute ebb_base cmocka)
  add_dependencies(mpitest_wire ebb_nccl_double ebb_cuda_double)
  function(ebb_wire_test name ranks)
    add_test(NAME ${name}.${ranks}
      COMMAND ${PROJECT_SOURCE_DIR}/tests/support/mpirun ${ranks} $<TARGET_FILE:mpitest_wire> ${ARGN})
    set_tests_properties(${name}.${ranks} PROPERTIES LABELS "gpu;mpi" TIMEOUT 600 PROCESSORS 2
      ENVIRONMENT "EBB_BACKEND_PATH=${CMAKE_CURRENT_BINARY_DIR}/doubles")
  endfunction()
  foreach(ranks 1 2 3 4)
    ebb_wire_test(gpu.double.nccl.calls ${ranks})
    ebb_wire_test(mpi.wire.staged ${ranks} staged)
  endforeach()
  ebb_wire_test(gpu.double.nccl.error 3 error)
  ebb_wire_test(gpu.double.nccl.later_error 2 async)
  ebb_wire_test(gpu.double.nccl.standstill 4 hang)
  ebb_wire_test(gpu.double.nccl.given_up 3 close)
  ebb_wire_test(gpu.double.nccl.no_start 2 error 0)
  ebb_wire_test(gpu.double.nccl.start_hangs 2 hang 0)
endif()

# Whole runs: equal bits over ranks that share the device, over threads, and over stopping and resuming.
foreach(model sparse-mlp sparse-unclipped dense-mlp)
  set(bits ${Python3_EXECUTABLE} ${PROJECT_SOURCE_DIR}/tests/determinism/bits.py --models ${model})
  if(TARGET ebb_cuda_double)
    add_test(NAME gpu.double.bits.${model} COMMAND ${bits} --backend cuda_double --steps 60 --ranks 1,3 --threads 1,2)
    set_tests_properties(gpu.double.bits.${model} PROPERTIES LABELS gpu TIMEOUT 600 PROCESSORS 2
      ENVIRONMENT "EBB=$<TARGET_FILE:ebb_command>;EBB_BACKEND_PATH=${CMAKE_CURRENT_BINARY_DIR}/doubles")
  endif()
  if(TARGET ebb_cuda)
    add_test(NAME gpu.bits.${model} COMMAND ${bits} --backend cuda --ranks 1,2,4 --threads 1,2)
    set_tests_properties(gpu.bits.${model} PROPERTIES LABELS gpu TIMEOUT 900 PROCESSORS 2 SKIP_RETURN_CODE 77
      ENVIRONMENT "EBB=$<TARGET_FILE:ebb_command>;EBB_BACKEND_PATH=$<TARGET_FILE_DIR:ebb_cuda>")
  endif()
endforeach()

set(bits ${Python3_EXECUTABLE} ${PROJECT_SOURCE_DIR}/tests/determinism/bits.py --models dense-wide-mlp --precision bf16)
if(TARGET ebb_cuda_double)
  add_test(NAME gpu.double.bits.bf16 COMMAND ${bits} --backend cuda_double --steps 40 --ranks 3 --threads 2)
  set_tests_properties(gpu.double.bits.bf16 PROPERTIES LABELS gpu TIMEOUT 600 PROCESSORS 2
    ENVIRONMENT "EBB=$<TARGET_FILE:ebb_command>;EBB_BACKEND_PATH=${CMAKE_CURRENT_BINARY_DIR}/doubles")
endif()
if(TARGET ebb_cuda)
  add_test(NAME gpu.bits.bf16 COMMAND ${bits} --backend cuda --ranks 1,2,4 --threads 1,2)
  set_tests_properties(gpu.bits.bf16 PROPERTIES LABELS gpu TIMEOUT 900 PROCESSORS 2 SKIP_RETURN_CODE 77
    ENVIRONMENT "EBB=$<TARGET_FILE:ebb_command>;EBB_BACKEND_PATH=$<TARGET_FILE_DIR:ebb_cuda>")
endif()

# Models of every kind of first layer, as `ebb check-model` looks at them.
if(TARGET ebb_cuda_double)
  add_test(NAME gpu.double.models COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/check_models.py cuda_double)
  set_tests_properties(gpu.double.models PROPERTIES LABELS gpu TIMEOUT 600
    ENVIRONMENT "EBB=$<TARGET_FILE:ebb_command>;EBB_BACKEND_PATH=${CMAKE_CURRENT_BINARY_DIR}/doubles")
endif()
if(TARGET ebb_cuda)
  add_test(NAME gpu.models COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/check_models.py cuda)
  set_tests_properties(gpu.models PROPERTIES LABELS gpu TIMEOUT 600 SKIP_RETURN_CODE 77
    ENVIRONMENT "EBB=$<TARGET_FILE:ebb_command>;EBB_BACKEND_PATH=$<TARGET_FILE_DIR:ebb_cuda>")
endif()

# Exchanges beside passes.
if(TARGET ebb_nccl_double)
  add_test(NAME gpu.double.overlap COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/overlap.py)
  set_tests_properties(gpu.double.overlap PROPERTIES LABELS gpu TIMEOUT 900 PROCESSORS 2
    ENVIRONMENT "EBB=$<TARGET_FILE:ebb_command>;EBB_BACKEND_PATH=${CMAKE_CURRENT_BINARY_DIR}/doubles")
endif()

# What goes wrong, and which GPUs are taken.
if(TARGET ebb_cuda_double)
  add_test(NAME gpu.double.conditions COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/conditions.py)
  set_tests_properties(gpu.double.conditions PROPERTIES LABELS gpu TIMEOUT 600 PROCESSORS 2
    ENVIRONMENT "EBB=$<TARGET_FILE:ebb_command>;EBB_BACKEND_PATH=${CMAKE_CURRENT_BINARY_DIR}/doubles")
endif()
