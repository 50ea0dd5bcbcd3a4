add_executable(fuzz_shard fuzz/fuzz_shard.c)
target_link_libraries(fuzz_shard ebb_shard -fsanitize=fuzzer)
target_compile_options(fuzz_shard PRIVATE -fsanitize=fuzzer)
