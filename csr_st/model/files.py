"""Write, find, read and check the files of a saved head: config.json and model.safetensors.

modules.json is sentence-transformers' own: it names each module's class, ours by the paths below.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Mapping, Set
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize_tensors
from sentence_transformers.base.modules import Module
from torch import Tensor

from csr_st._io.files import read_json, refuse_newer_format, write_atomically
from csr_st._io.tensor_files import digest

CLASS_REFERENCE = "csr_st.head.SparseCSRHead"
VECTOR_REFERENCE = "csr_st.vectors.VectorInput"
FORMAT_VERSION = 1
CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
MODEL_CONFIG_NAME = "config_sentence_transformers.json"
OUTDATED = "outdated_config"  # metadata of weights: the checksum of the config.json to replace
REQUIREMENTS = {"csr-st": ">=0.1"}


def write(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Write both files into ``folder``, so that one loads the old or the new head at any moment.

    The weights, which are written first, have the settings in their metadata, and the checksum of
    the config.json that they were written beside: as long as it is that one, it is outdated.

    Inside a saved model, this package is added to the requirements in the model's own config:
    without it sentence-transformers then names the command that installs it.
    """
    settings = {"format_version": FORMAT_VERSION, **config}
    text, old = json.dumps(settings, indent=2) + "\n", folder / CONFIG_NAME
    metadata = {"format": "pt"}
    if old.is_file() and old.read_bytes() != text.encode():
        metadata |= {OUTDATED: digest(old.read_bytes()), CONFIG_NAME: text}
    tensors = {name: tensor.cpu().contiguous() for name, tensor in weights.items()}
    write_atomically(folder / WEIGHTS_NAME, serialize_tensors(tensors, metadata=metadata))
    write_atomically(old, text)
    model_config = folder.parent / MODEL_CONFIG_NAME
    if model_config.is_file():
        settings = read_json(model_config)
        settings["requirements"] = {**(settings.get("requirements") or {}), **REQUIREMENTS}
        write_atomically(model_config, json.dumps(settings, indent=2, sort_keys=True))


def find(module: type[Module], name: str, model: str, *, subfolder: str, **hub: Any) -> str:
    """Path of a model's file ``name`` for ``module``, in a folder or downloaded from the Hub.

    Raises:
        ValueError: If there is none.
    """
    path = module.load_file_path(model, filename=name, subfolder=subfolder, **hub)
    if path is None:
        where = Path(model) / subfolder
        raise ValueError(f"{where} has no {name}; download or save the model again")
    return str(path)


def read_config(
    path: str, known: Collection[str], required: Set[str], weights_path: str | None = None
) -> dict[str, Any]:
    """The settings in ``path`` that are ``known``; others are left out with a warning.

    Those in the metadata of the weights are taken where ``path`` was to be replaced with them.

    Raises:
        ValueError: If the file is not a JSON object, lacks a required setting or has a newer
            format.
    """
    newer = None if weights_path is None else _settings_in(weights_path, Path(path).read_bytes())
    config: dict[str, Any] = newer or read_json(path)
    refuse_newer_format(path, config.pop("format_version", FORMAT_VERSION), FORMAT_VERSION)
    missing = sorted(required - set(config))
    if missing:
        raise ValueError(f"{path} lacks {missing}; download or save the model again")
    unknown = sorted(set(config) - set(known))
    if unknown:
        warnings.warn(
            f"{path} has settings that this csr_st does not know and leaves out: {unknown}; "
            "pip install -U csr-st if the codes look wrong",
            stacklevel=3,
        )
    return {key: value for key, value in config.items() if key in known}


def _settings_in(weights_path: str, config: bytes) -> dict[str, Any] | None:
    """The settings that were to replace a config.json, None if that has been done."""
    with suppress(SafetensorError, OSError, ValueError), safe_open(weights_path, "pt") as file:
        metadata = file.metadata() or {}
        if metadata.get(OUTDATED) == digest(config):
            return dict(json.loads(metadata[CONFIG_NAME]))
    return None


def read_weights(path: str, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in ``path``, read only if their names and shapes are the expected ones.

    Raises:
        ValueError: If the file is damaged, or its tensors are not the expected ones, or not finite.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            found = {name: tuple(file.get_slice(name).get_shape()) for name in names}
            if found != wanted:
                raise ValueError(
                    f"the weights in {path} do not fit the config beside them: found {found}, "
                    f"expected {wanted}; download or save the model again"
                )
            return {
                name: _checked(file.get_tensor(name), f"{name} in {path}").to(expected[name].dtype)
                for name in names
            }
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise ValueError(
            f"{path} is damaged or cut short ({error}); download or save the model again"
        ) from error


def _checked(tensor: Tensor, name: str) -> Tensor:
    if not tensor.is_floating_point() or not tensor.float().isfinite().all():
        raise ValueError(
            f"{name} has NaN, Inf or no floating type ({tensor.dtype}); download or train the "
            "model again"
        )
    return tensor
