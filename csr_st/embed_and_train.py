"""The first half of `csr_st.train_model`: embed the data, set rows aside, train a head on the rest.

What rows are depends on the data and the recipe: vectors, tokens of texts, or two sides of pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from csr_st.config import TokenConfig, TrainConfig
from csr_st.data.images import image_columns
from csr_st.embeddings import EmbeddingStore, TokenStore
from csr_st.embeddings.joining import joined
from csr_st.evaluation.quality import LEAST
from csr_st.head import SparseCSRHead
from csr_st.model.token_pooling import token_widths
from csr_st.training.adapting import adapt, refuse_tokens
from csr_st.training.loop import TrainResult, train
from csr_st.training.modalities import train_pairs
from csr_st.training.setup import refuse_recipe_of_tokens
from csr_st.training.tokens import train_tokens
from csr_st.vectors import VectorInput

HELD_OUT = 0.1  # fraction of the rows that only the final figures use
MAX_HELD_OUT = 5_000
MAX_VALIDATION = 2_000  # measured many times during training


@dataclass(frozen=True)
class Run:
    """A trained head, and the rows that it was trained on and that it was not.

    Attributes:
        result: The training.
        training: Vectors, tokens, or each side of pairs.
        held_out: Rows of the same kind that had no part in it.
        kept: For an adapted head: the share of latents that kept their meaning.
    """

    result: TrainResult
    training: EmbeddingStore | TokenStore | dict[str, EmbeddingStore]
    held_out: EmbeddingStore | TokenStore | dict[str, NDArray[np.float32]]
    kept: float | None = None


def embed_and_train(  # the options of `csr_st.train_model`, without those of saving
    model: SentenceTransformer,
    data: Any,
    folder: Path,
    config: TrainConfig,
    *,
    former: SparseCSRHead | None,
    former_config: TrainConfig | None,
    batch_size: int,
    columns: Mapping[str, Any],
    resume: bool,
) -> Run:
    """Embed data into ``folder`` and train a head on it, or adapt a former one.

    Args:
        model: The backbone, without a head.
        data: As for `csr_st.train_model`, and so are all arguments that are not named here.
        folder: For vectors and checkpoints.
        config: How to train a new head.
        former: A head to adapt, None to train a new one.
        former_config: How to adapt it, None for the default.
        batch_size: Items that the backbone takes at once.
        columns: Names of the columns of the data.
        resume: Go on from the last checkpoint.

    Raises:
        ValueError: If data or settings are not valid.
    """
    options: dict[str, Any] = {"output": folder, "resume": resume}
    if former is not None:
        refuse_tokens(former)
        refuse_recipe_of_tokens(former_config)
    if isinstance(config, TokenConfig) and former is None:
        tokens = _tokens_of(model, data, folder, batch_size, columns)
        return _train_on_tokens(tokens, config, options)
    modalities = _modalities_of(data, columns.get("pair_columns"))
    if modalities is not None and former is not None:
        raise ValueError(
            "a head cannot be adapted to pairs of images and texts; train a new one (csr-st train)"
        )
    if modalities is not None:
        stores = {
            modality: EmbeddingStore.embed(
                model, data, folder / "vectors" / modality, text_column=name, batch_size=batch_size
            )
            for modality, name in modalities.items()
        }
        return _train_on_sides(stores, config, options)
    store = data
    if not isinstance(data, EmbeddingStore):
        places = {"batch_size": batch_size, **columns}
        store = EmbeddingStore.embed(model, data, folder / "vectors", **places)
    elif columns:
        raise ValueError(f"data is a store, which has no columns: leave out {sorted(columns)}")
    elif store.dim != (width := model.get_embedding_dimension()):
        raise ValueError(f"data is a store of width {store.dim}, the model has width {width}")
    training, validation, held_out = _parts(store, config)
    options["validation"] = validation
    if former is None:
        return Run(train(training, config, **options), training, held_out)
    adapted = adapt(former, training, former_config, **options)
    return Run(adapted.result, training, held_out, adapted.kept)


def _parts(store: Any, config: TrainConfig) -> tuple[Any, Any, Any]:
    """Rows to train on, the validation set (None without patience), and held-out rows."""
    held_out_rows, validation_rows = _set_aside(len(store), config)
    training, held_out = store.split(held_out_rows)
    if not validation_rows:
        return training, None, held_out
    training, validation = training.split(validation_rows)
    return training, validation, held_out


def _set_aside(n: int, config: TrainConfig) -> tuple[int, int]:
    """How many of n rows only the figures use, and how many are the validation set.

    Raises:
        ValueError: If fewer rows would be left for training than the figures use.
    """
    if n < 2 * LEAST:
        raise ValueError(
            f"{n} rows are too few: {LEAST} are held out for the figures, and at least as many are "
            f"needed to train on; give {2 * LEAST} rows, better 1,000, or train without figures "
            "(csr_st.train)"
        )
    held_out = min(max(LEAST, round(HELD_OUT * n)), MAX_HELD_OUT)
    validation = min(max(1, round(HELD_OUT * (n - held_out))), MAX_VALIDATION)
    return held_out, validation if config.patience else 0


def _tokens_of(
    model: SentenceTransformer,
    data: Any,
    folder: Path,
    batch_size: int,
    columns: Mapping[str, Any],
) -> TokenStore:
    """The store of the tokens of data, which may be one already."""
    given = {name: value for name, value in columns.items() if value is not None}
    if refused := sorted(set(given) - {"text_column"}):
        raise ValueError(
            f"{', '.join(refused)}: a token-level head is trained on texts alone; leave it out"
        )
    if isinstance(data, TokenStore):
        if given:
            raise ValueError(f"data is a store, which has no columns: leave out {sorted(given)}")
        if (widths := token_widths(model)) and data.dim not in widths:
            raise ValueError(
                f"data is a store of width {data.dim}, the model's tokens have {sorted(widths)}"
            )
        return data
    if isinstance(data, EmbeddingStore) or isinstance(model[0], VectorInput):
        raise ValueError(
            "recipe 'token' needs texts, or a TokenStore of their tokens, as csr_st.train_tokens "
            "does; vectors of whole texts have none: pass another recipe"
        )
    return TokenStore.embed(model, data, folder / "tokens", batch_size=batch_size, **given)


def _train_on_tokens(store: TokenStore, config: TokenConfig, options: dict[str, Any]) -> Run:
    training, validation, held_out = _parts(store, config)
    result = train_tokens(training, config, validation=validation, **options)
    return Run(result, training, held_out)


def _modalities_of(data: Any, pair: tuple[str, str] | None) -> dict[str, str] | None:
    """Columns by modality where a pair is of an image and a text."""
    pictures = set(image_columns(getattr(data, "features", None))) & set(pair or ())
    if pair is None or len(pictures) != 1:
        return None
    return {"image" if name in pictures else "text": name for name in pair}


def _train_on_sides(
    sides: dict[str, EmbeddingStore], config: TrainConfig, options: dict[str, Any]
) -> Run:
    """Train one head on both sides of pairs."""
    config = replace(config, support_weight=config.support_weight or config.two_modality_support)
    n = min(map(len, sides.values()))
    n_held_out, n_validation = _set_aside(n, config)
    order = np.random.default_rng(0).permutation(n)
    parts = np.split(order, [n_held_out, n_held_out + n_validation])
    held_out_rows, validation_rows, rows = (np.sort(part) for part in parts)
    training = {name: side.subset(rows) for name, side in sides.items()}
    if n_validation:  # in the space that the head is trained in
        shifts = dict(zip(sides, joined(list(training.values()))[1], strict=True))
        shifted = [side.rows(validation_rows) - shifts[name] for name, side in sides.items()]
        options = {**options, "validation": EmbeddingStore.from_array(np.concatenate(shifted))}
    result = train_pairs(training, config, **options)
    held_out = {name: side.rows(held_out_rows) for name, side in sides.items()}
    return Run(result, training, held_out)
