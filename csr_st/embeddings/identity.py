"""What identifies a model: its name, a digest of its weights, its modules and their settings.

Equal for two loads of one model, in any process, on any device and from any folder. A class counts
by its name alone: its module is ``__main__`` where its file is the program, holds a commit where
``trust_remote_code`` loaded it, and moves between versions of its library.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SAMPLED_WEIGHTS = 16
LONGEST_SETTING = 200  # characters; a vocabulary is as good as its digest

NO_SETTINGS = {"auto_map", "name_or_path", "prompts", "tokenizer_name_or_path", "training"}
# How a transformer was loaded or runs, not what it computes; and what saving it rewrites
NO_SETTINGS_OF_TRANSFORMERS = {
    "architectures",
    "attn_implementation",
    "dtype",
    "gradient_checkpointing",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "torch_dtype",
    "use_cache",
}


def model_name(model: Any) -> tuple[str, str | None]:
    """Name and revision of the backbone: of its transformer, its card, or its class."""
    config = None
    with contextlib.suppress(TypeError, IndexError, KeyError, AttributeError):
        config = model[0].auto_model.config
    card = getattr(model, "model_card_data", None)
    name = getattr(config, "_name_or_path", None) or getattr(card, "base_model", None)
    revision = getattr(config, "_commit_hash", None) or getattr(card, "base_model_revision", None)
    if name and Path(name).is_absolute():
        name = Path(name).name
    return str(name or f"{type(model).__module__}.{type(model).__qualname__}"), revision


def weights_digest(model: Any) -> str | None:
    """Digest of a few numbers of every parameter: a model that was trained further differs."""
    if not hasattr(model, "named_parameters"):
        return None
    state = hashlib.blake2b(digest_size=16)
    for name, weight in [*model.named_parameters(), *_saved_buffers(model)]:
        state.update(f"{name} {tuple(weight.shape)}".encode())
        if weight.device.type == "meta" or not weight.numel():
            continue
        flat = weight.detach().reshape(-1)
        taken = flat[:: max(flat.numel() // SAMPLED_WEIGHTS, 1)][:SAMPLED_WEIGHTS]
        state.update(taken.cpu().double().numpy().tobytes())
    return state.hexdigest()


def _saved_buffers(model: Any) -> Iterator[tuple[str, Any]]:
    """Buffers of floating-point numbers, but those that every load computes on its own device."""
    buffers = dict(model.named_buffers())
    saved = set(model.state_dict(keep_vars=True)) if buffers else set()
    for name, buffer in buffers.items():
        if name in saved and buffer.is_floating_point():
            yield name, buffer


def describe_modules(model: Any) -> dict[str, dict[str, Any]]:
    """Class and settings of each module by its place, as JSON gives them back.

    A transformer of `transformers` is one module, described by its configuration.
    """
    if not hasattr(model, "named_children"):
        return {}
    return dict(_described(model, ""))


def _described(parent: Any, prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, module in parent.named_children():
        yield f"{prefix}{name}", {"class": type(module).__qualname__, **_settings(module)}
        if not _is_transformer(module):
            yield from _described(module, f"{prefix}{name}.")


def _is_transformer(module: Any) -> bool:
    """Whether it is a model of `transformers`, not a module of sentence-transformers around it."""
    configured = hasattr(getattr(module, "config", None), "to_diff_dict")
    return configured and not hasattr(module, "get_config_dict")


def _settings(module: Any) -> dict[str, Any]:
    if _is_transformer(module):
        found = _stable(module.config.to_diff_dict(), NO_SETTINGS | NO_SETTINGS_OF_TRANSFORMERS)
    else:
        found = _stable(_own_settings(module), NO_SETTINGS)
    return {name: _short(value) for name, value in found.items()}


def _own_settings(module: Any) -> dict[str, Any]:
    """What a module would save of itself; else what torch prints of it, or its plain attributes."""
    with contextlib.suppress(AttributeError):  # also of a config that names what is not there
        return dict(module.get_config_dict())
    if type(module).__module__.startswith("torch."):
        return {"settings": module.extra_repr()}
    plain = (bool, int, float, str)
    return {name: value for name, value in vars(module).items() if isinstance(value, plain)}


def _stable(value: Any, left_out: set[str]) -> Any:
    """A setting as JSON gives it back, without paths and what ``left_out`` names."""
    if isinstance(value, Mapping):
        return {
            str(name): _stable(part, left_out)
            for name, part in value.items()
            if not _is_left_out(str(name), part, left_out)
        }
    if isinstance(value, list | tuple):
        return [_stable(part, left_out) for part in value]
    if isinstance(value, set | frozenset):
        return sorted((_stable(part, left_out) for part in value), key=repr)
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)  # NaN would differ from itself
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return getattr(value, "__qualname__", type(value).__qualname__)


def _is_left_out(name: str, value: Any, left_out: set[str]) -> bool:
    return (
        name in left_out
        or name.startswith("_")
        or name.endswith("version")
        or "device" in name
        or (isinstance(value, str) and Path(value).is_absolute())
    )


def _short(value: Any) -> Any:
    text = json.dumps(value, sort_keys=True)
    if len(text) <= LONGEST_SETTING:
        return value
    return f"digest {hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"
