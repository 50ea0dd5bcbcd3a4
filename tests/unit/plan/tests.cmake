ebb_unit_test(plan plan)
