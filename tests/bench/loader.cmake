add_executable(bench_loader bench/bench_loader.c)
target_link_libraries(bench_loader PRIVATE ebb_loader)
ebb_bench(shuffle LIBS ebb_loader m)
