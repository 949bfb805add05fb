"""Store and search codes in Milvus: in an embedded file or, with the same calls, on a server.

Shows `MilvusEngine`: add documents with payloads, search by code, and compare the results with
those of this package's exact index.

    pip install "csr-st[milvus,search]"
    python examples/search_with_milvus.py my-csr documents.txt --uri docs.db
    python examples/search_with_milvus.py my-csr documents.txt --uri http://localhost:19530

``my-csr`` is a model with a head, the file has one text per line. Adding 50,000 documents takes
about a minute; if the script is stopped, run it again to continue. It prints three results for each
query, and the largest difference from exact scores. ``--tiny`` uses 64 made-up sentences and an
untrained head on ``--model``.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sentence_transformers import SentenceTransformer

import csr_st
from csr_st.finetune import attach_new_head
from csr_st.search.engines.milvus import MilvusEngine

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
TINY = [
    f"{who} {did} {where}"
    for who in ("the cat", "a dog", "the bird", "a fish")
    for did in ("sat on", "ran under", "flew in", "swam in")
    for where in ("the mat", "a house", "the tree", "the blue sea")
]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sparse_model", nargs="?", help="folder or Hub id of a model with a head")
    parser.add_argument("documents", nargs="?", type=Path, help="one text per line")
    parser.add_argument("--uri", help="a .db file, or a server's address")
    parser.add_argument("--query", action="append", help="can be repeated")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args(argv)
    if options.documents is None and not options.tiny:
        parser.error("name a model with a head and a file of documents, or pass --tiny")
    if options.tiny:
        texts = TINY
        model = attach_new_head(SentenceTransformer(options.model), texts)
    else:
        texts = options.documents.read_text(encoding="utf-8").splitlines()
        model = SentenceTransformer(options.sparse_model)
    queries = options.query or ["a dog in the house", "the blue sea"]

    documents = csr_st.encode(model, texts, k=16, role="document")
    asked = csr_st.encode(model, queries, k=16, role="query")
    with tempfile.TemporaryDirectory() as temporary:
        uri = options.uri or str(Path(temporary) / "codes.db")
        with MilvusEngine(uri, documents.hidden_dim) as engine:
            engine.add(documents, payloads=[{"text": text} for text in texts], progress=False)
            found = engine.search(asked, top_k=3)
            for query, ids, scores in zip(queries, found.ids, found.scores, strict=True):
                print(f"{query}:")
                for payload, score in zip(engine.payloads(ids), scores, strict=True):
                    print(f"  {score:.2f}  {payload['text'][:70]}")
    exact = csr_st.SparseIndex.build(documents).search(asked, top_k=3)
    print(f"largest difference from exact scores: {abs(exact.scores - found.scores).max():.4f}")


if __name__ == "__main__":
    main()
