"""Encode inputs or dense vectors to `SparseCodes`, without an (n, hidden_dim) array."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from csr_st._io.progress import progress
from csr_st.code_options import CodeOptions
from csr_st.codes import SparseCodes, index_dtype
from csr_st.data.images import decoded, is_picture
from csr_st.data.inputs import as_inputs, check_input
from csr_st.head import SparseCSRHead, find_head
from csr_st.sparse_encoders import AnyModel, joined, ready, trimmed
from csr_st.vectors import VectorInput

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Role = Literal["query", "document"]

# Inputs are encoded in chunks of this many batches: enough that sorting by length saves padding,
# few enough that the packed rows need little memory.
BATCHES_PER_CHUNK = 128

# Arguments of model.encode that would corrupt the packed rows; `encode_dense` refuses the first.
RESERVED_FOR_DENSE = {"convert_to_tensor", "output_value", "precision", "truncate_dim"}
RESERVED = RESERVED_FOR_DENSE | {"convert_to_numpy", "normalize_embeddings", "packed", "with_dense"}


def encode(  # twelve arguments: those of model.encode, and of codes
    model: AnyModel,
    inputs: Any,
    k: int | None = None,
    *,
    pursuit: bool = False,
    residual_bits: float = 0,
    value_bits: int | None = None,
    role: Role | None = None,
    batch_size: int = 32,
    dtype: Literal["float32", "float16"] = "float32",
    device: str | list[str] | None = None,
    show_progress: bool | None = None,
    **kwargs: Any,
) -> SparseCodes:
    """The sparse codes of any number of inputs; memory grows with n * k, not n * hidden_dim.

    Args:
        model: A model whose last module is a `SparseCSRHead`; or any `SparseEncoder`, such as a
            SPLADE model. Its codes have its own dimensions and values, which are not scaled:
            hidden_dim is the vocabulary. To rank as the model does, build a `SparseIndex` with
            ``similarity=model.similarity_fn_name``, and pass ``codes.to_scipy()`` to an engine:
            both scale codes to unit norm otherwise.
        inputs: One input or many of what the model embeds: a list, a generator, a column of
            pandas, polars, Arrow or `datasets`, a NumPy array of strings.
        k: Active latents per input; when None, the head's default for the role. For a
            `SparseEncoder` without a head: its ``max_active_dims``, or k of its autoencoder; else
            all active dimensions up to 1,024, the largest (a warning says if there may be more).
        pursuit: Choose latents and their values by orthogonal matching pursuit
            (`csr_st.model.pursuit`), so that the decoded code comes nearer to the dense vector. For
            documents that are rescored. The head then takes some 30 times as long, still less than
            a backbone.
        residual_bits: Quantize the residual, dense vector minus decoded code at this k, to this
            many bits per dimension: a multiple of 0.25 up to 4, such as 0.5, 1 or 2; 0 for none
            (see `csr_st.residual`). For documents that are rescored; queries need none.
        value_bits: 4 or 8: round values as ``pack(value_bits)`` does, before the residual is
            computed, so that packing then loses nothing. None keeps them.
        role: "query" or "document": use the prompt and the default k of ``encode_query`` or
            ``encode_document``.
        batch_size: Inputs per forward pass.
        dtype: Type of the stored values.
        device: Where to run; a list of devices starts one process on each.
        show_progress: Show a progress bar; when None, only for more than one chunk of inputs.
        kwargs: Passed to the model's encode method, such as ``prompt_name``.

    Returns:
        Codes in the order of the inputs, at unit norm if the head normalises.

    Raises:
        TypeError: If k or value_bits is not an integer, residual_bits not a number, pursuit not a
            bool, kwargs contain one that does not apply to codes, inputs are a set or a table, or
            one is a number or bytes.
        ValueError: If a `SentenceTransformer` has no head or a ``truncate_dim``, k or a number of
            bits is out of bounds, pursuit or residual_bits are asked of a model without a head,
            role or dtype is unknown, an input is missing or embeds to NaN or Inf, or a value is
            negative or exceeds ``dtype``.
    """
    if refused := sorted(RESERVED & set(kwargs)):
        raise TypeError(
            f"csr_st.encode takes no {', '.join(refused)}: it returns SparseCodes; use their "
            "to_dense, to_torch or normalize, or call model.encode"
        )
    if "max_active_dims" in kwargs:
        raise TypeError("csr_st.encode takes no max_active_dims: it has the name k here; pass k=")
    prepared, coder, k, all_active = ready(model, k, role)
    options = CodeOptions(pursuit, residual_bits, value_bits)
    options.check_for(coder)
    kind = np.dtype(dtype)
    if kind not in (np.float32, np.float16):
        raise ValueError(f"dtype={dtype!r} must be 'float32' or 'float16'")
    method = encode_method(prepared, role)
    pool = prepared.start_multi_process_pool(device) if isinstance(device, list) else None
    kwargs |= {"device": device} if pool is None else {"pool": pool}
    kwargs |= {"max_active_dims": k, "batch_size": batch_size, **options.of_forward}
    parts = []
    try:
        for chunk in chunks(prepared, inputs, batch_size, show_progress):
            codes = options.codes(coder, k, method(chunk, **kwargs), kind)
            parts.append(trimmed(codes) if all_active else codes)
    finally:
        if pool is not None:
            prepared.stop_multi_process_pool(pool)
    if not parts:
        none = np.empty((0, options.width(coder, k)), np.float32)
        parts.append(options.codes(coder, k, none, kind))
    return joined(parts) if all_active else SparseCodes.concatenate(parts)


def encode_dense(
    model: AnyModel,
    inputs: Any,
    *,
    role: Role | None = None,
    batch_size: int = 32,
    show_progress: bool | None = None,
    **kwargs: Any,
) -> NDArray[np.float32]:
    """The dense vectors that the head encodes: for rescoring through the decoder, or to compare.

    The arguments are those of `encode`.

    Returns:
        (n, input_dim) float32 vectors.

    Raises:
        TypeError: If kwargs contain one that would change the vectors, or as for `encode`.
        ValueError: If the model has no head or a ``truncate_dim``, role is unknown, or an input is
            missing.
    """
    if refused := sorted(RESERVED_FOR_DENSE & set(kwargs)):
        raise TypeError(
            f"csr_st.encode_dense takes no {', '.join(refused)}: it returns the vectors that the "
            "head encodes, as float32"
        )
    prepared = ready(model, 1, role).model
    width = find_head(prepared).input_dim
    dense = {"output_value": "dense_embedding", "convert_to_numpy": False}
    kwargs = {"batch_size": batch_size, "k": 1, "packed": True, **dense, **kwargs}
    method = encode_method(prepared, role)
    parts = [
        torch.stack(method(chunk, **kwargs)).float().cpu().numpy()
        for chunk in chunks(prepared, inputs, batch_size, show_progress)
    ]
    return np.concatenate(parts) if parts else np.empty((0, width), np.float32)


def encode_vectors(
    head: SparseCSRHead,
    vectors: Any,
    k: int,
    batch_size: int = 1024,
    *,
    pursuit: bool = False,
    residual_bits: float = 0,
    value_bits: int | None = None,
) -> SparseCodes:
    """The sparse codes of dense vectors, without a model: for vectors of any origin.

    Codes have unit norm whatever the head's ``normalize`` is, and keep the norms of the raw
    codes, which the decoder needs.

    Args:
        head: The head; it encodes on its own device.
        vectors: (n, input_dim) of any real type, in the scale that the head was trained on: an
            array, a tensor, a table, or a list or column of vectors.
        k: Active latents per vector.
        batch_size: Vectors per forward pass.
        pursuit: See `encode`.
        residual_bits: Bits per dimension of the residual, see `encode`.
        value_bits: Bits of a value, 4 or 8, see `encode`.

    Returns:
        n codes of k latents, in the order of the vectors, with float32 values.

    Raises:
        TypeError: If k or value_bits is not an integer, residual_bits not a number, pursuit not a
            bool, or vectors are not numbers.
        ValueError: If vectors are not (n, input_dim) or contain NaN or Inf, k is not within
            1..hidden_dim, a number of bits is not possible, batch_size is below 1, or the head is
            a token-level head.
    """
    head.refuse_reconstruction(encode_vectors=True)
    k, options = head.check_k(k), CodeOptions(pursuit, residual_bits, value_bits)
    matrix = _as_matrix(vectors, head.input_dim)
    _check_batch_size(batch_size)
    parts = []
    with torch.inference_mode():
        for start in range(0, max(len(matrix), 1), batch_size):
            rows = matrix[start : start + batch_size]
            if isinstance(rows, np.ndarray):
                with np.errstate(over="ignore"):  # the head refuses Inf
                    rows = torch.from_numpy(rows.astype(np.float32))  # a copy: torch wants to write
            found = head.encode(rows.to(head.pre_bias.device), k, pursuit=pursuit)
            values, latents = (part.cpu() for part in found)
            indices = latents.numpy().astype(index_dtype(head.hidden_dim))
            arrays = indices, values.float().numpy()
            codes = SparseCodes(*arrays, head.hidden_dim, fitted=pursuit).normalize()
            parts.append(options.finished(head, codes, rows.detach().float().cpu().numpy()))
    return SparseCodes.concatenate(parts)


def _as_matrix(vectors: Any, width: int) -> Any:
    """Vectors as an (n, width) tensor or array of real numbers, shared where possible."""
    if not isinstance(vectors, torch.Tensor):
        rows = np.asarray(vectors) if hasattr(vectors, "columns") else as_inputs(vectors)
        if isinstance(rows, list | tuple):
            rows = [row.detach().cpu() if isinstance(row, torch.Tensor) else row for row in rows]
        try:
            vectors = np.asarray(rows)
        except ValueError:
            raise ValueError(
                f"vectors are of different widths; each needs {width} numbers"
            ) from None
        if vectors.dtype.kind not in "fiub" and vectors.size:
            raise TypeError(f"vectors are {vectors.dtype}; each must be {width} real numbers")
        if vectors.shape == (0,):
            vectors = vectors.reshape(0, width)
    if vectors.ndim != 2:
        raise ValueError(f"vectors of shape {tuple(vectors.shape)} must be (n, {width})")
    return vectors


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")


def encode_method(model: SentenceTransformer, role: Role | None) -> Any:
    """The model's method that encodes for a role.

    Raises:
        ValueError: If the role is unknown, or the model has a ``truncate_dim``.
    """
    methods = {None: "encode", "query": "encode_query", "document": "encode_document"}
    if role not in methods:
        raise ValueError(f"role={role!r} must be 'query', 'document' or None")
    if model.truncate_dim is not None:
        raise ValueError(
            f"the model has truncate_dim={model.truncate_dim}, which would keep arbitrary latents; "
            "set model.truncate_dim = None and pass k= for shorter codes"
        )
    return getattr(model, methods[role])


def chunks(
    model: SentenceTransformer, inputs: Any, batch_size: int, show_progress: bool | None
) -> Iterator[list[Any]]:
    """Checked inputs in lists that a model's encode method takes, with a progress bar."""
    _check_batch_size(batch_size)
    inputs = as_inputs(inputs)
    # sentence-transformers takes everything that is not a list for one input, a generator too.
    single = not isinstance(inputs, Iterator) and model.is_singular_input(inputs)
    items: Iterable[Any] = [inputs] if single else inputs
    total = len(items) if isinstance(items, Sized) else None
    size = batch_size * BATCHES_PER_CHUNK
    if show_progress is None:
        show_progress = total is None or total > size
    vectors = isinstance(model[0], VectorInput)
    place = itertools.count()
    iterator = iter(items)
    with progress(total, "Encoding", "items", show_progress) as bar:
        while chunk := list(itertools.islice(iterator, 1)):
            # Images are not sorted by length, and need much more memory than texts.
            rest = (batch_size if is_picture(chunk[0]) else size) - 1
            chunk += itertools.islice(iterator, rest)
            for item in chunk:
                check_input(item, next(place), vectors=vectors)
            yield decoded(chunk)
            bar.update(len(chunk))
