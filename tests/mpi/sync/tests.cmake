ebb_mpi_test(sync sync RANKS 1 2 3 4 5 8)
