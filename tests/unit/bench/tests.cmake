ebb_unit_test(bench loader)
