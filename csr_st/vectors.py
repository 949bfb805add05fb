"""An input module that takes vectors, so that a head without a backbone is a model too.

``SentenceTransformer(folder).encode(vectors, k=16)`` then works for vectors of any origin. The path
``csr_st.vectors.VectorInput`` is in the ``modules.json`` of such models and never moves.
"""

from __future__ import annotations

import json
import numbers
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers.base.modules import InputModule
from torch import Tensor

from csr_st._io.files import write_atomically
from csr_st.model import files
from csr_st.model.settings import width


class VectorInput(InputModule):
    """Passes (n, input_dim) vectors on as ``sentence_embedding``.

    Args:
        input_dim: Width of the vectors.

    Raises:
        ValueError: If it is below 1 or above the largest supported.
        TypeError: If it is not an integer.
    """

    config_keys = ["input_dim"]  # noqa: RUF012 - the base class declares it as an instance-typed attribute
    save_in_root = False

    def __init__(self, input_dim: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # untyped in sentence-transformers
        self.input_dim = width("input_dim", input_dim)

    @property
    def modalities(self) -> list[Any]:
        """No modality: sentence-transformers has no name for vectors."""
        return []

    def preprocess(
        self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Vectors as one float32 tensor.

        Args:
            inputs: n vectors: arrays, tensors or lists of numbers, or an (n, input_dim) array.
            prompt: Must be empty.
            kwargs: Ignored.

        Returns:
            ``sentence_embedding`` (n, input_dim) and ``modality`` "vector".

        Raises:
            TypeError: If an input is not a vector of numbers.
            ValueError: If a width is not input_dim, or there is a prompt.
        """
        del kwargs
        if prompt:
            raise ValueError(f"prompt={prompt!r} cannot be put before a vector; leave it out")
        rows = [self._row(item, place) for place, item in enumerate(inputs)]
        stacked = torch.stack(rows) if rows else torch.empty(0, self.input_dim)
        return {"sentence_embedding": stacked, "modality": "vector"}

    def _row(self, item: Any, place: int) -> Tensor:
        try:
            row = item.detach() if isinstance(item, Tensor) else torch.from_numpy(np.array(item))
            row = row.to("cpu", torch.float32)
        except (TypeError, ValueError):
            raise TypeError(
                f"input {place} is {item!r:.60} ({type(item).__name__}), not a vector; this model "
                "encodes vectors: embed your data first, or attach its head to the backbone "
                "(csr_st.attach)"
            ) from None
        if row.shape != (self.input_dim,):
            raise ValueError(
                f"input {place} has shape {tuple(row.shape)}; vectors of {self.input_dim} numbers "
                "are needed"
            )
        return row

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """The features, unchanged."""
        del kwargs
        return features

    def get_embedding_dimension(self) -> int:
        """Width of the vectors."""
        return self.input_dim

    def on_model_ready(self, model: Any) -> None:
        """Replace the model's own check of one input against many, and its preprocessing.

        sentence-transformers takes any array of numbers for one input, and a 1-D array for audio.
        """
        own = {"is_singular_input": self.is_one_vector, "preprocess": self.preprocess}
        for name, method in own.items():
            if hasattr(type(model), name):
                setattr(model, name, method)

    def is_one_vector(self, inputs: Any) -> bool:
        """Whether the inputs are one vector, not several."""
        if isinstance(inputs, np.ndarray | Tensor):
            return inputs.ndim == 1 and inputs.dtype != object
        if isinstance(inputs, list | tuple) and inputs:
            return isinstance(inputs[0], numbers.Real)
        return not hasattr(inputs, "__len__")

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Write config.json into a folder."""
        del args, kwargs
        config = json.dumps(self.get_config_dict(), indent=2) + "\n"
        write_atomically(Path(output_path) / self.config_file_name, config)

    @classmethod
    def load_config(cls, model_name_or_path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The known settings in a saved config.json; the base class's ``load`` takes them.

        Raises:
            ValueError: If the file or its input_dim is missing.
        """
        del args
        path = files.find(cls, cls.config_file_name, model_name_or_path, **kwargs)
        return files.read_config(path, cls.config_keys, {"input_dim"})
