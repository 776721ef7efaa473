"""Frozen values with no I/O: what the rooms above hand to one another."""
