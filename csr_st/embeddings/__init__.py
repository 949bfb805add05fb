"""Vectors embedded once: written in shards, mapped back, read at random.

Reading order: `store` (what the user holds), `batching` (the order of training), `opening` and
`parts` (how vectors are mapped), `writing` (how they are embedded), `examples`, `inputs` and
`contents` (the data), `encoder` and `identity` (the model), `manifest`, `shards`, `lock` and
`processes` (what writing stands on).
"""

from csr_st.embeddings.manifest import StoreInfo
from csr_st.embeddings.store import EmbeddingStore

__all__ = ["EmbeddingStore", "StoreInfo"]
