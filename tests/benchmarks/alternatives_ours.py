"""Our codes as methods of the benchmark, every form of them."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
from alternatives_peers import Array, Method, Stored

from csr_st import (
    Decoder,
    PackedCodes,
    SparseCodes,
    SparseCSRHead,
    SparseIndex,
    encode_vectors,
)

KS = (4, 6, 8, 12, 16, 20, 24, 28, 32, 40, 48, 64)
RESIDUAL_KS = (4, 8, 12, 16, 24, 32)
RESIDUAL_BITS = (0.25, 0.5, 0.75, 1, 1.5, 2)
MOST_BYTES = 150  # larger codes are in no budget
RESCORE = 200


class Form(NamedTuple):
    """One way to store a document, and whether pursuit chose its latents."""

    k: int
    residual_bits: float
    pursuit: bool
    value_bits: int = 4

    @property
    def family(self) -> str:
        residual = f" + {self.residual_bits}-bit residual" if self.residual_bits else ""
        return f"ours{residual}" + ", pursuit" * self.pursuit

    @property
    def setting(self) -> str:
        return f"k={self.k}, {self.value_bits} bits a value"

    @property
    def timed(self) -> bool:
        return self.value_bits == 4 and self.residual_bits in (0, 1) and self.k in (8, 16, 32, 64)

    def packed(self, head: SparseCSRHead, documents: Array) -> PackedCodes:
        """The documents as they are stored."""
        options = {"residual_bits": self.residual_bits, "value_bits": self.value_bits}
        codes = encode_vectors(head, documents, self.k, pursuit=self.pursuit, **options)
        return codes.pack(self.value_bits)


FORMS = [Form(k, 0, pursuit) for pursuit in (False, True) for k in KS]
FORMS += [Form(k, bits, True) for bits in RESIDUAL_BITS for k in RESIDUAL_KS]
FORMS += [Form(k, bits, False) for bits in (0.5, 1, 2) for k in RESIDUAL_KS]
FORMS += [Form(k, 0, pursuit, 8) for pursuit in (False, True) for k in (8, 16, 32)]


def ours(head: SparseCSRHead) -> list[Method]:
    """Every form of our codes that fits MOST_BYTES. They are fitted by the head's training."""
    decoder = Decoder.from_head(head)
    fixed = [decoder.weight, decoder.encoder_weight, decoder.pre_bias, decoder.latent_bias]
    if decoder.residual_basis is not None:
        fixed.append(decoder.residual_basis.axes)

    def build(form: Form, _train: Array, documents: Array, _seed: int) -> Stored:
        packed = form.packed(head, documents)
        codes = packed.unpack()
        decoded = decoder.decode(codes)
        return Stored(
            packed.nbytes / len(packed),
            sum(array.nbytes for array in fixed if array is not None),
            decoded=decoded,
            scores={} if form.residual_bits else _symmetric(head, codes),
            search=_index(head, decoder, packed) if form.timed else None,
        )

    one = np.zeros((1, head.input_dim), np.float32)
    forms = [form for form in FORMS if form.packed(head, one).nbytes <= MOST_BYTES]
    return [Method(form.family, form.setting, partial(build, form), form.timed) for form in forms]


def _symmetric(head: SparseCSRHead, codes: SparseCodes):
    """Scores of codes by codes: queries at the documents' k and at four times it."""
    transposed = codes.to_scipy().T.tocsr()

    def scores(times, queries):
        asked = encode_vectors(head, queries, min(times * codes.k, head.hidden_dim))
        return (asked.to_scipy() @ transposed).toarray()

    return {"query at k": partial(scores, 1), "query at 4k": partial(scores, 4)}


def _index(head: SparseCSRHead, decoder: Decoder, packed: PackedCodes):
    """The full path of a query: its code, the search, the best ones through the decoder."""
    index = SparseIndex.build(packed, decoder=decoder)
    candidates = min(RESCORE, len(packed))

    def search(queries):
        asked = encode_vectors(head, queries, packed.k)
        found = index.search(asked, 10, rescore=candidates, queries_dense=queries, threads=1)
        return found.ids

    return search
