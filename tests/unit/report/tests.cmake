ebb_unit_test(report record)
