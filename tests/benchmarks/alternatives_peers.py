"""What people take in place of our codes: faiss, binary vectors, sentence-transformers' int8.

A method is fitted on training vectors, stores documents, and scores float queries against all of
them. All vectors have unit norm. A method of which the documents can be decoded gives them decoded;
they are then scored by dot product and by cosine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray
from sentence_transformers.util.quantization import quantize_embeddings

Array = NDArray[np.float32]
BUDGETS = (16, 32, 48, 64, 96, 128)  # bytes a document
CANDIDATES = 40  # of the first stage: top_k times the rescore_multiplier of the documentation, 4


@dataclass(frozen=True)
class Stored:
    """Documents as one method stores them.

    ``bytes`` are those of a document with its scales and norms, ``fixed`` those of the tables that
    all documents share. ``scores`` maps a scoring to (m, d) queries -> (m, n) similarities; -inf
    is that of documents that a first stage leaves out. ``search`` is the scan of the library,
    (m, d) float queries -> (m, 10) rows, for the times.
    """

    bytes: float
    fixed: int
    decoded: Array | None = None
    scores: Mapping[str, Callable[[Array], NDArray[np.floating]]] = field(default_factory=dict)
    search: Callable[[Array], NDArray[np.int64]] | None = None


class Method(NamedTuple):
    """``build`` takes training vectors, documents and a seed; ``timed`` ones are in the times."""

    family: str
    setting: str
    build: Callable[[Array, Array, int], Stored]
    timed: bool = False


def peers(width: int) -> list[Method]:
    """The methods of this file for vectors of one width."""
    return [
        Method("dense", "float32", partial(flat, "Flat"), True),
        Method("dense", "float16", partial(flat, "SQfp16")),
        *scalar(width),
        *product(width),
        *rabitq(width),
        *binary(),
    ]


def flat(description, train, documents, seed) -> Stored:
    index = faiss.index_factory(train.shape[1], description, faiss.METRIC_INNER_PRODUCT)
    return faiss_stored(index, train, documents, 0)


def faiss_stored(index, train, documents, fixed: int, centred: bool = False) -> Stored:
    """Documents in a faiss index. ``centred``: the mean of the training vectors is taken off."""
    width = train.shape[1]
    if centred:
        index = faiss.IndexPreTransform(faiss.CenteringTransform(width), index)
        fixed += 4 * width
    index.train(train)
    index.add(documents)
    assert index.ntotal == len(documents)
    return Stored(
        index.sa_code_size(),
        fixed,
        decoded=index.reconstruct_n(0, len(documents)),
        search=lambda queries: index.search(queries, 10)[1],
    )


def scalar(width: int) -> list[Method]:
    """Eight and four bits a dimension: per dimension, after PCA, and TurboQuant's after a rotation.

    The range of a dimension is that of the training vectors, or the one of the least error.
    """
    kinds = faiss.ScalarQuantizer
    found = [
        Method("int8", "per dimension", partial(_scalar, kinds.QT_8bit, kinds.RS_minmax, 0), True),
        Method("int8", "sentence-transformers", sentence_transformers_int8),
        Method("int4", "per dimension", partial(_scalar, kinds.QT_4bit, kinds.RS_minmax, 0), True),
        Method("int4", "least error", partial(_scalar, kinds.QT_4bit, kinds.RS_optim, 0)),
    ]
    for bits in (1, 2, 4):
        kind = getattr(kinds, f"QT_{bits}bit_tqmse")
        found.append(Method("TurboQuant", f"{bits}-bit", partial(_turbo, kind), bits == 2))
    for budget in BUDGETS:
        if budget <= width:
            build = partial(_scalar, kinds.QT_8bit, kinds.RS_minmax, budget)
            found.append(Method("PCA, 8 bits", f"{budget} dimensions", build, budget == 64))
        if 2 * budget <= width:
            for name, ranges in (("range", kinds.RS_minmax), ("least error", kinds.RS_optim)):
                build = partial(_scalar, kinds.QT_4bit, ranges, 2 * budget)
                found.append(Method("PCA, 4 bits", f"{2 * budget} dimensions, {name}", build))
    return found


def _scalar(kind, ranges, dimensions, train, documents, seed) -> Stored:
    width = train.shape[1]
    index = faiss.IndexScalarQuantizer(dimensions or width, kind, faiss.METRIC_INNER_PRODUCT)
    index.sq.rangestat = ranges
    fixed = 8 * (dimensions or width)
    if dimensions:
        index = faiss.IndexPreTransform(faiss.PCAMatrix(width, dimensions), index)
        fixed += 4 * width * (dimensions + 1)
    return faiss_stored(index, train, documents, fixed)


def _turbo(kind, train, documents, seed) -> Stored:
    width = train.shape[1]
    rotation = faiss.RandomRotationMatrix(width, width)
    rotation.init(seed)
    index = faiss.IndexScalarQuantizer(width, kind, faiss.METRIC_INNER_PRODUCT)
    return faiss_stored(
        faiss.IndexPreTransform(rotation, index), train, documents, 4 * width * width
    )


def sentence_transformers_int8(train, documents, seed) -> Stored:
    """``quantize_embeddings(precision="int8")``, calibrated on the training vectors."""
    decoded = _int8(train, documents)
    return Stored(documents.shape[1], 8 * documents.shape[1], decoded=decoded)


def _int8(train, documents) -> Array:
    low, high = train.min(axis=0), train.max(axis=0)
    codes = quantize_embeddings(documents, "int8", ranges=np.stack([low, high]))
    return low + (codes.astype(np.float32) + 128.5) * (high - low) / 255


def product(width: int) -> list[Method]:
    """Product quantization, as it is and after a learned rotation.

    Centring changes nothing for PQ, whose centroids move with the mean; OPQ gets centred vectors.
    Its rotation is found in 20 rounds on at most 4,096 vectors; with faiss's 50 rounds recall
    differs by at most 0.5 either way on cranfield.
    """
    found = []
    for size in BUDGETS:
        if width % size == 0:
            setting = f"{size} bytes"
            found.append(Method("PQ", setting, partial(_product, size, False), True))
            found.append(Method("OPQ", setting, partial(_product, size, True), size == 32))
    return found


def _product(size, turned, train, documents, seed) -> Stored:
    width = train.shape[1]
    index = faiss.IndexPQ(width, size, 8, faiss.METRIC_INNER_PRODUCT)
    index.pq.cp.seed = 1234 + seed  # faiss's own, for seed 0
    index.pq.cp.min_points_per_centroid = 1  # no warning: small sets are measured too
    fixed = 4 * 256 * width
    if turned:
        matrix, inside = faiss.OPQMatrix(width, size), faiss.ProductQuantizer(width, size, 8)
        inside.cp.min_points_per_centroid = 1
        matrix.niter, matrix.max_train_points, matrix.pq = 20, 4096, inside
        index = faiss.IndexPreTransform(matrix, index)
        fixed += 4 * width * width
    return faiss_stored(index, train, documents, fixed, centred=turned)


def additive(width: int) -> list[Method]:
    """Residual quantization: each byte names one of 256 vectors of full width, which are added up.

    Its tables take 4 x 256 x width bytes for each byte of a document: on small sets as much as the
    float documents, which it then learns by heart. The tables list it apart.
    """
    return [Method("RQ", f"{size} bytes", partial(_additive, size)) for size in (16, 32)]


def _additive(size, train, documents, seed) -> Stored:
    width = train.shape[1]
    index = faiss.IndexResidualQuantizer(width, size, 8, faiss.METRIC_INNER_PRODUCT)
    index.rq.cp.seed = 1234 + seed
    index.rq.cp.min_points_per_centroid = 1
    return faiss_stored(index, train, documents, 4 * 256 * size * width)


def rabitq(width: int) -> list[Method]:
    """RaBitQ after a random rotation, or after PCA to fewer dimensions and a rotation.

    faiss takes off the mean of the training vectors itself. ``qb`` are the bits of a query, 0 for
    a float query.
    """
    found = [
        Method("RaBitQ", f"{bits}-bit, qb={qb}", partial(_rabitq, bits, width, qb), bits == 1)
        for bits, qb in ((1, 0), (1, 8), (1, 4), (2, 8), (4, 8))
    ]
    for bits, extra in ((1, 8), (2, 20)):  # bytes of the factors of a document
        for budget in BUDGETS:
            dimensions = 8 * (budget - extra) // bits
            if 16 <= dimensions < width:
                build = partial(_rabitq, bits, dimensions, 8)
                found.append(Method("RaBitQ", f"{bits}-bit, {dimensions} dimensions, qb=8", build))
    return found


def _rabitq(bits, dimensions, qb, train, documents, seed) -> Stored:
    width = train.shape[1]
    index = faiss.IndexRaBitQ(dimensions, faiss.METRIC_INNER_PRODUCT, bits)
    index.qb = qb
    rotation = faiss.RandomRotationMatrix(dimensions, dimensions)
    rotation.init(seed)
    index = faiss.IndexPreTransform(rotation, index)
    fixed = 4 * dimensions * (dimensions + 1)
    if dimensions < width:
        index.prepend_transform(faiss.PCAMatrix(width, dimensions))
        fixed += 4 * width * (dimensions + 1)
    index.train(train)
    index.add(documents)
    n = len(documents)
    # Pairs of sentences need every score, rankings the best; all 15,000 would be slow to sort.
    deep = n if n <= 2000 else 100

    def scores(queries):
        values, ids = index.search(queries, deep)
        found = np.full((len(queries), n), -np.inf, np.float32)
        np.put_along_axis(found, ids, values, axis=1)
        return found

    search = partial(_ids, index)
    return Stored(index.sa_code_size(), fixed, scores={"estimate": scores}, search=search)


def _ids(index, queries):
    return index.search(queries, 10)[1]


def binary() -> list[Method]:
    """Signs of the documents: queries as signs too, as floats, or rescored by int8 documents."""
    return [
        Method("binary", "raw", partial(_binary, False), True),
        Method("binary", "centred", partial(_binary, True)),
        Method("binary + int8", "40 candidates", binary_int8, True),
    ]


def _binary(centred, train, documents, seed) -> Stored:
    width = documents.shape[1]
    mean = train.mean(axis=0) if centred else np.zeros(width, np.float32)
    signs = np.where(documents > mean, np.float32(1), np.float32(-1))
    index = faiss.IndexBinaryFlat(width)
    index.add(np.packbits(documents > mean, axis=1))
    row = np.arange(len(documents)) / len(documents)

    def hamming(queries):
        products = np.where(queries > mean, np.float32(1), np.float32(-1)) @ signs.T
        return products.astype(np.float64) - row  # many are equal: the lower row comes first

    return Stored(
        index.code_size,
        4 * width * centred,
        scores={"hamming": hamming, "float query": lambda queries: (queries - mean) @ signs.T},
        search=lambda queries: index.search(np.packbits(queries > mean, axis=1), 10)[1],
    )


def binary_int8(train, documents, seed) -> Stored:
    """The two stages that sentence-transformers documents: Hamming, then float query by int8."""
    width = documents.shape[1]
    index = faiss.IndexBinaryFlat(width)
    index.add(quantize_embeddings(documents, "ubinary"))
    decoded = _int8(train, documents)
    low, high = train.min(axis=0), train.max(axis=0)
    step = (high - low) / 255
    codes = quantize_embeddings(documents, "int8", ranges=np.stack([low, high]))

    def candidates(queries):
        return index.search(quantize_embeddings(queries, "ubinary"), CANDIDATES)[1]

    def scores(queries):
        found = np.full((len(queries), len(documents)), -np.inf, np.float32)
        ids = candidates(queries)
        values = np.einsum("mcd,md->mc", decoded[ids], queries)
        np.put_along_axis(found, ids, values, axis=1)
        return found

    def search(queries):
        ids = candidates(queries)
        products = np.matmul(codes[ids].astype(np.float32), (queries * step)[:, :, None])[:, :, 0]
        order = np.argsort(-products, axis=1)[:, :10]  # the term of ``low`` is that of the query
        return np.take_along_axis(ids, order, axis=1)

    return Stored(index.code_size + width, 8 * width, scores={"rescored": scores}, search=search)
