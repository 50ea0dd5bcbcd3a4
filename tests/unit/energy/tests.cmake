ebb_unit_test(energy meter)
