ebb_unit_test(compute sparse)
