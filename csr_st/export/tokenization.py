"""What stands before the graph: the tokenizer by itself, and the prompts of each role."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OF_DOCUMENTS = ("document", "passage", "corpus")  # names of prompts, as encode_document tries them


@dataclass(frozen=True)
class Prompts:
    """What is put before a text, by role: "query", "document", and "" for none.

    Attributes:
        texts: The prompt of each role, "" for none.
        lengths: Tokens of each that are read and not pooled, of graphs that ask for it.
    """

    texts: dict[str, str]
    lengths: dict[str, int]


def standalone(model: SentenceTransformer) -> Tokenizer:
    """The model's tokenizer with its cutting and padding, for ``encode_batch``.

    Raises:
        ValueError: If the model has none of the `tokenizers` library.
    """
    known: Any = getattr(model, "tokenizer", None)
    rules = getattr(known, "_tokenizer", known)
    if not isinstance(rules, Tokenizer):
        raise ValueError(
            f"the model's tokenizer is {type(rules).__name__}; an exported model needs a fast one, "
            "of the tokenizers library"
        )
    copied = Tokenizer.from_str(rules.to_str())
    if is_static(model):
        copied.enable_padding()
        return copied
    length = model.max_seq_length
    if length is None or math.isinf(length):
        copied.no_truncation()
    else:
        copied.enable_truncation(int(length), direction=known.truncation_side)
    pad = {"pad_id": known.pad_token_id, "pad_token": known.pad_token}
    copied.enable_padding(direction=known.padding_side, pad_type_id=known.pad_token_type_id, **pad)
    return copied


def is_static(model: SentenceTransformer) -> bool:
    """Whether tokens are looked up in a table; such a model adds no special tokens."""
    return isinstance(model[0], StaticEmbedding)


def inputs_of(model: SentenceTransformer) -> list[str]:
    """Names of the (n, t) inputs that the model's backbone reads."""
    if is_static(model):
        return list(INPUTS[:2])
    given = model.preprocess(["text"])
    return [name for name in INPUTS if name in given or name == "attention_mask"]


def prompts_of(model: SentenceTransformer, skips_prompt: bool) -> Prompts:
    """The prompts by role, as ``encode_query`` and ``encode_document`` choose them."""
    known = {name: prompt or "" for name, prompt in model.prompts.items()}
    usual = known.get(model.default_prompt_name or "", "")
    of_documents = next((known[name] for name in OF_DOCUMENTS if name in known), usual)
    texts = {"": usual, "query": known.get("query", usual), "document": of_documents}
    lengths = {}
    if skips_prompt:
        for role, prompt in texts.items():
            found = model.preprocess(["text"], prompt=prompt or None).get("prompt_length")
            lengths[role] = int(found or 0)
    return Prompts(texts, lengths)
