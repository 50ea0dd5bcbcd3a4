ebb_unit_test(checkpoint file)
