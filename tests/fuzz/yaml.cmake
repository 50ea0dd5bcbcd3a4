add_executable(fuzz_yaml fuzz/fuzz_yaml.c)
target_link_libraries(fuzz_yaml ebb_base -fsanitize=fuzzer)
target_compile_options(fuzz_yaml PRIVATE -fsanitize=fuzzer)
