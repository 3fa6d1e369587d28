"""Which run, step and branch a call belongs to."""
