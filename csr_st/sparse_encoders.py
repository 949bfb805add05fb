"""Models of sentence-transformers' `SparseEncoder` class, made ready for `csr_st.encode`.

SPLADE, sparse static embeddings, CSR's `SparseAutoEncoder`: each gives a sparse vector and has no
`SparseCSRHead`. Here they get a last module that keeps the largest dimensions of each vector, so
that memory never has more than one batch of whole vectors. Nothing here trains or saves models.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Module
from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder, SpladePooling
from torch import Tensor, nn

from csr_st.codes import SparseCodes
from csr_st.head import SparseCSRHead, find_head
from csr_st.model.settings import integer
from csr_st.model.top_k import top_k
from csr_st.search.documents import Similarity

MOST_ACTIVE = 1024  # as many as a `SparseIndex` takes

AnyModel: TypeAlias = SentenceTransformer | SparseEncoder


class SparseOutput(Module):
    """The k largest entries of a sparse vector, as `SparseCSRHead.forward` packs them.

    Stands at the end of a model while it is encoded with, and is never saved. Values are those of
    the model, not scaled; there is no decoder.

    Args:
        hidden_dim: Width of the vectors: the vocabulary of SPLADE, the latents of an autoencoder.
    """

    config_keys = ["hidden_dim"]  # noqa: RUF012 - typed as of an instance in the base class
    forward_kwargs = {"max_active_dims", "packed"}  # noqa: RUF012 - as above
    normalize = False

    def __init__(self, hidden_dim: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # untyped in sentence-transformers
        self.hidden_dim = hidden_dim

    def resolve_k(self, k: int | None = None, task: str | None = None) -> int:
        """``k`` within 1..hidden_dim; `MOST_ACTIVE` at most when None, for every ``task``.

        Raises:
            TypeError: If k is not an integer.
            ValueError: If it is out of bounds.
        """
        del task  # only a head has a k for each
        if k is None:
            return min(MOST_ACTIVE, self.hidden_dim)
        return integer("k", k, 1, self.hidden_dim, "hidden_dim=")

    def forward(  # type: ignore[override] # kwargs are spelt out: forward_kwargs filters them
        self, features: dict[str, Any], max_active_dims: int | None = None, packed: bool = True
    ) -> dict[str, Any]:
        """Replace ``sentence_embedding`` (batch, hidden_dim) by (batch, 2k + 1) packed rows.

        Args:
            features: With ``sentence_embedding``.
            max_active_dims: k.
            packed: As a head takes it; rows are packed in any case.

        Raises:
            ValueError: If a vector is of another width, or has NaN, Inf or negative numbers.
        """
        del packed
        x: Tensor = features["sentence_embedding"]
        self._check(x)
        values, indices = top_k(x, self.resolve_k(max_active_dims))
        norms = torch.linalg.vector_norm(values, dim=-1, keepdim=True, dtype=torch.float32)
        rows = torch.cat([values.float(), indices.float(), norms], dim=-1)
        return {**features, "sentence_embedding": rows}

    def _check(self, x: Tensor) -> None:
        if x.shape[-1] != self.hidden_dim:
            raise ValueError(
                f"the model gave vectors of width {x.shape[-1]}, and {self.hidden_dim} before; its "
                "outputs for queries and documents must be of one width"
            )
        low, high = x.aminmax()  # NaN if there is one
        if not (torch.isfinite(low) and torch.isfinite(high)):
            raise ValueError(
                "NaN or Inf in the sparse vectors; check the model's output (fp16 overflow is the "
                "usual cause: load it in bf16 or fp32)"
            )
        if low < 0:
            raise ValueError(
                f"the sparse vectors have negative numbers, such as {low.item():.4g}; values of "
                "codes are never negative: end the model in an activation such as ReLU"
            )

    def get_embedding_dimension(self) -> int:
        """Width of the vectors that rows stand for."""
        return self.hidden_dim

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise a TypeError: the model that it was added to is what is saved."""
        del output_path, args, kwargs
        raise TypeError("SparseOutput is not part of a saved model; save the SparseEncoder itself")


Coder: TypeAlias = SparseCSRHead | SparseOutput


class Ready(NamedTuple):
    """What `ready` gives.

    Attributes:
        model: A `SentenceTransformer` that ends in the coder; it shares all other modules with the
            model that was given.
        coder: What makes the codes.
        k: Active latents of each input.
        all_active: Whether nobody chose k, and codes are as long as the vectors need.
    """

    model: SentenceTransformer
    coder: Coder
    k: int
    all_active: bool


