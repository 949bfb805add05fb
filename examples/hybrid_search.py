"""Hybrid search: sparse codes and BM25 in one exact index.

Shows an index built from codes and texts, searched by codes alone, by words (BM25) alone and by the
sum of both scores. Words find names and numbers that the model does not know, codes find what is
said in other words. The corpus is the documentation in the Python packages on your machine.

    pip install "csr-st[search,words]"
    python examples/hybrid_search.py

About four minutes on two CPU cores after a download of 90 MB. The script prints three results for
each query and each kind of search. ``--tiny`` runs on 64 made-up sentences in a few seconds;
``--model`` names another model.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from sentence_transformers import SentenceTransformer

import csr_st
from csr_st.demo.corpus import gather

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
QUERIES = ["copy a folder and everything in it", "what raises UnicodeDecodeError"]
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
    queries = ["dogs running", "birds in trees"] if options.tiny else QUERIES
    settings = csr_st.recipe(k=8, hidden_dim=48, steps=40) if options.tiny else csr_st.recipe(k=16)

    vectors = backbone.encode(texts, show_progress_bar=not options.tiny)
    store = csr_st.EmbeddingStore.from_array(vectors)
    head = csr_st.train(store, settings, show_progress=not options.tiny).head
    model = csr_st.attach(backbone, head)

    # One index holds the codes and the words of the texts. Stems and stop words are those of
    # English; pass language="german", or a function from a text to its words.
    codes = csr_st.encode(model, texts, k=settings.k, role="document")
    index = csr_st.SparseIndex.build(codes, words=texts)

    query_k = min(4 * settings.k, head.hidden_dim)
    asked = csr_st.encode(model, queries, k=query_k, role="query")
    searches: dict[str, dict[str, Any]] = {
        "codes": {"query_codes": asked},
        "words": {"words": queries},
        "codes and words": {"query_codes": asked, "words": queries},
    }
    found = {name: index.search(top_k=3, **arguments) for name, arguments in searches.items()}
    for row, query in enumerate(queries):
        print(f"{query}:")
        for name, results in found.items():
            print(f"  by {name}:")
            for document, score in zip(results.ids[row], results.scores[row], strict=True):
                print(f"    {score:.2f}  {texts[document][:70].splitlines()[0]}")
    print(f"the weight of words is {index.weight}; search(..., weight=0.3) takes another")


if __name__ == "__main__":
    main()
