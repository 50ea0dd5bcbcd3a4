ebb_unit_test(ledger ledger)
