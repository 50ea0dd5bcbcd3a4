add_executable(fuzz_svmlight fuzz/fuzz_svmlight.c)
target_link_libraries(fuzz_svmlight ebb_shard -fsanitize=fuzzer)
target_compile_options(fuzz_svmlight PRIVATE -fsanitize=fuzzer)
