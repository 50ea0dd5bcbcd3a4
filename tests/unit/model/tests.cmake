ebb_unit_test(model check)
