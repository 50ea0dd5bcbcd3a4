add_executable(fuzz_model fuzz/fuzz_model.c)
target_link_libraries(fuzz_model ebb_model -fsanitize=fuzzer)
target_compile_options(fuzz_model PRIVATE -fsanitize=fuzzer)
