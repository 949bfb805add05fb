"""Our codes as methods of the benchmark, every form of them, and the heads that make them."""

from __future__ import annotations

import warnings
from functools import partial
from math import comb, log2
from pathlib import Path
from typing import NamedTuple

import numpy as np
from alternatives_bits import gaussian_levels
from alternatives_peers import Array, Method, Stored
from quality_sets import Task

from csr_st import (
    Decoder,
    EmbeddingStore,
    SparseCodes,
    SparseCSRHead,
    SparseIndex,
    encode_vectors,
    recipe,
    train,
)

KS = (4, 6, 8, 12, 16, 20, 24, 28, 32, 40, 48, 64)
VALUE_BITS = (4, 8)
RESIDUAL_BITS = (0, 1, 2)
PURSUITS = (False,)
MOST_BYTES = 150  # larger codes are in no budget
RESCORE = 200


class Form(NamedTuple):
    """One way to store a document, and whether pursuit chose its latents."""

    k: int
    value_bits: int
    residual_bits: int
    pursuit: bool

    @property
    def family(self) -> str:
        residual = f" + {self.residual_bits}-bit residual" if self.residual_bits else ""
        return f"ours{residual}" + ", pursuit" * self.pursuit

    @property
    def setting(self) -> str:
        return f"k={self.k}, {self.value_bits} bits a value"

    @property
    def timed(self) -> bool:
        return self.value_bits == 4 and self.residual_bits < 2 and self.k in (8, 16, 32, 64)


class Kept(NamedTuple):
    """Documents read back from what is stored."""

    codes: SparseCodes
    decoded: Array
    bytes: float


def stored(
    codes: SparseCodes, decoder: Decoder, documents: Array, value_bits: int, residual_bits: int
) -> Kept:
    """TEMPORARY, until codes can be packed and have a residual: sizes by formula.

    Replace by ``encode_vectors(..., residual_bits=)``, ``codes.pack(value_bits).nbytes / n`` and
    what ``unpack()`` and the decoder give. Latents cost log2 C(h, k) bits, scales 2 bytes.
    """
    raw = codes.raw()
    steps, largest = 2**value_bits - 1, raw.values.max(axis=1, keepdims=True)
    largest = np.where(largest > 0, largest, 1).astype(np.float16).astype(np.float32)
    values = np.clip(np.rint(raw.values * (steps / largest)), 1, steps) * (raw.values > 0)
    kept = SparseCodes(raw.indices, values * (largest / steps), raw.hidden_dim)
    bits = log2(comb(codes.hidden_dim, codes.k)) + value_bits * codes.k + 16
    decoded = decoder.decode(kept)
    if residual_bits:
        width = decoded.shape[1]
        start = np.random.default_rng(0).standard_normal((width, width)).astype(np.float32)
        rotation = np.linalg.qr(start)[0]
        rotated = (documents - decoded) @ rotation
        spread = np.sqrt((rotated**2).mean(axis=1, keepdims=True))
        spread = np.where(spread > 0, spread, 1).astype(np.float16).astype(np.float32)
        levels = gaussian_levels(residual_bits)
        edges = (levels[1:] + levels[:-1]) / 2
        decoded = decoded + spread * levels[np.searchsorted(edges, rotated / spread)] @ rotation.T
        bits += residual_bits * width + 16
    return Kept(kept.normalize(), decoded, float(np.ceil(bits / 8)))


def ours(head: SparseCSRHead) -> list[Method]:
    """Every form of our codes that fits MOST_BYTES. They are fitted by the head's training."""
    decoder = Decoder.from_head(head)
    longest: dict[bool, SparseCodes] = {}

    def encoded(documents: Array, form: Form) -> SparseCodes:
        if form.pursuit not in longest:
            longest[form.pursuit] = encode_vectors(head, documents, max(KS))
        return longest[form.pursuit].prefix(form.k)

    def build(form: Form, _train: Array, documents: Array, _seed: int) -> Stored:
        codes = encoded(documents, form)
        kept = stored(codes, decoder, documents, form.value_bits, form.residual_bits)
        return Stored(
            kept.bytes,
            4 * (decoder.weight.size + decoder.pre_bias.size),
            decoded=kept.decoded,
            scores={} if form.residual_bits else _symmetric(head, kept.codes),
            search=_index(head, decoder, kept.codes) if form.timed else None,
        )

    forms = [
        Form(k, value_bits, residual_bits, pursuit)
        for pursuit in PURSUITS
        for residual_bits in RESIDUAL_BITS
        for value_bits in VALUE_BITS
        for k in KS
        if _least_bytes(head, k, value_bits, residual_bits) <= MOST_BYTES
    ]
    return [Method(form.family, form.setting, partial(build, form), form.timed) for form in forms]


def _least_bytes(head: SparseCSRHead, k: int, value_bits: int, residual_bits: int) -> float:
    bits = log2(comb(head.hidden_dim, k)) + value_bits * k + residual_bits * head.input_dim
    return bits / 8


def _symmetric(head: SparseCSRHead, codes: SparseCodes):
    """Scores of codes by codes: queries at the documents' k and at four times it."""
    transposed = codes.to_scipy().T.tocsr()

    def scores(times, queries):
        asked = encode_vectors(head, queries, min(times * codes.k, head.hidden_dim))
        return (asked.to_scipy() @ transposed).toarray()

    return {"query at k": partial(scores, 1), "query at 4k": partial(scores, 4)}


def _index(head: SparseCSRHead, decoder: Decoder, codes: SparseCodes):
    """The full path of a query: its code, the search, the best ones through the decoder."""
    index = SparseIndex.build(codes, decoder=decoder)
    candidates = min(RESCORE, len(codes))

    def search(queries):
        asked = encode_vectors(head, queries, codes.k)
        found = index.search(asked, 10, rescore=candidates, queries_dense=queries, threads=1)
        return found.ids

    return search


def head_path(task_name: str, seed: int, folder: Path) -> Path:
    name = task_name.replace(", ", "-").replace(" ", "-")
    return folder / (f"{name}-default" + f"-{seed}" * (seed > 0))


def head_for(task: Task, seed: int, folder: Path) -> SparseCSRHead:
    """The default recipe on the training vectors, without labels; trained once, kept in folder."""
    path = head_path(task.name, seed, folder)
    if not path.exists():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # small data sets are measured too
            found = train(
                EmbeddingStore.from_array(task.train), recipe(seed=seed), show_progress=False
            )
        path.mkdir(parents=True)
        found.head.save(str(path))
    return SparseCSRHead.load(str(path))
