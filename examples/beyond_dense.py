"""Find more than dense vectors do: a token-level head, beside dense search and words.

Shows a store of token vectors, a head that chooses latents for each token and adds them up over a
text, and how often the right document is first: by the model's own dense vectors, by words (BM25),
by the token-level codes, and by codes and words in one exact index. No labels are used. The corpus
is the documentation in the Python packages on your machine; the queries are its summary lines.

    pip install "csr-st[search,words]"
    python examples/beyond_dense.py

About seven minutes on two CPU cores after a download of 90 MB. The script prints one figure for
each kind of search. ``--tiny`` runs on 64 made-up sentences in a few seconds; ``--model`` names
another model.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence

import numpy as np
from sentence_transformers import SentenceTransformer

import csr_st
from csr_st.demo.corpus import gather

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
DOCUMENTS = 2000
ASKED = 500
TINY = [
    (f"{who} {did} {where}", f"{where} {who}")
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
    pairs = [(entry.document, entry.summary) for entry in gather(DOCUMENTS)]
    documents, queries = map(list, zip(*(TINY if options.tiny else pairs), strict=True))
    queries, right = queries[:ASKED], np.arange(len(queries))[:ASKED]
    tiny = {"hidden_dim": 64, "k": 16, "query_k": 8, "k_token": 4, "steps": 40, "batch_size": 64}

    # The store has the vectors of the tokens, not of the texts: it survives a kill, and is trained
    # on without the backbone. Here it is only needed until the head is trained.
    with tempfile.TemporaryDirectory() as folder:
        store = csr_st.TokenStore.embed(backbone, documents, folder)
        print(store)
        config = csr_st.recipe("token", **(tiny if options.tiny else {}))
        head = csr_st.train_tokens(store, config, show_progress=not options.tiny).head
    model = csr_st.attach(backbone, head)

    codes = csr_st.encode(model, documents, role="document")  # k=128 latents a document
    asked = csr_st.encode(model, queries, role="query")  # k=64 a query
    index = csr_st.SparseIndex.build(codes, words=documents)
    dense = backbone.encode(queries) @ backbone.encode(documents).T
    found = {
        "dense vectors": np.argmax(dense, axis=1),
        "words (BM25)": index.search(words=queries, top_k=1).ids[:, 0],
        "token-level codes": index.search(asked, top_k=1).ids[:, 0],
        "token-level codes and words": index.search(asked, top_k=1, words=queries).ids[:, 0],
    }
    for name, first in found.items():
        print(f"{name:30} the right document is first for {np.mean(first == right):.1%} of queries")


if __name__ == "__main__":
    main()
