"""Turn the dense vectors of an existing database into sparse codes, without embedding anything.

Shows that a head needs vectors, not texts: the script reads them from a Qdrant collection (or a
.npy file), trains a head on them, and writes an exact index of codes with the same document ids.
Queries are the dense vectors that the application uses today.

    pip install "csr-st[search]" qdrant-client
    python examples/migrate_vector_database.py --qdrant PATH_OR_URL --collection NAME
    python examples/migrate_vector_database.py --vectors vectors.npy

About five minutes for 50,000 vectors on two CPU cores. The script prints the fraction of the dense
top 10 that the codes find, and the bytes per document of codes and vectors. ``--tiny`` reads from a
Qdrant collection in memory, of sentences embedded with ``--model``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

import csr_st
from csr_st.evaluation.brute_force import cosine_top
from csr_st.evaluation.metrics import overlap_at

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
TINY = [
    f"{who} {did} {where}"
    for who in ("the cat", "a dog", "the bird", "a fish")
    for did in ("sat on", "ran under", "flew in", "swam in")
    for where in ("the mat", "a house", "the tree", "the blue sea")
]
Vectors = tuple[NDArray[np.int64], NDArray[np.float32]]


def from_qdrant(client: Any, collection: str) -> Vectors:
    """Ids and dense vectors of a collection with one unnamed vector per point."""
    ids: list[int] = []
    vectors: list[Any] = []
    offset = None
    while True:
        points, offset = client.scroll(collection, limit=1000, offset=offset, with_vectors=True)
        ids += [point.id for point in points]
        vectors += [point.vector for point in points]
        if offset is None:
            return np.array(ids, np.int64), np.array(vectors, np.float32)


def made_up(model: str) -> Vectors:
    """A Qdrant collection in memory, read like that of an application."""
    from qdrant_client import QdrantClient, models

    dense = SentenceTransformer(model).encode(TINY, show_progress_bar=False)
    client = QdrantClient(":memory:")
    size = models.VectorParams(size=dense.shape[1], distance=models.Distance.COSINE)
    client.create_collection("docs", vectors_config=size)
    points = [models.PointStruct(id=100 + i, vector=row.tolist()) for i, row in enumerate(dense)]
    client.upsert("docs", points)
    return from_qdrant(client, "docs")


def read(options: argparse.Namespace) -> Vectors:
    """What the command line names."""
    if options.tiny:
        return made_up(options.model)
    if options.vectors is not None:
        rows = np.load(options.vectors, allow_pickle=False)
        return np.arange(len(rows)), rows
    from qdrant_client import QdrantClient

    where = {"url" if "://" in options.qdrant else "path": options.qdrant}
    return from_qdrant(QdrantClient(**where), options.collection)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--qdrant", help="folder of a local collection, or a server's address")
    parser.add_argument("--collection", default="docs")
    parser.add_argument("--vectors", type=Path, help=".npy file of (n, d) vectors instead")
    parser.add_argument("--output", type=Path, default=Path("documents.index"))
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args(argv)
    if not (options.tiny or options.qdrant or options.vectors):
        parser.error("pass --qdrant, --vectors or --tiny")
    ids, vectors = read(options)
    k = options.k
    settings = csr_st.recipe(k=k, hidden_dim=48, steps=60) if options.tiny else csr_st.recipe(k=k)
    head = csr_st.train(
        csr_st.EmbeddingStore.from_array(vectors), settings, show_progress=not options.tiny
    ).head

    decoder = csr_st.Decoder.from_head(head)
    codes = csr_st.encode_vectors(head, vectors, k)
    csr_st.SparseIndex.build(codes.astype("float16"), ids, decoder).save(options.output)

    # Queries are dense vectors, as in the application; here those of some documents.
    index = csr_st.SparseIndex.load(options.output)
    rows = np.random.default_rng(0).permutation(len(ids))[:500]
    asked = vectors[rows]
    queries = csr_st.encode_vectors(head, asked, min(4 * k, head.hidden_dim))
    dense = ids[cosine_top(vectors, asked, 10)]
    for name, rescore in (("sparse", None), ("rescored", min(200, len(ids)))):
        dense_queries = None if rescore is None else asked
        found = index.search(queries, top_k=10, rescore=rescore, queries_dense=dense_queries)
        print(f"{name}: {overlap_at(found.ids, dense):.0%} of the dense top 10")
    stored = codes.astype("float16").nbytes / len(codes)
    print(f"{stored:.0f} bytes per document in {options.output}; dense {vectors[0].nbytes} bytes")


if __name__ == "__main__":
    main()
