"""Attach a head to a model, detach it, and register this package's two module classes.

sentence-transformers looks up the classes in a model's ``modules.json`` in a mapping of known
classes before it requires ``trust_remote_code``. `register` adds two there, and nothing else.
"""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.base.model import BaseModel

from csr_st.head import SparseCSRHead
from csr_st.model import encode_options
from csr_st.model.files import CLASS_REFERENCE, VECTOR_REFERENCE
from csr_st.model.token_pooling import token_widths
from csr_st.vectors import VectorInput

if TYPE_CHECKING:
    from torch import nn


def attach(
    model: SentenceTransformer, head: SparseCSRHead, *, base_model: str | None = None
) -> SentenceTransformer:
    """A model that ends in the head and shares every other module with ``model``.

    Prompts, default prompt, module keyword arguments and maximum length are kept. The base model's
    README is not: it describes another model.

    Args:
        model: Model whose output the head was trained on.
        head: The head; moved to the model's device.
        base_model: Hub id that the card names as the base; found from ``model`` when None.

    Returns:
        The model with the head. Its similarity is the dot product if the head normalises, where it
        equals the cosine and is faster, else the cosine.

    Raises:
        ValueError: If the model ends in a head already, its width is not the head's input_dim, or
            it has a ``truncate_dim``.
    """
    if any(isinstance(module, SparseCSRHead) for module in model.children()):
        raise ValueError("the model has a SparseCSRHead already; csr_st.detach(model) removes it")
    of_text = model.get_embedding_dimension()
    known = {of_text} if of_text is not None else set()
    if head.level == "token":
        known = token_widths(model)
    if known and head.input_dim not in known:
        width = " or ".join(map(str, sorted(known)))
        raise ValueError(
            f"the model gives vectors of width {width}, the head takes input_dim={head.input_dim}; "
            "train a head on this model's vectors"
        )
    modules = dict(model.named_children())
    name = next(n for n in map(str, itertools.count(len(modules))) if n not in modules)
    modules[name] = head.to(model.device)
    attached = _with_modules(model, modules, "dot" if head.normalize else "cosine")
    if base_model is not None:
        attached.model_card_data.base_model = base_model
    return attached


def detach(model: SentenceTransformer) -> SentenceTransformer:
    """The dense model without its head, with the same modules.

    Raises:
        ValueError: If the model does not end in a head.
    """
    modules = dict(model.named_children())
    if not modules or not isinstance(modules.popitem()[1], SparseCSRHead):
        raise ValueError("the model does not end in a SparseCSRHead; there is none to detach")
    return _with_modules(model, modules, "cosine")


def _with_modules(
    model: SentenceTransformer, modules: dict[str, nn.Module], similarity_fn_name: str
) -> SentenceTransformer:
    """A copy of the model with these modules and without the card of another model.

    A new model would move a backbone that is spread over several devices.
    """
    if model.truncate_dim is not None:
        raise ValueError(
            f"the model has truncate_dim={model.truncate_dim}; the head needs complete vectors: "
            "load the model without truncate_dim"
        )
    base_model = name_of(model)
    copied = copy.copy(model)
    copied._modules = modules
    encode_options.guard(copied, has_head=isinstance([*modules.values()][-1], SparseCSRHead))
    copied.prompts = dict(model.prompts)
    copied.similarity_fn_name = similarity_fn_name  # type: ignore[assignment] # a property setter
    copied._model_card_text = None
    copied.model_card_data = type(model.model_card_data)(local_files_only=True)
    copied.model_card_data.register_model(copied)
    copied.model_card_data.base_model = base_model
    copied.model_card_data.license, copied.model_card_data.language = _terms_of(model)
    return copied


def _terms_of(model: SentenceTransformer) -> tuple[str | None, list[str]]:
    """Licence and languages: from a model's own card, or else from its metadata."""
    known, text = model.model_card_data, model._model_card_text or ""
    stated: Any = parsed_card(text).data if text[:3] == "---" else known
    language = stated.language or known.language or []
    languages = [*language] if isinstance(language, list | tuple) else [str(language)]
    return stated.license or known.license, languages


def parsed_card(text: str) -> ModelCard:
    """A model's card; without metadata where what is at its top is not YAML."""
    try:
        return ModelCard(text, ignore_metadata_errors=True)
    except Exception:  # YAML and the checks of its content raise nearly any type
        card = ModelCard("")
        card.text = text
        return card


def modality_of(model: SentenceTransformer | SparseEncoder) -> str:
    """What a model encodes, for its card: "text", "image", "text and image" or "vector"."""
    if isinstance(model[0], VectorInput):
        return "vector"
    known = {str(modality) for modality in model.modalities}
    return " and ".join(name for name in ("text", "image") if name in known) or "text"


def name_of(model: SentenceTransformer) -> str | None:
    """Hub id or folder name that a model was loaded from; None if it is not known."""
    if model.model_card_data.base_model:
        return str(model.model_card_data.base_model)
    path = getattr(getattr(model.transformers_model, "config", None), "_name_or_path", "") or ""
    return Path(path).name if Path(path).is_absolute() else path or None


def register() -> bool:
    """Add `SparseCSRHead` and `VectorInput` to the classes that sentence-transformers knows.

    Returns:
        Whether this sentence-transformers has such a mapping. Without it, models load with
        ``trust_remote_code=True``.
    """
    known = getattr(BaseModel, "_module_classes", None)
    if known is None:
        return False
    own: dict[str, type[nn.Module]] = {
        CLASS_REFERENCE: SparseCSRHead,
        VECTOR_REFERENCE: VectorInput,
    }
    BaseModel._module_classes = {**known, **own}
    return True
