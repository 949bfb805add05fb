"""A model whose queries go through a table of tokens' vectors, and its documents as before."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
from tokenizers import Tokenizer

from csr_st.head import SparseCSRHead


def with_static_queries(
    model: SentenceTransformer, tokenizer: Tokenizer, table: NDArray[np.float32], unit: bool
) -> SentenceTransformer:
    """A model that shares its modules with ``model`` and looks its queries up.

    Its modules are a `Router` and the head: the route "query" is a `StaticEmbedding`, the route
    "document", which is also the default, has the modules of ``model``.

    Args:
        model: A model that ends in a head.
        tokenizer: Splits queries.
        table: (vocabulary, input_dim) vectors of the tokens.
        unit: Whether their mean is scaled to unit norm.
    """
    *backbone, head = model.children()
    assert isinstance(head, SparseCSRHead)
    embedding = StaticEmbedding(tokenizer, torch.from_numpy(table)).to(model.device)
    query = [embedding, Normalize()] if unit else [embedding]
    # The document route first: the model's tokenizer is that of the backbone.
    routes: dict[str, list[Any]] = {"document": backbone, "query": query}
    made = copy.copy(model)
    made._modules = {"0": Router(routes, default_route="document"), "1": head}
    made.prompts = dict(model.prompts)
    made.module_kwargs = None  # of modules that the router has now
    made._csr_st_folder = folder_of(model)  # type: ignore[assignment] # ours: where its facts are
    return made


def folder_of(model: SentenceTransformer) -> Path:
    """The folder that a model was saved in or loaded from; one that is not there if none is."""
    config = getattr(model.transformers_model, "config", None)
    loaded_from = Path(getattr(config, "_name_or_path", "") or "/nowhere")
    return getattr(model, "_csr_st_folder", loaded_from)


def query_tokenizer(model: SentenceTransformer) -> Tokenizer:
    """A copy of a model's tokenizer that neither cuts nor pads.

    Raises:
        ValueError: If the model has none of the `tokenizers` library.
    """
    found = getattr(model, "tokenizer", None)
    found = getattr(found, "_tokenizer", found)
    if not isinstance(found, Tokenizer):
        raise ValueError(
            f"the model's tokenizer is {type(found).__name__}; static queries need a fast one, "
            "of the tokenizers library, which models of text have unless use_fast=False was passed"
        )
    copied = Tokenizer.from_str(found.to_str())
    copied.no_truncation()
    copied.no_padding()
    return copied
