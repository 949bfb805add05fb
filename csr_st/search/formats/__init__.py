"""Codes in the formats of other search engines: documents, schemas and queries, one file an engine.

For engines that have a loader of their own, or that we have no client for; those with one are in
`csr_st.search.engines`. Each file has functions of these names where the engine has the thing:

- ``documents``: an iterator over what the engine loads, of `SparseCodes`, of the shards of a
  `CodeStore` one after another, or of the sparse vectors of `HybridVectors` (not for LanceDB, whose
  tables have codes only); ids are read at once, payloads as they are written;
- ``mapping`` or ``schema``: what the engine needs to know of the field;
- ``queries``: the body of each query; those of Elasticsearch and OpenSearch take a ``filter``.

They are functions and not methods of `SparseCodes`: codes know nothing of search. Codes are scaled
to unit norm, sparse vectors are taken as they are, as engines do. Latent 17 is the token "17".
"""
