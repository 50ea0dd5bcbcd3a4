# Run by hand: tests/support/mpirun 2 build/release/tests/bench_sync [threads] [lanes] [rounds]
add_executable(bench_sync bench/bench_sync.c)
target_link_libraries(bench_sync PRIVATE ebb_sync ebb_compute)
