"""Our codes as methods of bitbudget, a benchmark of others: quality against bytes a vector.

    pip install bitbudget "csr-st[search]"
    python tests/benchmarks/bitbudget_methods.py --data DIR/scifact --vectors DIR [--output DIR]

Registers ours (k = 8, 16 and 32, each without and with residual bits), fitted on the documents that
bitbudget passes to a method: their head trains for a minute, once for all of ours. Then runs
bitbudget's own evaluation, which prints a card. ``--vectors`` contains SET-corpus.npy and
SET-queries.npy, as quality.py keeps them; bitbudget finds them as its cache of an embedder, so
nothing is downloaded or embedded. Its nDCG counts 2**gain - 1, its recall is that of the ten
documents nearest by the float vectors, its bytes are those that a method says it stores.
"""

from __future__ import annotations

import argparse
import json
import warnings
from functools import partial
from pathlib import Path

import alternatives_ours as own
import numpy as np
import torch
from bitbudget import method
from bitbudget.cli import main as bitbudget
from quality_sets import load

from csr_st import Decoder, EmbeddingStore, SparseCSRHead, recipe, train
from csr_st.evaluation.brute_force import unit_rows

FORMS = [own.Form(k, bits, pursuit=True) for k in (8, 16, 32) for bits in (0, 1, 2)]
_fitted: dict[int, SparseCSRHead] = {}


def ours(form: own.Form, documents: np.ndarray, queries: np.ndarray):
    """Similarities (queries, documents) and bytes a document, as bitbudget asks for them."""
    head = fitted(documents)
    packed = form.packed(head, documents)
    codes = packed.unpack()
    decoded = Decoder.from_head(head).decode(codes)
    return queries @ unit_rows(decoded).T, packed.nbytes / len(packed)


def fitted(documents: np.ndarray) -> SparseCSRHead:
    """The default recipe on these documents, one head for all methods."""
    key = hash(documents.tobytes())
    if key not in _fitted:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # small corpora are measured too
            found = train(EmbeddingStore.from_array(documents), recipe(), show_progress=False)
        _fitted[key] = found.head
    return _fitted[key]


def register() -> list[str]:
    """Put ours among bitbudget's methods; returns their names."""
    names = []
    for form in FORMS:
        names.append(f"csr k={form.k}" + f" +{form.residual_bits} bit" * (form.residual_bits > 0))
        method(names[-1], bits=None)(partial(ours, form))
    return names


def cached_for_bitbudget(data: Path, vectors: Path, folder: Path) -> None:
    """The file that ``bitbudget embed`` would have written."""
    task = load(data.name, data.parent, vectors, _missing).unlabelled()
    gains = {
        str(query): {str(document): 1 for document in judged}
        for query, judged in enumerate(task.relevant)
    }
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(
        folder / f"emb_local_{data.name}.npz",
        demb=unit_rows(task.documents),
        qemb=unit_rows(task.queries),
        cids=np.arange(len(task.documents)).astype(str),
        qids=np.arange(len(task.queries)).astype(str),
        qrels=json.dumps(gains),
    )


def _missing(texts):
    raise SystemExit("vectors are missing in --vectors; quality.py or alternatives.py embed them")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, type=Path, help="folder of one set, BEIR's form")
    parser.add_argument("--vectors", required=True, type=Path)
    parser.add_argument("--output", type=Path, default=Path("bitbudget"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    register()
    cached_for_bitbudget(options.data, options.vectors, options.output)
    place = ["--cache", str(options.output), "--out", str(options.output)]
    bitbudget(["eval", "--embedder", "local", "--corpus", options.data.name, *place])


if __name__ == "__main__":
    main()
