"""How well latents are named: share of named latents, AUC on held-out texts, names at random.

    python tests/benchmarks/naming.py --data scifact --vectors scifact.npy --head my-head
    python tests/benchmarks/naming.py --docstrings 3000

With --docstrings, the corpus is that of the demo: docstrings and their summary lines are embedded,
a head is trained as there, and latents that 10 or more docstrings use are looked at. Of a BEIR
folder, documents are title and text. Three measures are printed: ``auc`` as `csr_st.name_latents`
has it; the same with all texts counted alike; and the AUC of the mere number of the name's words
that are in a text.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

import csr_st
from csr_st.insight.chance import weighted_auc
from csr_st.insight.naming import NAMING_SHARE
from csr_st.insight.vocabulary import Vocabulary
from csr_st.insight.word_vectors import WordVectors

K, LEAST_USES, SHOWN = 32, 10, 20


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="BEIR folder with corpus.jsonl")
    parser.add_argument("--vectors", type=Path, help=".npy with the vectors of its documents")
    parser.add_argument("--head", type=Path, help="folder of a head; without, one is trained")
    parser.add_argument("--docstrings", type=int, help="docstrings of the demo, instead of --data")
    options = parser.parse_args()
    if options.docstrings:
        texts, n_documents = docstrings(options.docstrings)
    else:
        rows = map(json.loads, (options.data / "corpus.jsonl").open(encoding="utf-8"))
        texts = [f"{row.get('title', '')} {row['text']}".strip() for row in rows]
        n_documents = len(texts)
    vectors = embedded(texts) if options.vectors is None else np.load(options.vectors)
    if options.head is not None:
        head = csr_st.SparseCSRHead.load(options.head)
    else:
        trained = csr_st.EmbeddingStore.from_array(vectors)
        if options.docstrings:  # as the demo does
            held_out = np.random.default_rng(0).permutation(n_documents)[:1000]
            trained = trained.subset(np.setdiff1d(np.arange(len(texts)), n_documents + held_out))
        head = csr_st.train(trained, csr_st.recipe()).head
    report(csr_st.encode_vectors(head, vectors, K), texts, n_documents)


def docstrings(limit: int) -> tuple[list[str], int]:
    """Docstrings, then their summary lines, and how many docstrings there are."""
    from csr_st.demo.corpus import gather

    entries = gather(limit)
    return [one.document for one in entries] + [one.summary for one in entries], len(entries)


def embedded(texts: list[str]) -> np.ndarray:
    """The vectors of texts by the model of the demo."""
    from csr_st.demo.run import load_backbone

    vectors: np.ndarray = load_backbone().encode(texts, batch_size=64)
    return vectors


def report(codes: csr_st.SparseCodes, texts: list[str], n_documents: int) -> None:
    """Print figures and names."""
    started = time.perf_counter()
    names = csr_st.name_latents(codes, texts)
    seconds = time.perf_counter() - started
    uses = np.bincount(codes[:n_documents].to_scipy().indices, minlength=codes.hidden_dim)
    looked_at = [name for name in names if uses[name.latent] >= LEAST_USES]
    named = [name for name in looked_at if name.words]
    print(f"{len(texts):,} texts, k={codes.k}, hidden_dim={codes.hidden_dim}: {seconds:.1f} s")
    print(f"latents that {LEAST_USES} or more documents use: {len(looked_at):,}")
    print(f"named: {len(named) / len(looked_at):.1%}")
    all_aucs = np.array([name.auc for name in looked_at])
    print(f"median AUC of all of them, unnamed ones included: {np.nanmedian(all_aucs):.3f}")
    alike, presence = other_measures(codes, texts, named)
    quantiles = (5, 10, 25, 50, 75, 90, 95)
    print("AUC of named latents, percentiles", *quantiles)
    for title, aucs in (
        ("auc, texts by their share", [name.auc for name in named]),
        ("texts counted alike", alike),
        ("mere number of words", presence),
    ):
        print(f"  {title:26}", *(f"{value:.3f}" for value in np.percentile(aucs, quantiles)))
    print(f"{SHOWN} of the latents looked at, at random:")
    for place in np.random.default_rng(1).choice(len(looked_at), SHOWN, replace=False):
        name = looked_at[place]
        shown = ", ".join(name.words) or "(unnamed)"
        print(f"  {name.latent:5} in {uses[name.latent]:4} AUC {name.auc:.2f}  {shown}")


def other_measures(
    codes: csr_st.SparseCodes, texts: list[str], named: list[csr_st.LatentName]
) -> tuple[list[float], list[float]]:
    """AUCs of names on the same held-out texts: texts counted alike, and by presence of words."""
    order = np.random.default_rng(0).permutation(len(texts))
    naming, testing = np.split(order, [round(NAMING_SHARE * len(texts))])
    matrix = codes.normalize().to_scipy()
    vocabulary = Vocabulary.of(texts, naming)
    vectors = WordVectors.fit(vocabulary.matrix, matrix, naming)
    active = (matrix[testing] > 0).tocsc()
    present = (vocabulary.matrix[testing] > 0).astype(np.float32).tocsc()
    place_of = {word: place for place, word in enumerate(vocabulary.words.tolist())}
    alike, presence = [], []
    for name in named:
        places = [place_of[word] for word in name.words]
        has = active[:, [name.latent]].toarray().ravel().astype(np.float64)
        direction = vectors.words[places].sum(axis=0)
        alike.append(weighted_auc(vectors.texts[testing] @ direction, has))
        presence.append(weighted_auc(np.asarray(present[:, places].sum(axis=1)).ravel(), has))
    return alike, presence


if __name__ == "__main__":
    main()
