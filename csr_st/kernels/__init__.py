"""Loops of a training step compiled by numba; only `csr_st.sparse_autograd` imports them."""
