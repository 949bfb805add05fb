"""Names of latents from contrast: words of texts with a latent against those without."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from csr_st.codes import SparseCodes
from csr_st.insight.chance import beats_chance, weighted_auc
from csr_st.insight.choosing import chosen_words
from csr_st.insight.names import LatentName, LatentNames
from csr_st.insight.vocabulary import WORD_PATTERN, Vocabulary
from csr_st.insight.word_vectors import WordVectors
from csr_st.packed_codes import PackedCodes

NameWith: TypeAlias = Callable[[list[str], list[str]], "str | Sequence[str]"]

NAMING_SHARE = 0.6  # of the texts; names are tested on the others
STRONGEST = 10
NEIGHBOURS = 5
LEAST = 2  # texts: one to name by and one to test on
COLUMNS_AT_ONCE = 512


def name_latents(
    codes: SparseCodes | PackedCodes, texts: Iterable[str], name_with: NameWith | None = None
) -> LatentNames:
    """A few words for each latent, and how well they tell texts with it from texts without.

    60% of the texts, drawn with a fixed seed, are for naming: on them words get vectors
    (`csr_st.insight.word_vectors`), and each latent the at most 6 words that best tell its texts
    from the others (`csr_st.insight.choosing`). The other 40% are for testing. There, the score of
    a text is the mean similarity of its words with those of the name, and ``auc`` the ROC AUC of
    that score for texts in which the latent is active against texts in which it is not. A text with
    the latent counts by the share of its code that the latent has: the square of its value, where
    the squares of a code add up to 1. So names are judged by the texts that a latent matters for.

    A latent whose words do no better than chance is unnamed: if the same AUC with all texts
    counted alike is below what 95% of scores without any relation reach.

    For example::

        names = csr_st.name_latents(csr_st.encode(model, texts, k=32), texts)
        print(names.table())

    The same codes and texts give the same names. Words are runs of letters and digits, in lower
    case; a language that writes without spaces needs texts that are split.

    Args:
        codes: (n, k) codes of the texts, or of images with captions.
        texts: n texts, or captions.
        name_with: A function that names a latent, for example with a language model. It gets the
            texts for naming in which the latent is strongest (at most 10, strongest first) and the
            words found here, and returns a str, or a list of words. Its name is tested in the same
            way, by its words that occur in the texts; without any of them the latent is unnamed.

    Raises:
        TypeError: If codes are no `SparseCodes`, a text is not a str, or name_with not callable or
            does not return str.
        ValueError: If there are not as many texts as codes, or fewer than 2.
    """
    codes, listed = _checked(codes, texts)
    if name_with is not None and not callable(name_with):
        raise TypeError(f"name_with={name_with!r:.60} must be a function of texts and words")
    n, matrix = len(codes), codes.normalize().to_scipy()
    order = np.random.default_rng(0).permutation(n)
    split = min(max(round(NAMING_SHARE * n), 1), n - 1)
    naming, testing = np.sort(order[:split]), np.sort(order[split:])
    vocabulary = Vocabulary.of(listed, naming)
    vectors = WordVectors.fit(vocabulary.matrix, matrix, order[:split])
    chosen = chosen_words(vocabulary.matrix[naming], matrix[naming], vectors, vectors.texts[naming])
    drafts = [_Draft(tuple(vocabulary.words[places].tolist()), places) for places in chosen]
    if name_with is not None:
        naming_codes = matrix[naming].tocsc()
        for latent in np.flatnonzero(np.diff(naming_codes.indptr)).tolist():
            rows = naming[_strongest(naming_codes, latent)]
            given = name_with([listed[row] for row in rows], list(drafts[latent].words))
            drafts[latent] = _Draft.given(given, vocabulary)
    tested = _tested(drafts, vectors, matrix[testing].tocsc(), testing)
    near, columns = _neighbours(matrix), matrix.tocsc()
    uses = np.diff(columns.indptr)
    found = [
        LatentName(
            latent=latent,
            words=drafts[latent].words if tested[latent].passed else (),
            auc=tested[latent].auc,
            frequency=float(uses[latent] / n),
            texts=tuple(_strongest(columns, latent).tolist()),
            neighbours=near[latent],
        )
        for latent in np.flatnonzero(uses).tolist()
    ]
    return LatentNames(found, hidden_dim=codes.hidden_dim, k=codes.k, n_texts=n)


class _Draft(NamedTuple):
    """A name before it is tested.

    Attributes:
        words: As they are shown.
        places: Places of the words that are tested, in the vocabulary.
    """

    words: tuple[str, ...]
    places: NDArray[np.int64]

    @classmethod
    def given(cls, name: Any, vocabulary: Vocabulary) -> _Draft:
        """What a function of the caller's returned."""
        parts = name.split(",") if isinstance(name, str) else name
        if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
            raise TypeError(f"name_with returned {name!r:.60}; return a str or a list of str")
        words = tuple(filter(None, (" ".join(part.split()) for part in parts)))
        tokens = sorted(set(re.findall(WORD_PATTERN, " ".join(words).lower())))
        places = np.searchsorted(vocabulary.words, tokens)
        known = [
            place
            for place, token in zip(places.tolist(), tokens, strict=True)
            if place < len(vocabulary.words) and vocabulary.words[place] == token
        ]
        return cls(words, np.array(known, np.int64))


