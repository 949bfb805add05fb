"""Vectors of words, so that a word also counts for words that mean nearly the same.

Ridge regression from the words of texts to which latents they have: a word's vector is what it adds
to them. Two words are alike if texts with them have the same latents. Every latent that a text has
counts, whatever its value, and all latents count alike, frequent or rare.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from sklearn.utils.extmath import randomized_svd

WIDTH = 200  # principal directions of the latents that are fitted
RIDGE = 3.0  # against text vectors of unit length
MOST_TEXTS = 4000  # fitted to so many at most: time grows with the third power


@dataclass(frozen=True)
class WordVectors:
    """Vectors of words and of texts.

    Attributes:
        words: (n_words, width) float32.
        texts: (n, width) float32 of unit length, sums of the vectors of their words; 0 where a
            text has none.
    """

    words: NDArray[np.float32]
    texts: NDArray[np.float32]

    @classmethod
    def fit(
        cls,
        matrix: scipy.sparse.csr_matrix,
        codes: scipy.sparse.csr_matrix,
        naming: NDArray[np.int64],
    ) -> WordVectors:
        """Fit to some of the texts; vectors are given for all.

        Args:
            matrix: (n, n_words) the words of the texts, rows of unit length.
            codes: (n, hidden_dim) their codes.
            naming: Rows to fit to.
        """
        fitted = naming[:MOST_TEXTS]
        there, target = matrix[fitted], _membership(codes[fitted])
        if not matrix.shape[1] or not target.nnz:
            return cls(*(np.zeros((rows, 1), np.float32) for rows in matrix.shape[::-1]))
        width = min(WIDTH, *target.shape)
        left, values, _ = randomized_svd(target, width, n_iter=2, random_state=0)
        # In the dual form: there are fewer texts than words
        kernel = (there @ there.T).toarray()
        kernel[np.diag_indices_from(kernel)] += RIDGE
        dual = np.linalg.solve(kernel, (left * values).astype(np.float32))
        words = there.T @ dual
        return cls(_unit(words), _unit(matrix @ words))


def _membership(codes: scipy.sparse.csr_matrix) -> scipy.sparse.csr_matrix:
    """(n, hidden_dim) which latents texts have, the column of each latent at unit length."""
    has = (codes > 0).astype(np.float32)
    uses = np.asarray(has.sum(axis=0)).ravel()
    return (has @ scipy.sparse.diags(1 / np.sqrt(np.maximum(uses, 1)))).astype(np.float32)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float32] = (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return unit
