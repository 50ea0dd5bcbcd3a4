ebb_unit_test(jobs queue)
