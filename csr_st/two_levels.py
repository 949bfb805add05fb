"""Codes of tokens and of pooled vectors together: one forward pass, one index, one exact sum.

A token-level code tells what a text mentions, a text-level one what it is about as a whole. Both
are sparse, so their latents can stand side by side in one code, and the score is the sum of both
cosines, each with its share.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from csr_st.code_arrays import index_dtype
from csr_st.codes import SparseCodes
from csr_st.encoding import Role, chunks, encode_method, encode_vectors
from csr_st.head import SparseCSRHead, find_head, unpack
from csr_st.model.settings import number

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

SHARE = 0.7  # of tokens; chosen on cranfield, see tests/benchmarks/token_level.py


def join_codes(first: SparseCodes, second: SparseCodes, share: float = SHARE) -> SparseCodes:
    """Two codes of each item as one, whose cosine is a weighted mean of their cosines.

    With c1 and c2 the cosines of the first and second codes, it is share * c1 + (1 - share) * c2.

    The latents of the second follow those of the first: latent j has number
    ``first.hidden_dim + j``. An item of which one code is empty has the other's cosine alone.

    >>> first = SparseCodes(np.array([[1]]), np.array([[2.0]], np.float32), 4)
    >>> second = SparseCodes(np.array([[0]]), np.array([[5.0]], np.float32), 3)
    >>> join_codes(first, second, share=0.64).to_dense()
    array([[0. , 0.8, 0. , 0. , 0.6, 0. , 0. ]], dtype=float32)

    Args:
        first: n codes, such as token-level ones.
        second: n codes of the same items.
        share: Weight of the first codes in a score, 0..1; equal for queries and documents.

    Returns:
        n codes at unit norm with ``first.hidden_dim + second.hidden_dim`` latents, without the
        norms that a decoder needs.

    Raises:
        TypeError: If ``share`` is not a number.
        ValueError: If ``first`` and ``second`` differ in length, or ``share`` is out of bounds.
    """
    share = number("share", share, 1)
    if len(first) != len(second):
        raise ValueError(
            f"{len(first)} codes cannot be joined with {len(second)}; give the codes of the same "
            "items"
        )
    hidden_dim = first.hidden_dim + second.hidden_dim
    parts = first.normalize(), second.normalize()
    weights = math.sqrt(share), math.sqrt(1 - share)
    values = [w * part.values.astype(np.float32) for w, part in zip(weights, parts, strict=True)]
    shifts = 0, first.hidden_dim
    indices = [part.indices.astype(np.int64) + n for n, part in zip(shifts, parts, strict=True)]
    joined = np.concatenate(indices, axis=1).astype(index_dtype(hidden_dim))
    codes = SparseCodes(joined, np.concatenate(values, axis=1), hidden_dim)
    unit = codes.normalize().values
    return SparseCodes(codes.indices, unit, hidden_dim)


def codes_and_vectors(
    model: SentenceTransformer,
    inputs: Any,
    k: int,
    *,
    role: Role | None = None,
    batch_size: int = 32,
    show_progress: bool | None = None,
    **kwargs: Any,
) -> Iterator[tuple[SparseCodes, NDArray[np.float32]]]:
    """Codes of a token-level head and the dense vectors of the same texts, part after part.

    The arguments are those of `csr_st.encode`.

    Yields:
        Raw codes of k latents, and (b, d) vectors.
    """
    head, method, width = find_head(model), encode_method(model, role), 2 * k + 1
    options = {"k": k, "packed": True, "with_dense": True, "batch_size": batch_size, **kwargs}
    for chunk in chunks(model, inputs, batch_size, show_progress):
        rows = np.asarray(method(chunk, **options))
        code, _ = unpack(torch.from_numpy(rows[:, :width]))
        latents = code.indices.numpy().astype(index_dtype(head.hidden_dim))
        yield SparseCodes(latents, code.values.numpy(), head.hidden_dim), rows[:, width:]


def encode_two_levels(
    model: SentenceTransformer,
    text_head: SparseCSRHead,
    inputs: Any,
    k: int | None = None,
    text_k: int | None = None,
    *,
    share: float = SHARE,
    role: Role | None = None,
    batch_size: int = 32,
    show_progress: bool | None = None,
    **kwargs: Any,
) -> SparseCodes:
    """Joined codes of both levels, from one forward pass of the backbone.

    For example ``csr_st.encode_two_levels(model, csr_st.find_head(text_model), texts)``.

    Args:
        model: A model with a token-level head.
        text_head: A text-level head of the same backbone.
        inputs: As for `csr_st.encode`, and so are all arguments that are not named here.
        k: Active latents of the token-level code; the head's default for the role when None.
        text_k: Active latents of the text-level code; when None the head's default, four times that
            for queries.
        share: Weight of the token-level code in a score, see `join_codes`.
        role: "query" or "document".
        batch_size: Inputs per forward pass.
        show_progress: Show a progress bar.
        kwargs: Passed to the model's encode method, such as ``prompt_name``.

    Returns:
        Codes of ``k + text_k`` latents.

    Raises:
        TypeError: As `csr_st.encode`.
        ValueError: As `csr_st.encode`, and if the model's head is not of tokens, or ``text_head``
            not of texts or of another width than the backbone.
    """
    head = find_head(model)
    if head.level != "token" or text_head.level != "text":
        raise ValueError(
            f"the model's head has level={head.level!r} and text_head level={text_head.level!r}; "
            "they must be 'token' and 'text'"
        )
    number("share", share, 1)
    k = head.resolve_k(k, task=role)
    if text_k is None and role == "query" and text_head.query_k is None:
        text_k = min(4 * text_head.k, text_head.hidden_dim)
    text_k = text_head.resolve_k(text_k, task=role)
    options = {"role": role, "batch_size": batch_size, "show_progress": show_progress, **kwargs}
    parts = [
        join_codes(tokens, encode_vectors(text_head, dense, text_k), share)
        for tokens, dense in codes_and_vectors(model, inputs, k, **options)
    ]
    if parts:
        return SparseCodes.concatenate(parts)
    hidden_dim = head.hidden_dim + text_head.hidden_dim
    none = np.empty((0, k + text_k))
    return SparseCodes(none.astype(index_dtype(hidden_dim)), none.astype(np.float32), hidden_dim)
