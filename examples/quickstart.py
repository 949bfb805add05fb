"""Give a model a sparse head, encode at any k, and search exactly.

Shows every step in memory: embed once, train a head, attach it, encode to codes, search the codes.
The corpus is the documentation in the Python packages on your machine.

    pip install "csr-st[search]"
    python examples/quickstart.py

About four minutes on two CPU cores after a download of 90 MB. The script prints three results for
each query, and the bytes per document of codes and dense vectors. ``--tiny`` runs on 64 made-up
sentences in a few seconds; ``--model`` names another model.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from sentence_transformers import SentenceTransformer

import csr_st
from csr_st.demo.corpus import gather

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
QUERIES = ["copy a folder and everything in it", "random numbers from a bell curve"]
TINY = [
    f"{who} {did} {where}"
    for who in ("the cat", "a dog", "the bird", "a fish")
    for did in ("sat on", "ran under", "flew in", "swam in")
    for where in ("the mat", "a house", "the tree", "the blue sea")
]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args(argv)
    backbone = SentenceTransformer(options.model)
    texts = TINY if options.tiny else [entry.document for entry in gather(3000)]
    queries = ["the dog ran", "a bird in the tree"] if options.tiny else QUERIES
    settings = csr_st.recipe(k=8, hidden_dim=48, steps=40) if options.tiny else csr_st.recipe(k=16)

    # The backbone runs once over the texts; the head is trained on the vectors.
    vectors = backbone.encode(texts, show_progress_bar=not options.tiny)
    store = csr_st.EmbeddingStore.from_array(vectors)
    head = csr_st.train(store, settings, show_progress=not options.tiny).head
    model = csr_st.attach(backbone, head)

    # A code is k latents and their values for each text; the code at a smaller k is a prefix.
    codes = csr_st.encode(model, texts, k=settings.k, role="document")
    index = csr_st.SparseIndex.build(codes)

    # From text to hits; queries have four times as many latents as documents.
    searcher = csr_st.Searcher(model, index, texts)
    for query, hits in zip(queries, searcher(queries, top_k=3), strict=True):
        print(f"{query}:")
        for hit in hits:
            print(f"  {hit.score:.2f}  {texts[hit.id][:70].splitlines()[0]}")
    print(f"{codes.nbytes / len(codes):.0f} bytes per document; dense {vectors[0].nbytes} bytes")


if __name__ == "__main__":
    main()
