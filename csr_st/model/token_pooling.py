"""From the vectors of a text's tokens to one code: choose latents for each token, then pool them.

A text-level head compresses one pooled vector. Here the autoencoder is put on the vectors of
tokens, as by Latent Terms (arXiv 2605.29384) and SPLARE (arXiv 2603.13277), so that a code can say
more than the pooled vector does. What a latent adds up to over a text, s, is weighted as BM25
weights a word that occurs s times (Robertson and Zaragoza 2009), half of its idf on either side:

    value = √idf · s / (s + saturation)

with the mean of the sums that are not zero as the saturation.
BM25 makes up for the length of a text in the denominator; here the code's unit norm does.

What a text is about as a whole may be in none of its tokens. So their mean vector, at unit norm,
can count as some of them: with ``text_share`` its latents add to the sums what they would if that
share of the text's tokens had this vector besides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from csr_st.model.coding import Code

POOLINGS = ("sum", "max")
ACTIVATIONS_AT_ONCE = 1 << 24  # 64 MiB in float32
OF_MEANS = 4  # times a token's latents for the mean of a text's tokens


class Tokens(NamedTuple):
    """The tokens of a batch of texts that say something of them, one after another.

    Attributes:
        vectors: (m, d), at unit norm.
        texts: (m,) int64, the text of each, rising.
        n_texts: Number of texts; one may have no token.
    """

    vectors: Tensor
    texts: Tensor
    n_texts: int


def tokens_of(features: dict[str, Any], skipped: Tensor, checked: bool = True) -> Tokens:
    """The tokens in the features of a batch: without padding, prompt and special tokens.

    Args:
        features: With ``token_embeddings`` (b, t, d), and where there are any, ``attention_mask``
            and ``input_ids`` (b, t) and ``prompt_length``; or for flash attention, with all texts
            in one row and ``cu_seq_lens_q``.
        skipped: Ids of tokens to leave out.
        checked: Whether to refuse NaN and Inf; without, a vector with either is all NaN.

    Raises:
        ValueError: If there are no token vectors, or they have NaN or Inf.
    """
    vectors = features.get("token_embeddings")
    if vectors is None or vectors.dim() != 3:
        raise ValueError(
            "a head with level='token' needs token_embeddings (batch, tokens, width), which this "
            "model's modules do not give; use a model of texts whose first module is a Transformer"
        )
    texts, place, kept, n = _layout(features, vectors)
    prompt = features.get("prompt_length")
    if prompt is not None:  # a number, or as a trainer collates it: the same number for each text
        kept = kept & (place > int(torch.as_tensor(prompt).flatten()[0]))
    ids = features.get("input_ids")
    if ids is not None and len(skipped):
        kept = kept & ~torch.isin(ids[:, : kept.shape[1]], skipped)
    texts, chosen = texts[kept], vectors[kept]
    if checked and not torch.isfinite(chosen).all():
        bad = torch.unique(texts[~torch.isfinite(chosen).all(dim=1)])[:5]
        raise ValueError(
            f"NaN or Inf in the token vectors, first in batch rows {bad.tolist()}; check the "
            "backbone's output (fp16 overflow is the usual cause: load it in bf16 or fp32)"
        )
    return Tokens(F.normalize(chosen.float(), dim=1), texts, n)


def _layout(features: dict[str, Any], vectors: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
    """Of (b, t, d) token vectors: text, place in it from 1, whether it is no padding; texts in all.

    For flash attention the texts of a batch stand in one row, ``cu_seq_lens_q`` (n + 1,) says where
    each begins.
    """
    (b, t), device = vectors.shape[:2], vectors.device
    starts = features.get("cu_seq_lens_q")
    if starts is not None:
        lengths = starts.diff().long()
        texts = torch.repeat_interleave(torch.arange(len(lengths), device=device), lengths)
        place = torch.arange(1, t + 1, device=device) - starts[:-1].long()[texts]
        return texts[None], place[None], place.new_ones(b, t, dtype=torch.bool), len(lengths)
    mask = features.get("attention_mask")
    kept = vectors.new_ones(b, t, dtype=torch.bool) if mask is None else mask[:, :t].bool()
    texts = torch.arange(b, device=device)[:, None].expand(b, t)
    return texts, kept.cumsum(dim=1), kept, b


def special_tokens(model: Any) -> list[int]:
    """Ids of the special tokens of a `SentenceTransformer`, none if it has no tokenizer."""
    tokenizer = getattr(model, "tokenizer", None)
    return sorted(set(getattr(tokenizer, "all_special_ids", None) or []))


def token_widths(model: Any) -> set[int]:
    """The widths that a `SentenceTransformer`'s token vectors may have; empty where not known.

    They are that of the first module, whatever a module after the pooling makes of the text's
    vector, and those of modules that could change the tokens themselves.
    """
    first, *others = model.children()
    known = getattr(first, "get_embedding_dimension", lambda: None)()
    widths = [known, *(getattr(module, "out_features", None) for module in others)]
    return {width for width in widths if type(width) is int} if known else set()


def pooled(
    tokens: Tokens, encode: Callable[[Tensor], Code], hidden_dim: int, pooling: str
) -> Tensor:
    """(n_texts, hidden_dim) sums or maxima over each text's tokens of their latents' values.

    In float32 at least.

    Memory: that table, and 64 MiB for the activations of some tokens at a time; with a gradient
    these are computed again in the backward pass.

    Args:
        tokens: The tokens.
        encode: Gives (..., k_token) values and latents of (..., d) vectors.
        hidden_dim: Number of latents.
        pooling: One of `POOLINGS`.
    """
    step = max(1, ACTIVATIONS_AT_ONCE // hidden_dim)
    values, places = [], []
    for vectors, texts in zip(
        torch.split(tokens.vectors, step), torch.split(tokens.texts, step), strict=True
    ):
        if torch.is_grad_enabled():
            code = checkpoint(encode, vectors, use_reentrant=False)
        else:
            code = encode(vectors)
        values.append(code.values.flatten())
        places.append((texts[:, None] * hidden_dim + code.indices).flatten())
    wide = torch.promote_types(tokens.vectors.dtype, torch.float32)  # bfloat16 cannot count to 257
    table = tokens.vectors.new_zeros(tokens.n_texts * hidden_dim, dtype=wide)
    if values:
        added, where = torch.cat(values).to(table.dtype), torch.cat(places)
        if pooling == "sum":
            table = table.index_add(0, where, added)
        else:
            table = table.scatter_reduce(0, where, added, "amax")
    return table.view(tokens.n_texts, hidden_dim)


def means_of(tokens: Tokens) -> Tokens:
    """The mean of each text's tokens, at unit norm, as the one token of that text."""
    n, dim = tokens.n_texts, tokens.vectors.shape[1]
    wide = torch.promote_types(tokens.vectors.dtype, torch.float32)
    sums = tokens.vectors.new_zeros(n, dim, dtype=wide)
    sums = sums.index_add(0, tokens.texts, tokens.vectors.to(wide))
    means = F.normalize(sums, dim=1).to(tokens.vectors.dtype)
    return Tokens(means, torch.arange(n, device=tokens.texts.device), n)


def rarity(frequencies: Tensor, n: int) -> Tensor:
    """√idf of latents that are active in so many of n texts, with BM25's idf in Lucene's form.

    ln(1 + (n - f + 0.5) / (f + 0.5)), see `csr_st.search.bm25`; the root, since both sides of a
    product have it.
    """
    return torch.log1p((n - frequencies + 0.5) / (frequencies + 0.5)).sqrt()
