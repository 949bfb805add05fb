"""Put a head on a model, take it off again, and let sentence-transformers load saved heads.

sentence-transformers resolves the classes in a model's ``modules.json`` through a mapping of known
classes before it asks for ``trust_remote_code``. `register` adds this package's two classes there
and nothing else.
"""

from __future__ import annotations

import copy
import logging
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import ModelCard
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.model import BaseModel

from csr_st.head import SparseCSRHead
from csr_st.vectors import VectorInput

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)

CLASS_REFERENCE = "csr_st.head.SparseCSRHead"
VECTOR_REFERENCE = "csr_st.vectors.VectorInput"


def attach(
    model: SentenceTransformer, head: SparseCSRHead, *, base_model: str | None = None
) -> SentenceTransformer:
    """A model that ends in the head and shares every other module with ``model``.

    Prompts, default prompt, module keyword arguments and maximum length stay. The base model's
    README does not: it describes another model.

    Args:
        model: Model whose output the head was trained on.
        head: The head; moved to the model's device.
        base_model: Hub id that the card names as the base; found from ``model`` when None.

    Returns:
        The model with the head; its similarity is dot product if the head normalises (where it
        equals cosine at less cost), else cosine.

    Raises:
        ValueError: If the model ends in a head already, its width is not the head's input_dim, or
            it has a ``truncate_dim``.
    """
    if any(isinstance(module, SparseCSRHead) for module in model.children()):
        raise ValueError("the model has a SparseCSRHead already; csr_st.detach(model) removes it")
    width = model.get_embedding_dimension()
    if width is not None and width != head.input_dim:
        raise ValueError(
            f"the model gives vectors of width {width}, the head takes input_dim={head.input_dim}; "
            "train a head on this model's vectors"
        )
    head = head.to(model.device)
    attached = _with_modules(
        model,
        OrderedDict([*model.named_children(), (_free_name(model), head)]),
        similarity_fn_name="dot" if head.normalize else "cosine",
    )
    if base_model is not None:
        attached.model_card_data.base_model = base_model
    return attached


def _free_name(model: nn.Module) -> str:
    """A name for one module more: the number of those before it, or the next that is free."""
    number = len(model._modules)
    while str(number) in model._modules:
        number += 1
    return str(number)


def detach(model: SentenceTransformer) -> SentenceTransformer:
    """The model without its head: the backbone that embeds densely, sharing all modules.

    Raises:
        ValueError: If there is no head at the end.
    """
    modules = list(model.named_children())
    if not modules or not isinstance(modules[-1][1], SparseCSRHead):
        raise ValueError("the model does not end in a SparseCSRHead; there is none to detach")
    return _with_modules(model, OrderedDict(modules[:-1]), similarity_fn_name="cosine")


def _with_modules(
    model: SentenceTransformer, modules: OrderedDict[str, nn.Module], similarity_fn_name: str
) -> SentenceTransformer:
    """A copy of the model that shares its modules, with no card of another model.

    A copy, not a new model from the modules: a backbone spread over devices stays where it is.
    """
    if model.truncate_dim is not None:
        raise ValueError(
            f"the model has truncate_dim={model.truncate_dim}; the head needs whole vectors: load "
            "the model without truncate_dim"
        )
    base_model = name_of(model)
    copied = copy.copy(model)
    copied._modules = dict(modules)
    copied.prompts = dict(model.prompts)
    copied.similarity_fn_name = similarity_fn_name  # type: ignore[assignment] # a property setter
    copied._model_card_text = None
    copied.model_card_data = type(model.model_card_data)(local_files_only=True)
    copied.model_card_data.register_model(copied)
    copied.model_card_data.base_model = base_model
    copied.model_card_data.license, copied.model_card_data.language = _terms_of(model)
    return copied


def _terms_of(model: SentenceTransformer) -> tuple[str | None, list[str]]:
    """Licence and languages that a model's own card states."""
    text = model._model_card_text or ""
    if not text.startswith("---"):
        return model.model_card_data.license, list(model.model_card_data.language or [])
    stated = ModelCard(text, ignore_metadata_errors=True).data
    language = stated.get("language") or model.model_card_data.language or []
    languages = [language] if isinstance(language, str) else [str(one) for one in language]
    return stated.get("license") or model.model_card_data.license, languages


def modality_of(model: SentenceTransformer) -> str:
    """What a model encodes, in the words of a card: "text", "image", "text and image", "vector"."""
    if isinstance(model[0], VectorInput):
        return "vector"
    known = {str(modality) for modality in model.modalities}
    return " and ".join(name for name in ("text", "image") if name in known) or "text"


def name_of(model: SentenceTransformer) -> str | None:
    """Hub id or folder name that a model came from, as far as it can be told."""
    known = model.model_card_data.base_model
    if known:
        return str(known)
    transformer = model.transformers_model
    path = getattr(getattr(transformer, "config", None), "_name_or_path", "") or ""
    folder = Path(path)
    return folder.name if folder.is_absolute() else path or None


def register() -> bool:
    """Make `SparseCSRHead` and `VectorInput` known to sentence-transformers.

    Returns:
        Whether this sentence-transformers has the hook. Without it, models load with
        ``trust_remote_code=True``.
    """
    known = getattr(BaseModel, "_module_classes", None)
    if known is None:
        logger.debug("no class mapping in sentence-transformers: pass trust_remote_code=True")
        return False
    BaseModel._module_classes = {
        **known,
        CLASS_REFERENCE: SparseCSRHead,
        VECTOR_REFERENCE: VectorInput,
    }
    return True
