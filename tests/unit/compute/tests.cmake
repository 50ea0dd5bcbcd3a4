ebb_unit_test(compute sparse)
ebb_unit_test(compute dense)
ebb_unit_test(compute loss)
