ebb_unit_test(jobs queue)
ebb_unit_test(jobs decide)
