ebb_unit_test(base exact)
