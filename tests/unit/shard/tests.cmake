ebb_unit_test(shard roundtrip)
ebb_unit_test(shard foreign)
