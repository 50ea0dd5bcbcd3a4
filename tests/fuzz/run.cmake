add_executable(fuzz_run fuzz/fuzz_run.c)
target_link_libraries(fuzz_run ebb_train -fsanitize=fuzzer)
target_compile_options(fuzz_run PRIVATE -fsanitize=fuzzer)