def ready(model: AnyModel, k: int | None = None, role: str | None = None) -> Ready:
    """A model of either class as one that `csr_st.encode` can ask for packed rows, and its k.

    Args:
        model: A `SentenceTransformer` with a head, or any `SparseEncoder`.
        k: Active latents. When None: the ``max_active_dims`` of a `SparseEncoder`, else the k of
            its `SparseAutoEncoder`, else the head's default for the role, else `MOST_ACTIVE`.
        role: "query", "document" or None.

    Raises:
        TypeError: If k is not an integer.
        ValueError: If k is out of bounds, or a `SentenceTransformer` has no head.
    """
    if isinstance(model, SparseEncoder):
        k = _usual_k(model) if k is None else k
        model = _as_sentence_transformer(model, role)
    coder = coder_of(model)
    all_active = k is None and isinstance(coder, SparseOutput)
    return Ready(model, coder, coder.resolve_k(k, task=role), all_active)


def similarity_of(model: AnyModel) -> Similarity:
    """By what a `csr_st.SparseIndex` ranks the codes of a model as the model itself does.

    The dot product for SPLADE and most models without a head; the cosine where codes have unit
    norm, as those of heads have, since it is their dot product.

    Raises:
        ValueError: If a model without a head ranks by a distance.
    """
    heads = [module for module in model.modules() if isinstance(module, SparseCSRHead)]
    name = model.similarity_fn_name
    if name == "dot":
        return "cosine" if any(head.normalize for head in heads) else "dot"
    if name == "cosine" or heads:
        return "cosine"
    raise ValueError(
        f"the model's similarity_fn_name is {name!r}, and codes are ranked by 'cosine' or 'dot'; "
        "choose one of them"
    )


def coder_of(model: nn.Module) -> Coder:
    """The `SparseOutput` that a model ends in, else its head.

    Raises:
        ValueError: If it has neither, or more than one head.
    """
    *_, last = [None, *model.children()]
    return last if isinstance(last, SparseOutput) else find_head(model)


def _usual_k(model: SparseEncoder) -> int | None:
    ks = [module.k for module in model.modules() if isinstance(module, SparseAutoEncoder)]
    return next((k for k in [model.max_active_dims, *ks] if k is not None), None)


def _as_sentence_transformer(model: SparseEncoder, role: str | None) -> SentenceTransformer:
    """A model with another's modules, prompts and device, and a `SparseOutput` if it has no head.

    Not the other itself: `SparseEncoder.encode` makes a sparse tensor of each input, and would cut
    packed rows to its ``max_active_dims``.
    """
    modules: OrderedDict[str, nn.Module] = OrderedDict(model.named_children())
    if not any(isinstance(module, SparseCSRHead) for module in model.modules()):
        modules["sparse_output"] = SparseOutput(_width(model, role))
    made = SentenceTransformer(
        modules=modules,  # type: ignore[arg-type] # annotated as a list, read as either
        device=str(model.device),
        default_prompt_name=model.default_prompt_name,
        prompts={name: text for name, text in model.prompts.items() if text is not None},
    )
    made.module_kwargs = model.module_kwargs
    made.model_card_data.base_model = model.model_card_data.base_model
    return made


def _width(model: SparseEncoder, role: str | None) -> int:
    """Width of the output, for which SPLADE's pooling has to be asked once: it learns it then."""
    poolings = [module for module in model.modules() if isinstance(module, SpladePooling)]
    unasked = [pooling for pooling in poolings if pooling.embedding_dimension is None]
    known = None if unasked else model.get_embedding_dimension()
    if known is not None:
        return known
    method = getattr(model, "encode" if role is None else f"encode_{role}")
    width = int(method(["a"], convert_to_sparse_tensor=False, show_progress_bar=False).shape[-1])
    for pooling in unasked:
        pooling.embedding_dimension = width
    return width


def joined(parts: Sequence[SparseCodes]) -> SparseCodes:
    """Codes one after another, each as long as the longest needs: for k that nobody chose.

    Warns:
        UserWarning: If a row is full, where smaller values may have been left out.
    """
    counts = [np.count_nonzero(part.values, axis=1) for part in parts]
    k = max(1, *(int(count.max(initial=0)) for count in counts))
    n_full = sum(int((count >= MOST_ACTIVE).sum()) for count in counts)
    if n_full and parts[0].hidden_dim > MOST_ACTIVE:
        warnings.warn(
            f"{n_full:,} of {sum(map(len, parts)):,} inputs have {MOST_ACTIVE:,} active dimensions "
            "or more; the largest are kept: pass k= to choose how many",
            UserWarning,
            stacklevel=3,
        )
    return SparseCodes.concatenate([_of_width(part, k) for part in parts])


def trimmed(codes: SparseCodes) -> SparseCodes:
    """Codes without the columns in which every value is 0, but for the first."""
    return codes.prefix(max(1, int(np.count_nonzero(codes.values, axis=1).max(initial=0))))


def _of_width(codes: SparseCodes, k: int) -> SparseCodes:
    def wide(array: NDArray[Any]) -> NDArray[Any]:
        return np.pad(array, ((0, 0), (0, k - codes.k)))

    codes = trimmed(codes)
    return codes._with(indices=wide(codes.indices), values=wide(codes.values))
