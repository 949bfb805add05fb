"""Loops compiled by numba, which takes arrays: what belongs together is a tuple of arrays."""
