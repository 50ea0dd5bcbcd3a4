ebb_unit_test(watch judge)
