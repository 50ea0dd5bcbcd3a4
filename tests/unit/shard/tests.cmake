ebb_unit_test(shard roundtrip)
ebb_unit_test(shard foreign)
ebb_unit_test(shard pack)
