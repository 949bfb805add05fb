"""Loops compiled by numba, imported through `csr_st.search.kernels.loading`.

numba takes arrays, not objects, so the loops have many arguments.
"""
