add_executable(fuzz_csv fuzz/fuzz_csv.c)
target_link_libraries(fuzz_csv ebb_shard -fsanitize=fuzzer)
target_compile_options(fuzz_csv PRIVATE -fsanitize=fuzzer)
