"""The model and its codes in tools of other packages.

Not tested here: NanoBEIR evaluators, which download their data; the Elasticsearch and OpenSearch
helpers of sentence-transformers, which need a running server (their input is that of the Seismic
helper, see `decoded`); ``backend="onnx"`` of sentence-transformers, as optimum-onnx needs
transformers below 5 and optimum-intel its own torch: `csr_st.export_model` needs neither. mteb has
its tests in evaluation/test_mteb.py. `mine_hard_negatives` and the dense evaluators use the head's
default k, as they do not pass arguments to encode.
"""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from conftest import WORDS
from datasets import Dataset
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer, SparseEncoder, util
from sentence_transformers.sentence_transformer.evaluation import (
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
)
from sentence_transformers.sparse_encoder import search_engines
from sentence_transformers.sparse_encoder.evaluation import SparseInformationRetrievalEvaluator

import csr_st
from csr_st import SparseIndex

# Random words: sentences of one pattern have equal similarities, which rounding would order.
_RNG = np.random.default_rng(7)
SENTENCES = [" ".join(_RNG.choice(WORDS, 5)) for _ in range(31)]
DOCUMENTS, QUERIES = SENTENCES[:27], SENTENCES[27:]


@pytest.fixture
def codes(model):
    """Documents and queries at the head's k, without prompts."""
    return csr_st.encode(model, DOCUMENTS), csr_st.encode(model, QUERIES)


def exact(codes, top_k) -> np.ndarray:
    """Rows by dense dot product, the reference for every search in this file."""
    documents, queries = codes
    scores = queries.to_dense() @ documents.to_dense().T
    return np.argsort(-scores, axis=1, kind="stable")[:, :top_k]


def scores_of(found) -> np.ndarray:
    return np.array([[hit["score"] for hit in row] for row in found])


def exact_scores(codes, top_k) -> np.ndarray:
    documents, queries = codes
    return -np.sort(-(queries.to_dense() @ documents.to_dense().T), axis=1)[:, :top_k]


def test_similarity_evaluator(model):
    gold = np.linspace(0, 1, 12)
    evaluator = EmbeddingSimilarityEvaluator(DOCUMENTS[:12], DOCUMENTS[12:24], gold.tolist())
    first, second = (csr_st.encode(model, rows) for rows in (DOCUMENTS[:12], DOCUMENTS[12:24]))
    wanted = spearmanr((first.to_dense() * second.to_dense()).sum(axis=1), gold).statistic
    assert evaluator(model)["spearman_dot"] == pytest.approx(wanted, abs=1e-6)


def retrieval(kind, **settings):
    return kind(
        queries={str(i): query for i, query in enumerate(QUERIES)},
        corpus={str(i): document for i, document in enumerate(DOCUMENTS)},
        relevant_docs={str(i): {str(i * 5)} for i in range(len(QUERIES))},
        accuracy_at_k=[5],
        **settings,
    )


@pytest.mark.parametrize("k", [8, 5])
def test_retrieval_evaluator_uses_the_heads_k(model, k):
    model.prompts = {}  # the evaluator would put the query prompt before queries
    csr_st.find_head(model).k = k
    codes = csr_st.encode(model, DOCUMENTS), csr_st.encode(model, QUERIES)
    hits = [i * 5 in row for i, row in enumerate(exact(codes, 5))]
    result = retrieval(InformationRetrievalEvaluator)(model)
    assert result["dot_accuracy@5"] == pytest.approx(np.mean(hits))


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta:UserWarning")
def test_sparse_retrieval_evaluator_takes_max_active_dims(saved):
    model = SparseEncoder(saved, device="cpu")
    result = retrieval(SparseInformationRetrievalEvaluator, max_active_dims=4)(model)
    assert 0 < result["query_active_dims"] <= 4
    assert 0 < result["corpus_active_dims"] <= 4


def test_semantic_search_finds_what_the_index_finds(model, codes):
    documents, queries = (torch.from_numpy(part.to_dense()) for part in codes)
    found = util.semantic_search(queries, documents, top_k=3, score_function=util.dot_score)
    assert np.allclose(scores_of(found), exact_scores(codes, 3), atol=1e-6)
    ours = SparseIndex.build(codes[0]).search(codes[1], top_k=3)
    assert np.allclose(ours.scores, scores_of(found), atol=1e-6)


def test_semantic_search_on_sparse_tensors(codes):
    documents, queries = (part.to_torch() for part in codes)
    found = util.semantic_search(queries, documents, top_k=3, score_function=util.dot_score)
    assert np.allclose(scores_of(found), exact_scores(codes, 3), atol=1e-6)


