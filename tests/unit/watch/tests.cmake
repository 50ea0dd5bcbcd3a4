ebb_unit_test(watch judge)
ebb_unit_test(watch self)
