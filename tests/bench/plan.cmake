ebb_bench(plan LIBS ebb_plan)
