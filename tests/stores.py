"""Engines for the tests: their kinds, how they are opened, and codes to store in them."""

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from csr_st.codes import SparseCodes

# Of the clients and what they import, not of this package.
CLIENT_WARNINGS = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
HIDDEN_DIM = 300
KINDS = {
    "milvus": ("MilvusEngine", "pymilvus", "milvus_lite"),
    "qdrant": ("QdrantEngine", "qdrant_client"),
    "pgvector": ("PgvectorEngine", "psycopg"),
}


def random_codes(seed, n, k=6, hidden_dim=HIDDEN_DIM):
    rng = np.random.default_rng(seed)
    indices = np.argsort(rng.random((n, hidden_dim)), axis=1)[:, :k].astype(np.uint32)
    values = -np.sort(-rng.exponential(size=(n, k)).astype(np.float32) - 0.05, axis=1)
    return SparseCodes(indices, values, hidden_dim).normalize()


def needs(*modules):
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")


def open_engine(kind, place, name, hidden_dim=HIDDEN_DIM, **options):
    engine = getattr(importlib.import_module(f"csr_st.search.engines.{kind}"), KINDS[kind][0])
    return engine(place, hidden_dim, name, **options)


def start(script, *arguments, **options):
    """A Python process that knows the tests of searches."""
    here = Path(__file__).parent
    head = f"import sys; sys.path[:0] = [{str(here / 'search')!r}, {str(here)!r}]\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )
