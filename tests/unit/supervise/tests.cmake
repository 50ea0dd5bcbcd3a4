ebb_unit_test(supervise parts)
