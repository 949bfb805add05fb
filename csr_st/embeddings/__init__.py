"""Vectors embedded once: written in shards, memory-mapped, read in any order.

Reading order: `store` (the public class), `batching` (the order of training), `matrix`,
`directory` and `manifest` (the files of a store), `formats`, `shards`, `vector_file`,
`array_files` and `table_files` (vectors from elsewhere), `writing` (how a store is written, and
where a killed run resumes), `chunks` (the data), `encoder` and `identity` (the model), `joining`
(pairs of two stores), `token_store` and `token_encoder` (vectors of tokens).
"""

from csr_st.embeddings.manifest import StoreInfo
from csr_st.embeddings.store import EmbeddingStore
from csr_st.embeddings.token_store import TokenStore

__all__ = ["EmbeddingStore", "StoreInfo", "TokenStore"]
