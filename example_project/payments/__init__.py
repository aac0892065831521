"""A payment that waits for the bank: a promise."""
