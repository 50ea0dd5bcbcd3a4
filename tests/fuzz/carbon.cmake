add_executable(fuzz_carbon fuzz/fuzz_carbon.c)
target_link_libraries(fuzz_carbon ebb_carbon -fsanitize=fuzzer)
target_compile_options(fuzz_carbon PRIVATE -fsanitize=fuzzer)
