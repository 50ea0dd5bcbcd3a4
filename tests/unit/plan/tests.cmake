ebb_unit_test(plan plan)
ebb_unit_test(plan track)
