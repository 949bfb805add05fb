"""Texts and codes at random, and their scores by SciPy and bm25s."""

import math

import bm25s
import numpy as np
import scipy.sparse
import Stemmer
from hypothesis import strategies as st

from csr_st.codes import SparseCodes

HIDDEN_DIM = 30
NAMES = [
    "runs",
    "running",
    "cat",
    "naïve",
    "Straße",
    "日本",
    "日本語 テキスト",
    "the",
    "and",
    "🦊",
    "a1",
]


def tokens_of(texts):
    return bm25s.tokenize(
        texts,
        stopwords="english",
        stemmer=Stemmer.Stemmer("english"),
        return_ids=False,
        show_progress=False,
    )


def bm25s_product(documents, queries):
    """(queries, documents) of BM25 by bm25s, over the square root of the words of a query."""
    tokens, asked = tokens_of(documents), tokens_of(queries)
    names = sorted({word for row in tokens for word in row})
    if not names:
        return np.zeros((len(queries), len(documents)))
    numbers = {name: place for place, name in enumerate(names)}
    retriever = bm25s.BM25(method="lucene", k1=0.9, b=0.4)
    rows = [[numbers[word] for word in row] for row in tokens]
    retriever.index((rows, numbers), show_progress=False)
    stored = retriever.scores
    shape = len(documents), max(len(stored["indptr"]) - 1, len(names))
    parts = stored["data"], stored["indices"], stored["indptr"]
    matrix = scipy.sparse.csc_matrix(parts, shape=shape).astype(np.float64)
    counts = np.zeros((len(queries), shape[1]))
    for row, words in enumerate(asked):
        for word in words:
            if word in numbers:
                counts[row, numbers[word]] += 1 / math.sqrt(len(words))
    return (matrix @ counts.T).T


def expected(documents, queries, texts, asked, weight):
    codes = np.zeros((len(asked), len(texts)))
    if documents is not None:
        product = queries.normalize().to_scipy() @ documents.normalize().to_scipy().T
        codes = product.toarray()
    return codes + weight * bm25s_product(texts, asked)


def random_codes(rng, n, k=4, hidden_dim=HIDDEN_DIM):
    indices = np.argsort(rng.random((n, hidden_dim)), axis=1)[:, :k].astype(np.uint8)
    values = -np.sort(-rng.exponential(size=(n, k)).astype(np.float32) - 0.05, axis=1)
    values[rng.random(n) < 0.1] = 0
    return SparseCodes(indices, values, hidden_dim).normalize()


def random_texts(rng, n, most=40, vocabulary=500):
    usage = 1 / np.arange(1, vocabulary + 1)
    names = np.array([f"word{number}" for number in range(vocabulary)])
    rows = [rng.choice(names, rng.integers(0, most), p=usage / usage.sum()) for _ in range(n)]
    return [" ".join(row) for row in rows]


@st.composite
def texts(draw, least=1, most=12):
    words = st.sampled_from(NAMES) | st.text(max_size=6)
    text = st.just("") | st.just("the and of") | st.lists(words, max_size=12).map(" ".join)
    return draw(st.lists(text, min_size=least, max_size=most))
