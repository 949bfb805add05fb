"""Loops compiled by numba, imported through `csr_st.search.kernels.importing`.

numba takes arrays, not objects: what belongs together is passed as a tuple of arrays.
"""
