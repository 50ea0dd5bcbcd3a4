ebb_unit_test(comm self)
