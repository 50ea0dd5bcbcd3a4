ebb_bench(shard LIBS ebb_shard)
