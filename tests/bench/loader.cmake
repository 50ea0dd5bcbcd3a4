add_executable(make_data bench/make_data.c)
target_link_libraries(make_data PRIVATE ebb_shard m)
ebb_bench(shuffle LIBS ebb_loader m)
ebb_bench(h5dread LIBS ebb_shard)
