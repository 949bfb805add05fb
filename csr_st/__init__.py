"""Sparse adaptive embeddings: a CSR head for any sentence-transformers model.

Importing this package registers its module classes with sentence-transformers, so that saved models
load with a plain ``SentenceTransformer("org/name")``.
"""

from csr_st import _moved
from csr_st._io import interrupts  # noqa: F401 - before the imports that take seconds
from csr_st.attaching import attach, detach, register
from csr_st.code_store import CodeStore
from csr_st.codes import SparseCodes
from csr_st.config import TrainConfig, recipe
from csr_st.data import mix
from csr_st.decoder import Decoder
from csr_st.distill import distill_queries
from csr_st.embeddings import EmbeddingStore, TokenStore
from csr_st.encoding import encode, encode_dense, encode_vectors
from csr_st.evaluation import Evaluation, evaluate, evaluate_pairs
from csr_st.export import ExportedModel, export_model
from csr_st.head import SparseCSRHead, find_head
from csr_st.insight import Explanation, LatentName, LatentNames, explain, name_latents
from csr_st.packed_codes import PackedCodes
from csr_st.publishing import push_to_hub, save
from csr_st.residual import ResidualBits
from csr_st.search import SearchResults, SegmentedIndex, SparseIndex
from csr_st.searcher import Hit, Searcher
from csr_st.training import (
    Adapted,
    TrainResult,
    adapt,
    calibrate,
    reweigh,
    train,
    train_pairs,
    train_tokens,
)
from csr_st.two_levels import encode_two_levels, join_codes
from csr_st.workflow import train_model, train_vectors

__all__ = [
    "Adapted",
    "CodeStore",
    "Decoder",
    "EmbeddingStore",
    "Evaluation",
    "Explanation",
    "ExportedModel",
    "Hit",
    "LatentName",
    "LatentNames",
    "PackedCodes",
    "ResidualBits",
    "SearchResults",
    "Searcher",
    "SegmentedIndex",
    "SparseCSRHead",
    "SparseCodes",
    "SparseIndex",
    "TokenStore",
    "TrainConfig",
    "TrainResult",
    "adapt",
    "attach",
    "calibrate",
    "detach",
    "distill_queries",
    "encode",
    "encode_dense",
    "encode_two_levels",
    "encode_vectors",
    "evaluate",
    "evaluate_pairs",
    "explain",
    "export_model",
    "find_head",
    "join_codes",
    "mix",
    "name_latents",
    "push_to_hub",
    "recipe",
    "reweigh",
    "save",
    "train",
    "train_model",
    "train_pairs",
    "train_tokens",
    "train_vectors",
]

__version__ = "0.2.0"


def __getattr__(name: str) -> object:
    return _moved.module(f"{__name__}.{name}")


register()
