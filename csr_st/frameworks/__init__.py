"""A `csr_st.SparseIndex` in the frameworks that people build search with: one file each.

`documents` has what all of them share, documents by id and the index of their codes; `coding` makes
codes of texts and of dense vectors; `folder` writes and reads both. Import the file of a framework
by its name, such as ``csr_st.frameworks.langchain``: nothing here imports one for you.
"""
