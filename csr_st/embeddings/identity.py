"""Identity of a model: its name, a digest of its weights, its modules and their settings.

Equal for two loads of one model, in any process, on any device and from any folder. A class counts
by its name alone, because its module is ``__main__`` in a program, has a commit in its name under
``trust_remote_code``, and moves between versions of its library.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from csr_st._io.tensor_files import digest

SAMPLED_WEIGHTS = 16
LONGEST_SETTING = 200  # characters; longer ones, such as a vocabulary, become a digest

NO_SETTINGS = {"auto_map", "name_or_path", "prompts", "tokenizer_name_or_path", "training"}
# How a transformer was loaded or runs, not what it computes; and what changes when it is saved
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
    kind = getattr(model, "stands_for", type(model))
    return str(name or f"{kind.__module__}.{kind.__qualname__}"), revision


def weights_digest(model: Any) -> str | None:
    """Digest of a few numbers of every parameter, which changes when the model is trained."""
    if not hasattr(model, "named_parameters"):
        return None
    pieces = []
    buffers = dict(model.named_buffers())
    # Without the buffers that every load computes again on its own device
    saved = model.state_dict(keep_vars=True) if buffers else {}
    kept = [(n, b) for n, b in buffers.items() if n in saved and b.is_floating_point()]
    for name, weight in [*model.named_parameters(), *kept]:
        pieces.append(f"{name} {tuple(weight.shape)}".encode())
        if weight.device.type == "meta" or not weight.numel():
            continue
        flat = weight.detach().reshape(-1)
        taken = flat[:: max(flat.numel() // SAMPLED_WEIGHTS, 1)][:SAMPLED_WEIGHTS]
        pieces.append(taken.cpu().double().numpy().tobytes())
    return digest(*pieces)


def describe_modules(model: Any) -> dict[str, dict[str, Any]]:
    """Class and settings of each module by its place, as they are after a round trip through JSON.

    A transformer of `transformers` is one module, described by its configuration.
    """
    if not hasattr(model, "named_children"):
        return {}
    found: dict[str, dict[str, Any]] = {}
    for name, module in model.named_children():
        found[name] = {"class": type(module).__qualname__, **_settings(module)}
        if not _is_transformer(module):
            within = describe_modules(module)
            found |= {f"{name}.{inner}": settings for inner, settings in within.items()}
    return found


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
    """The config that a module saves; else what torch prints of it, or its plain attributes."""
    with contextlib.suppress(AttributeError):  # also for a config key without such an attribute
        return dict(module.get_config_dict())
    if type(module).__module__.startswith("torch."):
        return {"settings": module.extra_repr()}
    plain = (bool, int, float, str)
    return {name: value for name, value in vars(module).items() if isinstance(value, plain)}


def _stable(value: Any, left_out: set[str]) -> Any:
    """A setting as it is after a round trip through JSON, without paths and ``left_out``."""
    if isinstance(value, Mapping):
        named = {str(name): part for name, part in value.items() if str(name) not in left_out}
        return {n: _stable(part, left_out) for n, part in named.items() if _counts(n, part)}
    if isinstance(value, list | tuple):
        return [_stable(part, left_out) for part in value]
    if isinstance(value, set | frozenset):
        return sorted((_stable(part, left_out) for part in value), key=repr)
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)  # NaN would differ from itself
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return getattr(value, "__qualname__", type(value).__qualname__)


def _counts(name: str, value: Any) -> bool:
    """Whether a setting is part of the identity: not private, a version, a device or a path."""
    if name.startswith("_") or name.endswith("version") or "device" in name:
        return False
    return not (isinstance(value, str) and Path(value).is_absolute())


def _short(value: Any) -> Any:
    text = json.dumps(value, sort_keys=True)
    return value if len(text) <= LONGEST_SETTING else f"digest {digest(text.encode())}"