class _Test(NamedTuple):
    auc: float
    passed: bool


def _tested(
    drafts: list[_Draft],
    vectors: WordVectors,
    codes: scipy.sparse.csc_matrix,
    testing: NDArray[np.int64],
) -> list[_Test]:
    """Each name on the texts for testing, whose codes are given by column."""
    texts, tests = vectors.texts[testing], []
    for first in range(0, len(drafts), COLUMNS_AT_ONCE):
        part = drafts[first : first + COLUMNS_AT_ONCE]
        sums = [vectors.words[draft.places].sum(axis=0) for draft in part]
        scores = np.ascontiguousarray((texts @ np.stack(sums, axis=1)).T)
        for latent, draft in enumerate(part, first):
            column = slice(*codes.indptr[latent : latent + 2])
            weights = np.zeros(len(testing))
            weights[codes.indices[column]] = codes.data[column].astype(np.float64) ** 2
            if not len(draft.places):
                tests.append(_Test(math.nan, False))
                continue
            auc = weighted_auc(scores[latent - first], weights)
            passed = beats_chance(scores[latent - first], weights > 0)
            tests.append(_Test(auc, passed))
    return tests


def _strongest(columns: scipy.sparse.csc_matrix, latent: int) -> NDArray[np.integer[Any]]:
    """The rows of the largest values of a column, largest first."""
    column = slice(*columns.indptr[latent : latent + 2])
    best = np.argsort(-columns.data[column], kind="stable")[:STRONGEST]
    rows: NDArray[np.integer[Any]] = columns.indices[column][best]
    return rows


def _neighbours(matrix: scipy.sparse.csr_matrix) -> list[tuple[int, ...]]:
    """For each latent those with the largest cosine of their values over the texts."""
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=0)).ravel())
    scaled = matrix @ scipy.sparse.diags(1 / np.where(lengths > 0, lengths, 1))
    alike = (scaled.T @ scaled).tocsr()
    alike.sort_indices()
    found = []
    for latent in range(matrix.shape[1]):
        row = slice(*alike.indptr[latent : latent + 2])
        others = alike.indices[row] != latent
        order = np.argsort(-alike.data[row][others], kind="stable")[:NEIGHBOURS]
        found.append(tuple(alike.indices[row][others][order].tolist()))
    return found


def _checked(codes: Any, texts: Any) -> tuple[SparseCodes, list[str]]:
    if isinstance(codes, PackedCodes):
        codes = codes.unpack()
    if not isinstance(codes, SparseCodes):
        raise TypeError(f"codes are {type(codes).__name__}; pass csr_st.SparseCodes")
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise TypeError(f"texts are {texts!r:.60}; pass a list with the text of each code")
    listed = list(texts)
    for row, text in enumerate(listed):
        if not isinstance(text, str):
            raise TypeError(f"text {row} is {text!r:.60}, no str; pass '' where there is no text")
    if len(listed) != len(codes):
        raise ValueError(f"there are {len(listed)} texts for {len(codes)} codes; pass one for each")
    if len(listed) < LEAST:
        raise ValueError(f"there are {len(listed)} texts; names need at least {LEAST}")
    return codes, listed
