"""Train a head on your own texts, evaluate it on held-out texts, and save a model with its card.

Shows `csr_st.train_model`, which ``csr-st train`` calls: it embeds the texts once into a store that
survives crashes, trains and evaluates the head, and saves a folder that a plain
`SentenceTransformer` loads.

    pip install "csr-st[search,plots]"
    python examples/train_on_your_corpus.py documents.jsonl --text-column text --output my-csr

Embedding takes about a minute for 3,000 short texts on two CPU cores, training a few minutes. The
script prints the quality at every k next to that of the dense vectors. ``--resume`` continues a
stopped run. ``--tiny`` trains on 64 made-up sentences; ``--model`` names another model.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from sentence_transformers import SentenceTransformer

import csr_st
from csr_st import data

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
    parser.add_argument("corpus", nargs="?", help=".jsonl, .csv, .parquet, .txt, or a Hub data set")
    parser.add_argument("--text-column")
    parser.add_argument("--output", type=Path, default=Path("my-csr"))
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args(argv)
    if options.corpus is None and not options.tiny:
        parser.error("name a corpus, or pass --tiny")
    texts = TINY if options.tiny else data.column(data.load(options.corpus), options.text_column)
    settings = csr_st.recipe(k=8, ks=(2, 4, 8), hidden_dim=48, steps=40) if options.tiny else None
    trained = csr_st.train_model(
        SentenceTransformer(options.model),
        texts,
        options.output,
        settings,
        data_name="made-up sentences" if options.tiny else Path(options.corpus).name,
        base_model=None if Path(options.model).exists() else options.model,
        resume=options.resume,
    )
    if trained.evaluation is not None:  # measured; the model is saved in any case
        print(trained.evaluation.table())

    # The folder is complete: any other program can load it.
    model = SentenceTransformer(str(options.output))
    codes = csr_st.encode(model, texts[:100], k=8)
    print(f"{options.output} gives {codes}")


if __name__ == "__main__":
    main()
