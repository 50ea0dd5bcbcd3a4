ebb_unit_test(shard roundtrip)
