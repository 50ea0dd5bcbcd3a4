ebb_unit_test(loader order)
