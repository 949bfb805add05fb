"""Heads from checkpoints of the CSR papers' authors and of CompresSAE.

Only tensors are read: safetensors, or ``torch.load(weights_only=True)``.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from csr_st.head import SparseCSRHead

CONTAINERS = ("state_dict", "model_state_dict", "model")  # keys that wrap the tensors
SAFE_SINCE = (2, 6)  # before it, weights_only=True could run a file's code: CVE-2025-32434
ENCODER, DECODER = "encoder.weight", "decoder.linear.weight"  # one tensor, under either name


def head_from_checkpoint(path: str | Path, k: int, *, normalize: bool = False) -> SparseCSRHead:
    """The head in a checkpoint of the CSR or CSRv2 code (arXiv 2503.01776, 2602.05735).

    The files do not contain k. Vectors are assumed not to be standardised, which no published
    script does.

    Args:
        path: The .pth, .pt, .bin or .safetensors file.
        k: Active latents it was trained for, ``topk`` in the file's name.
        normalize: Scale codes to unit length; the authors' code does not.

    Returns:
        A tied head, to attach to the backbone of the training vectors.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, contains more than tensors, or its tensors do not fit;
            or k is out of bounds.
        ImportError: If this torch cannot read a .pth file safely.
    """
    return head_of(read_tensors(path), k, str(path), normalize=normalize)


def head_from_file(path: str | Path, k: int) -> SparseCSRHead:
    """`head_from_compressae` or `head_from_checkpoint`, chosen by the names of the tensors.

    Arguments and errors are those of `head_from_checkpoint`.
    """
    weights = read_tensors(path)
    if "encoder_w" in weights:
        return head_from_compressae(weights, k)
    return head_of(weights, k, str(path), normalize=False)


def head_from_compressae(
    source: str | Path | Mapping[str, Tensor], k: int, *, normalize: bool = True
) -> SparseCSRHead:
    """The head equal to a CompresSAE autoencoder (arXiv 2505.11388), with twice its latents.

    CompresSAE keeps the k latents of largest magnitude with their sign; a `SparseCSRHead` keeps the
    k largest positive ones. With rows W and -W, one latent for each sign, the k largest positive
    of 2h are the k largest magnitudes of h:

    - Kept at every k: the active latents, their magnitudes, and the reconstruction.
    - Changed: a latent with opposite signs in two items adds nothing to their dot product, where
      signed codes subtract.
    - Not in the head: CompresSAE first scales vectors to unit length, so the backbone must too.

    Args:
        source: A file as for `head_from_checkpoint`, or its tensors: ``encoder_w`` (d, h),
            ``encoder_b`` (h,), ``decoder_w`` (h, d).
        k: Active latents it was trained for.
        normalize: Scale codes to unit length.

    Returns:
        An untied head of 2h latents; latent h + i is the negative of latent i.

    Errors are those of `head_from_checkpoint`.
    """
    weights = source if isinstance(source, Mapping) else read_tensors(source)
    where = "the weights" if isinstance(source, Mapping) else str(source)
    w, b, d = (_tensor(weights, name, where) for name in ("encoder_w", "encoder_b", "decoder_w"))
    if w.ndim != 2 or b.shape != w.shape[1:] or d.shape != w.T.shape:
        raise ValueError(
            f"{where}: encoder_w {tuple(w.shape)}, encoder_b {tuple(b.shape)} and decoder_w "
            f"{tuple(d.shape)} must be (d, h), (h,) and (h, d)"
        )
    signed = {
        ENCODER: torch.cat([w.T, -w.T]),
        "pre_bias": torch.zeros(len(w)),
        "latent_bias": torch.cat([b, -b]),
    }
    return head_of(signed, k, where, normalize=normalize, decoder=torch.cat([d, -d]))


def head_of(
    weights: Mapping[str, Any],
    k: int,
    where: str,
    *,
    normalize: bool,
    decoder: Tensor | None = None,
) -> SparseCSRHead:
    """A head with the three tensors of the authors' layout, which sentence-transformers shares.

    Args:
        weights: Tensors by name: ``encoder.weight`` (h, d), ``pre_bias`` (d,), ``latent_bias``
            (h,). A ``decoder.linear.weight`` must equal the encoder's; others are ignored.
        k: Default active latents.
        where: Name of the source, for messages.
        normalize: Scale codes to unit length.
        decoder: (h, d) rows of the decoder; the head is tied when None.

    Raises:
        ValueError: If a tensor is missing, not finite or of a wrong shape, or k is out of bounds.
    """
    stored_as = DECODER if DECODER in weights and ENCODER not in weights else ENCODER
    names = (stored_as, "pre_bias", "latent_bias")
    encoder, pre_bias, latent_bias = (_tensor(weights, name, where) for name in names)
    if encoder.ndim != 2:
        raise ValueError(f"{where}: {ENCODER} has shape {tuple(encoder.shape)}, not (h, d)")
    hidden_dim, input_dim = encoder.shape
    for name, bias, size in zip(
        names[1:], (pre_bias, latent_bias), (input_dim, hidden_dim), strict=True
    ):
        if tuple(bias.shape) != (size,):
            raise ValueError(
                f"{where}: {name} has shape {tuple(bias.shape)}, but {ENCODER} with "
                f"{tuple(encoder.shape)} needs ({size},)"
            )
    is_stored = isinstance(weights.get(DECODER), Tensor)
    if is_stored and not torch.equal(_tensor(weights, DECODER, where), encoder):
        raise ValueError(f"{where} has a {DECODER} unequal to {ENCODER}: its decoder is not tied")
    head = SparseCSRHead(input_dim, hidden_dim, k, normalize=normalize, tied=decoder is None)
    with torch.no_grad():
        head.encoder_weight.copy_(encoder)
        head.pre_bias.copy_(pre_bias)
        head.latent_bias.copy_(latent_bias)
        if decoder is not None:
            head.decoder_weight.copy_(decoder)
    return head


def _tensor(weights: Mapping[str, Any], name: str, where: str) -> Tensor:
    found = weights.get(name)
    if not isinstance(found, Tensor):
        raise ValueError(
            f"{where} has no tensor {name!r}, only {sorted(map(str, weights))[:8]}; use "
            "head_from_checkpoint for the CSR authors' files, head_from_compressae for CompresSAE's"
        )
    if not found.is_floating_point() or found.layout is not torch.strided or found.is_meta:
        kind = f"{found.dtype}, {found.layout}".replace("torch.", "")
        raise ValueError(f"{where}: {name} is a tensor of {kind}; a dense one of floats is needed")
    tensor = found.detach().float()  # a float64 beyond float32's largest becomes Inf
    if not torch.isfinite(tensor).all():
        raise ValueError(f"{where}: {name} contains NaN or Inf; download it again")
    return tensor


def read_tensors(path: str | Path) -> dict[str, Any]:
    """The named tensors of a .safetensors or torch.save file, without ``module.`` in the names.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged or contains more than tensors and plain containers.
        ImportError: If this torch cannot read a pickled file safely.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; give a .pth or .safetensors file")
    try:
        is_safe = file.suffix.lower() == ".safetensors"
        found: Any = load_file(file) if is_safe else _read_torch(file)
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise ValueError(f"{file} is damaged or truncated: {_reason(error)}") from error
    for key in CONTAINERS:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping):
        raise ValueError(f"{file} contains a {type(found).__name__}, not named tensors")
    return {str(name).removeprefix("module."): value for name, value in found.items()}


def _read_torch(file: Path) -> Any:
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < SAFE_SINCE:
        raise ImportError(
            f"with torch {torch.__version__} a .pth file can run code (CVE-2025-32434): "
            "pip install -U 'torch>=2.6', or convert the file to safetensors"
        )
    with file.open("rb") as opened, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about unusual pickles, which it refuses anyway
        try:
            return torch.load(opened, map_location="cpu", weights_only=True)  # noqa: TID251 - weights_only
        except Exception as error:  # of a damaged file torch raises nearly any type
            raise ValueError(
                f"{file} is damaged, or contains more than tensors, which is refused: "
                f"{_reason(error)}"
            ) from error


def _reason(error: Exception) -> str:
    """Why a file was refused, without torch's advice to run the code in it."""
    text = str(error)
    if refused := re.search(
        r"(Unsupported|Trying to load unsupported) [^\n]*?(?=\.? Please|\.?\n)", text
    ):
        return refused[0]
    first = next(iter(text.splitlines()), "")
    return type(error).__name__ if not first or "weights_only" in first else first
