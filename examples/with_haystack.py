"""Two Haystack pipelines with codes: one writes documents, one retrieves them.

Shows `CSRDocumentStore`, its retriever, and embedders with a k for each side.

    pip install "csr-st[haystack]"
    python examples/with_haystack.py my-csr documents.txt

``my-csr`` is a model with a head, the file has one text per line. A thousand texts take some
seconds. It prints three results for each query. ``--tiny`` uses 64 made-up sentences and an
untrained head on ``--model``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from haystack import Document, Pipeline
from sentence_transformers import SentenceTransformer

import csr_st
from csr_st.finetune import attach_new_head
from csr_st.frameworks.haystack import CSRDocumentStore
from csr_st.frameworks.haystack_components import (
    CSRDocumentEmbedder,
    CSRRetriever,
    CSRTextEmbedder,
)

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
TINY = [
    f"{who} {did} {where}"
    for who in ("the cat", "a dog", "the bird", "a fish")
    for did in ("sat on", "ran under", "flew in", "swam in")
    for where in ("the mat", "a house", "the tree", "the blue sea")
]


def search(sparse_model: str, texts: list[str], queries: list[str]) -> None:
    """Write documents with their codes, save the store, and ask a pipeline."""
    embedder = CSRDocumentEmbedder(sparse_model, k=16)
    documents = embedder.run([Document(content=text) for text in texts])["documents"]
    width = csr_st.find_head(SentenceTransformer(sparse_model)).hidden_dim
    store = CSRDocumentStore(width, path="haystack-store")
    store.delete_all_documents()  # of an earlier run
    store.write_documents(documents)
    store.save()

    pipeline = Pipeline()
    pipeline.add_component("embedder", CSRTextEmbedder(sparse_model, k=32))
    pipeline.add_component("retriever", CSRRetriever(store, top_k=3))
    pipeline.connect("embedder.sparse_embedding", "retriever.query_sparse_embedding")
    for query in queries:
        print(f"{query}:")
        for document in pipeline.run({"embedder": {"text": query}})["retriever"]["documents"]:
            print(f"  {document.score:.2f}  {document.content[:70]}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sparse_model", nargs="?", help="folder or Hub id of a model with a head")
    parser.add_argument("documents", nargs="?", type=Path, help="one text per line")
    parser.add_argument("--query", action="append", help="can be repeated")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args(argv)
    if options.documents is None and not options.tiny:
        parser.error("name a model with a head and a file of documents, or pass --tiny")
    if options.tiny:
        sparse_model, texts = "tiny-csr", TINY
        csr_st.save(attach_new_head(SentenceTransformer(options.model), TINY), sparse_model)
    else:
        sparse_model = options.sparse_model
        texts = options.documents.read_text(encoding="utf-8").splitlines()
    search(sparse_model, texts, options.query or ["a dog in the house", "the blue sea"])


if __name__ == "__main__":
    main()
