"""Codes and indexes as data sets on the Hugging Face Hub, published and loaded.

`csr_st.publishing` publishes models. Here, `repository` writes or reads one commit; `codes` and
`code_tables` turn a `CodeStore` into Parquet and back, `index` publishes the file of an index;
`published_codes` and `published_index` are the mixins with the public methods.
"""
