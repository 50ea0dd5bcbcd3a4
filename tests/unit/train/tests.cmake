ebb_unit_test(train config)
