"""The sparse index of txtai with codes, and its SQL queries over content.

Shows two classes that txtai takes by their paths: `CSRIndex` and `CSRVectors`.

    pip install "csr-st[txtai]"
    python examples/with_txtai.py my-csr documents.txt

``my-csr`` is a model with a head, the file has one text per line. A thousand texts take some
seconds. It prints three results for each query. ``--tiny`` uses 64 made-up sentences and an
untrained head on ``--model``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from sentence_transformers import SentenceTransformer
from txtai import Embeddings

import csr_st
from csr_st.finetune import attach_new_head

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
TINY = [
    f"{who} {did} {where}"
    for who in ("the cat", "a dog", "the bird", "a fish")
    for did in ("sat on", "ran under", "flew in", "swam in")
    for where in ("the mat", "a house", "the tree", "the blue sea")
]


def search(sparse_model: str, texts: list[str], queries: list[str]) -> None:
    """Index texts, save the index, open it again and ask it in SQL."""
    sparse = {
        "path": sparse_model,
        "vectormethod": "csr_st.frameworks.txtai.CSRVectors",
        "backend": "csr_st.frameworks.txtai.CSRIndex",
    }
    embeddings = Embeddings(sparse=sparse, content=True)
    embeddings.index([{"text": text, "length": len(text)} for text in texts])
    embeddings.save("txtai-index")

    embeddings = Embeddings().load("txtai-index")
    sql = "select text, score from txtai where similar(:query) and length > 8 limit 3"
    for query in queries:
        print(f"{query}:")
        for hit in embeddings.search(sql, parameters={"query": query}):
            print(f"  {hit['score']:.2f}  {hit['text'][:70]}")


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
