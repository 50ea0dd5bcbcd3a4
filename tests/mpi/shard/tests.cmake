ebb_mpi_test(shard pack RANKS 1 2 3)
