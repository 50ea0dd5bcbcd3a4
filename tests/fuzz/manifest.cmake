add_executable(fuzz_manifest fuzz/fuzz_manifest.c)
target_link_libraries(fuzz_manifest ebb_shard -fsanitize=fuzzer)
target_compile_options(fuzz_manifest PRIVATE -fsanitize=fuzzer)
