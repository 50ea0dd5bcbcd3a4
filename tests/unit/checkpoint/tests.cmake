ebb_unit_test(checkpoint file)
ebb_unit_test(checkpoint saver)
