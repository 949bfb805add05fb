"""Loops compiled by numba; only `csr_st.search.compiled` imports them."""
