add_executable(fuzz_deb822 fuzz/fuzz_deb822.c)
target_link_libraries(fuzz_deb822 ebb_shard -fsanitize=fuzzer)
target_compile_options(fuzz_deb822 PRIVATE -fsanitize=fuzzer)
