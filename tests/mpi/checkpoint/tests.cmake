ebb_mpi_test(checkpoint ranks RANKS 1 2 3 4)
