"""A tiny transformer of tokens, and what its token-level codes must be, computed with NumPy."""

from __future__ import annotations

import numpy as np
import torch
from conftest import WORDS
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

import csr_st

SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
LENGTH = 12  # tokens at most, with the two special ones
MANY = [f"{WORDS[i % 19]} {WORDS[i % 17]} {WORDS[i % 13]} {WORDS[i % 11]}" for i in range(60)]


def save_transformer(folder: str) -> str:
    """A BERT of one layer and 16 dimensions, which puts special tokens around each text."""
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    torch.manual_seed(7)
    vocabulary = {word: i for i, word in enumerate([*SPECIAL.values(), *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    ends = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing("[CLS] $A [SEP]", special_tokens=ends)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=LENGTH, **SPECIAL
    ).save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": 2 * LENGTH}
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(vocabulary), **sizes, **layers)).save_pretrained(folder)
    return folder


def transformer_of(folder: str) -> SentenceTransformer:
    """That transformer with mean pooling and a query prompt, of its own weights each time."""
    module = Transformer(folder)
    return SentenceTransformer(
        modules=[module, Pooling(16, "mean")],
        device="cpu",
        prompts={"query": "the red ", "document": ""},
    )


def token_head(**settings) -> csr_st.SparseCSRHead:
    """A head with random weights and latent weights, of 64 latents, 4 a token."""
    torch.manual_seed(8)
    usual = {"k": 8, "level": "token", "k_token": 4, "skipped_tokens": [0, 1, 2, 3]}
    head = csr_st.SparseCSRHead(16, 64, **{**usual, **settings})
    with torch.no_grad():
        head.pre_bias.copy_(0.1 * torch.randn(16))
        head.latent_bias.copy_(0.1 * torch.randn(64))
        if head.latent_weights is not None:
            head.latent_weights.copy_(torch.rand(64) + 0.5)
    return head


def token_vectors(model: SentenceTransformer, text: str) -> np.ndarray:
    """(m, 16) vectors of the words of a text at unit norm, by its first module alone.

    The text is alone in its batch, and its first and last token are special.
    """
    features = model[0].preprocess([text])
    with torch.no_grad():
        vectors = model[0](features)["token_embeddings"][0, 1:-1].double().numpy()
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def numbers(head: csr_st.SparseCSRHead) -> dict[str, np.ndarray]:
    """The parameters of a head in float64."""
    return {name: value.detach().double().numpy() for name, value in head.named_parameters()}


def pooled_by_hand(head: csr_st.SparseCSRHead, vectors: np.ndarray) -> np.ndarray:
    """(64,) sums or maxima over (m, 16) token vectors, each with its k_token largest latents.

    With a text_share, the 4 * k_token largest of their mean are added as that share of m tokens.
    """
    if not len(vectors):
        return np.zeros(head.hidden_dim)
    table = np.stack([_largest(head, vector, head.k_token) for vector in vectors])
    if head.pooling == "max":
        return table.max(axis=0)
    mean = vectors.mean(axis=0)
    whole = _largest(head, mean / np.linalg.norm(mean), 4 * head.k_token)
    return table.sum(axis=0) + head.text_share * len(vectors) * whole


def _largest(head: csr_st.SparseCSRHead, vector: np.ndarray, k: int) -> np.ndarray:
    of = numbers(head)
    active = np.maximum(of["encoder_weight"] @ (vector - of["pre_bias"]) + of["latent_bias"], 0)
    active[np.argsort(-active)[k:]] = 0
    return active


def code_by_hand(head: csr_st.SparseCSRHead, vectors: np.ndarray, k: int) -> np.ndarray:
    """(64,) code of a text by its (m, 16) token vectors, at unit norm."""
    pooled = pooled_by_hand(head, vectors)
    values = numbers(head)["latent_weights"] * pooled / (pooled + head.saturation)
    values[np.argsort(-values)[k:]] = 0
    return values / max(np.linalg.norm(values), 1e-30)
