"""Vector databases behind one contract, see `csr_st.search.engines.base`; one file per engine."""
