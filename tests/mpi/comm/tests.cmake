ebb_mpi_test(comm mpi RANKS 1 2 3 4)
