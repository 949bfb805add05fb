"""Vector databases behind one contract: `csr_st.search.engines.base.Engine`, one file an engine."""
