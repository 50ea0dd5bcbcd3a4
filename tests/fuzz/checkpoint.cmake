add_executable(fuzz_checkpoint fuzz/fuzz_checkpoint.c)
target_link_libraries(fuzz_checkpoint ebb_checkpoint -fsanitize=fuzzer)
target_compile_options(fuzz_checkpoint PRIVATE -fsanitize=fuzzer)
