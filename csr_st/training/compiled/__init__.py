"""The training step on the CPU in loops that numba compiles; torch's own way is the reference."""