def test_mine_hard_negatives(model):
    pairs = Dataset.from_dict({"anchor": QUERIES, "positive": DOCUMENTS[: len(QUERIES)]})
    mined = util.mine_hard_negatives(
        pairs, model, corpus=DOCUMENTS, num_negatives=2, range_max=6, verbose=False
    )
    assert len(mined) > 0
    assert all(row["negative"] in DOCUMENTS for row in mined if "negative" in row)
    assert {"anchor", "positive"} <= set(mined.column_names)


def test_qdrant_helper(codes, monkeypatch):
    """The helper connects to a server at a fixed address; here it gets Qdrant's local mode."""
    qdrant = pytest.importorskip("qdrant_client")
    local = qdrant.QdrantClient(":memory:")
    monkeypatch.setattr(qdrant, "QdrantClient", lambda **kwargs: local)
    documents, queries = (part.to_torch() for part in codes)
    found, _ = search_engines.semantic_search_qdrant(queries, documents, top_k=3)
    assert np.allclose(scores_of(found), exact_scores(codes, 3), atol=1e-5)


def decoded(codes) -> list[list[tuple[str, float]]]:
    """What the Seismic, Elasticsearch and OpenSearch helpers take: (name, value) of each latent."""
    return [
        [(str(latent), float(value)) for latent, value in zip(row, values, strict=True) if value]
        for row, values in zip(codes.indices, codes.values, strict=True)
    ]


def test_seismic_helper(codes):
    pytest.importorskip("seismic")
    documents, queries = codes
    found, _ = search_engines.semantic_search_seismic(
        decoded(queries),
        decoded(documents),
        top_k=3,
        search_kwargs={"query_cut": 64, "heap_factor": 0.0},
    )
    # Seismic is approximate and keeps half-precision values: what it finds has the right score.
    dense = queries.to_dense() @ documents.to_dense().T
    for row, hits in zip(dense, found, strict=True):
        assert hits
        for hit in hits:
            assert hit["score"] == pytest.approx(row[int(hit["corpus_id"])], abs=5e-3)


@pytest.mark.slow
def test_pools_of_processes_give_the_same_codes(model):
    texts = DOCUMENTS * 3
    wanted = model.encode(texts, k=4)
    pool = model.start_multi_process_pool(["cpu", "cpu"])
    try:
        assert np.allclose(model.encode(texts, pool=pool, chunk_size=10, k=4), wanted, atol=1e-6)
    finally:
        model.stop_multi_process_pool(pool)
    codes = csr_st.encode(model, texts, k=4, device=["cpu", "cpu"])
    assert np.allclose(codes.to_dense(), wanted, atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_langchain(saved):
    embeddings = pytest.importorskip("langchain_huggingface").HuggingFaceEmbeddings(
        model_name=saved,
        model_kwargs={"device": "cpu"},
        encode_kwargs={"k": 4},
        query_encode_kwargs={"k": 2, "prompt_name": "query"},
    )
    model = SentenceTransformer(saved, device="cpu")
    assert np.allclose(embeddings.embed_documents(DOCUMENTS), model.encode(DOCUMENTS, k=4))
    assert np.allclose(embeddings.embed_query(QUERIES[0]), model.encode_query(QUERIES[0], k=2))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_llama_index(transformer_folder, tmp_path):
    """It does not pass k to encode, so the head's default is used."""
    head = csr_st.SparseCSRHead(16, k=8)
    saved = str(tmp_path / "model")
    csr_st.attach(SentenceTransformer(transformer_folder, device="cpu"), head).save(saved)
    embedding = pytest.importorskip("llama_index.embeddings.huggingface").HuggingFaceEmbedding
    embeddings = embedding(
        model_name=saved, device="cpu", normalize=False, query_instruction="", max_length=12
    )
    model = SentenceTransformer(saved, device="cpu")
    found = embeddings.get_text_embedding_batch(DOCUMENTS)
    assert np.allclose(found, model.encode(DOCUMENTS), atol=1e-6)
    assert (np.count_nonzero(found, axis=1) <= 8).all()


def test_helpers_of_servers_take_latents_by_name():
    """Notices a rename upstream: the module's docstring names these helpers."""
    for name in ("semantic_search_elasticsearch", "semantic_search_opensearch"):
        parameters = inspect.signature(getattr(search_engines, name)).parameters
        assert "query_embeddings_decoded" in parameters
