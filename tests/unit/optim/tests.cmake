ebb_unit_test(optim schedule)
ebb_unit_test(optim optim)
