"""Checkpoints of the CSR papers' authors, and of CompresSAE, as heads.

The files are read as tensors alone: safetensors, or ``torch.load(weights_only=True)``.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from csr_st.convert.weights import head_of
from csr_st.head import SparseCSRHead

CONTAINERS = ("state_dict", "model_state_dict", "model")  # keys that wrap the tensors
SAFE_SINCE = (2, 6)  # before it, weights_only=True could run a file's code: CVE-2025-32434


def head_from_checkpoint(path: str | Path, k: int, *, normalize: bool = False) -> SparseCSRHead:
    """The head in a checkpoint of the CSR or CSRv2 code (arXiv 2503.01776, 2602.05735).

    Their ``.pth`` holds ``state_dict`` (with ``module.`` before the names after several-GPU runs)
    beside optimiser and scheduler, their ``.safetensors`` the tensors alone. Neither holds k, nor
    whether vectors were standardised first: no published script does that, and a head cannot.

    Args:
        path: The .pth, .pt, .bin or .safetensors file.
        k: Active latents it was trained for, ``topk`` in the file's name.
        normalize: Scale codes to unit length; the authors' code does not.

    Returns:
        A tied head; `csr_st.attach` puts it behind the backbone that gave the training vectors.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, holds more than tensors, or does not fit.
        ImportError: If this torch cannot read a .pth safely.
    """
    return head_of(read_tensors(path), k, str(path), normalize=normalize)


def head_from_file(path: str | Path, k: int) -> SparseCSRHead:
    """The head in a checkpoint of either kind, told apart by the names of its tensors.

    Args:
        path: A file for `head_from_checkpoint` or `head_from_compressae`.
        k: Active latents it was trained for.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: As for `head_from_checkpoint`.
        ImportError: As for `head_from_checkpoint`.
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
    k largest positive ones. With rows W and -W, one latent for either sign, the k largest positive
    of 2h are the k largest magnitudes of h. So:

    - kept: which latents are active and their magnitudes, and the reconstruction, at every k;
    - changed: a latent with opposite signs in two items adds nothing to their dot product, where
      the signed codes subtract. Scores through the decoder do not change;
    - not in the head: CompresSAE scales each vector to unit length first. The backbone must end in
      `Normalize`, or its vectors be of unit length already.

    Args:
        source: A file as for `head_from_checkpoint`, or its tensors: ``encoder_w`` (d, h),
            ``encoder_b`` (h,), ``decoder_w`` (h, d).
        k: Active latents it was trained for; the file does not hold it.
        normalize: Scale codes to unit length.

    Returns:
        An untied head of 2h latents; latent h + i is the negative of latent i.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: As for `head_from_checkpoint`.
        ImportError: As for `head_from_checkpoint`.
    """
    named = isinstance(source, Mapping)
    where = "the weights" if named else str(source)
    weights = source if isinstance(source, Mapping) else read_tensors(source)
    missing = [name for name in ("encoder_w", "encoder_b", "decoder_w") if name not in weights]
    if missing:
        raise ValueError(
            f"{where} lacks {missing} of a CompresSAE checkpoint, it has "
            f"{sorted(map(str, weights))[:8]}; for the CSR authors' files use head_from_checkpoint"
        )
    w, b, d = (weights[name].detach().float() for name in ("encoder_w", "encoder_b", "decoder_w"))
    if w.ndim != 2 or tuple(b.shape) != (w.shape[1],) or tuple(d.shape) != (w.shape[1], w.shape[0]):
        raise ValueError(
            f"{where}: encoder_w {tuple(w.shape)}, encoder_b {tuple(b.shape)} and decoder_w "
            f"{tuple(d.shape)} must be (d, h), (h,) and (h, d)"
        )
    signed = {
        "encoder.weight": torch.cat([w.T, -w.T]),
        "pre_bias": torch.zeros(len(w)),
        "latent_bias": torch.cat([b, -b]),
    }
    tied = head_of(signed, k, where, normalize=normalize)
    head = SparseCSRHead(tied.input_dim, tied.hidden_dim, tied.k, normalize=normalize)
    with torch.no_grad():
        head.latent_bias.copy_(tied.latent_bias)
        head.encoder_weight.copy_(tied.encoder_weight)
        head.decoder_weight.copy_(torch.cat([d, -d]))
    return head


def read_tensors(path: str | Path) -> dict[str, Any]:
    """The named tensors of a checkpoint, without ``module.`` before their names.

    Args:
        path: A .safetensors file, or one that torch.save wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged or holds more than tensors and plain containers.
        ImportError: If this torch cannot read a pickled file safely.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; give a .pth or .safetensors file")
    if file.suffix.lower() == ".safetensors":
        try:
            found: Any = load_file(file)
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged or cut short: {error}") from error
    else:
        found = _read_torch(file)
    for key in CONTAINERS:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping):
        raise ValueError(f"{file} holds a {type(found).__name__}, not named tensors")
    return {str(name).removeprefix("module."): value for name, value in found.items()}


def _read_torch(file: Path) -> Any:
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < SAFE_SINCE:
        raise ImportError(
            f"torch {torch.__version__} can be made to run code by a .pth file (CVE-2025-32434): "
            "pip install -U 'torch>=2.6', or convert the file to safetensors"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on odd pickles; what it cannot read it refuses
            return torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, zipfile.BadZipFile, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{file} is damaged, or holds more than tensors, which is never run: {reason}"
        ) from error
