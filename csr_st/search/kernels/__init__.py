"""Loops compiled by numba; only `csr_st.search.kernels.loading` imports them."""
