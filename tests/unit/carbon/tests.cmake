ebb_unit_test(carbon series)
