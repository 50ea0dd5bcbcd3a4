ebb_unit_test(loader order)
ebb_unit_test(loader transform)
ebb_unit_test(loader loader)
ebb_unit_test(loader shards)
