add_executable(fuzz_npy fuzz/fuzz_npy.c)
target_link_libraries(fuzz_npy ebb_shard -fsanitize=fuzzer)
target_compile_options(fuzz_npy PRIVATE -fsanitize=fuzzer)
