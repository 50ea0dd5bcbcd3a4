ebb_unit_test(watch judge)
ebb_unit_test(watch kin)
ebb_unit_test(watch self)
