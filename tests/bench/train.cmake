ebb_bench(steps LIBS ebb_train)
