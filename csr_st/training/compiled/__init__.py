"""Loops of a training step compiled by numba, for `csr_st.sparse_autograd`."""
