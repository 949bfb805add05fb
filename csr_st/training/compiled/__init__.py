"""The training step on the CPU in loops that numba compiles; the torch code is the reference."""
