add_executable(fuzz_idx fuzz/fuzz_idx.c)
target_link_libraries(fuzz_idx ebb_shard -fsanitize=fuzzer)
target_compile_options(fuzz_idx PRIVATE -fsanitize=fuzzer)
