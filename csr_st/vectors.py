"""A module that takes vectors as they are, so that a head without a backbone is a model too.

``SentenceTransformer(folder).encode(vectors, k=16)`` then works for vectors of any origin. The path
``csr_st.vectors.VectorInput`` stands in the ``modules.json`` of such models and never moves.
"""

from __future__ import annotations

import json
import numbers
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sentence_transformers.base.modules import InputModule
from torch import Tensor

from csr_st._io.files import write_atomically

if TYPE_CHECKING:
    from typing_extensions import Self


class VectorInput(InputModule):
    """Passes (n, input_dim) vectors on as ``sentence_embedding``.

    Args:
        input_dim: Width of the vectors.

    Raises:
        ValueError: If it is not a whole number of at least 1.
    """

    config_keys = ["input_dim"]  # noqa: RUF012 - the base class declares it as an instance-typed attribute
    save_in_root = False

    def __init__(self, input_dim: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # untyped in sentence-transformers
        if isinstance(input_dim, bool) or not isinstance(input_dim, int) or input_dim < 1:
            raise ValueError(f"input_dim={input_dim!r} must be an integer of at least 1")
        self.input_dim = input_dim

    @property
    def modalities(self) -> list[Any]:
        """None of those that sentence-transformers knows."""
        return []

    def preprocess(
        self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Vectors as one float32 tensor.

        Args:
            inputs: n vectors: arrays, tensors or lists of numbers, or an (n, input_dim) array.
            prompt: Must be empty: a vector takes no prompt.
            kwargs: Ignored.

        Returns:
            ``sentence_embedding`` (n, input_dim) and ``modality`` "vector".

        Raises:
            TypeError: If an input is no vector of numbers.
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
        """The features as they are."""
        del kwargs
        return features

    def get_embedding_dimension(self) -> int:
        """Width of the vectors."""
        return self.input_dim

    def on_model_ready(self, model: Any) -> None:
        """Let the model tell one vector from many, and leave the vectors to this module.

        sentence-transformers takes any array of numbers for one input, and a 1-D array for sound.
        """
        for name, own in (
            ("is_singular_input", self.is_one_vector),
            ("preprocess", self.preprocess),
        ):
            if hasattr(type(model), name):
                setattr(model, name, own)

    def is_one_vector(self, inputs: Any) -> bool:
        """Whether the inputs are one vector, not many; takes the place of the model's own check."""
        if isinstance(inputs, np.ndarray | Tensor):
            return inputs.ndim == 1 and inputs.dtype != object
        if isinstance(inputs, list | tuple) and inputs:
            return isinstance(inputs[0], numbers.Real)
        return not hasattr(inputs, "__len__")

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Write config.json into a folder."""
        del args, kwargs
        settings = json.dumps(self.get_config_dict(), indent=2) + "\n"
        write_atomically(Path(output_path) / self.config_file_name, settings)

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        init_defaults: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Read a saved module from a folder or the Hub.

        Args:
            model_name_or_path: Folder or Hub id of the model.
            subfolder: The module's folder within it, such as "0_VectorInput".
            token: Hub token.
            cache_folder: Folder to cache downloads in.
            revision: Revision of the model on the Hub.
            local_files_only: Never ask the Hub.
            init_defaults: Ignored: there is nothing to fill in.
            kwargs: Ignored.

        Raises:
            ValueError: If the config is missing or its width is none.
        """
        del init_defaults, kwargs
        config = cls.load_config(
            model_name_or_path,
            subfolder=subfolder,
            token=token,
            cache_folder=cache_folder,
            revision=revision,
            local_files_only=local_files_only,
        )
        if "input_dim" not in config:
            raise ValueError(
                f"{model_name_or_path} has no input_dim in its VectorInput's {cls.config_file_name}"
                "; download or save the model again"
            )
        if unknown := sorted(set(config) - set(cls.config_keys)):
            warnings.warn(
                f"{model_name_or_path} has settings that this csr_st does not know and leaves out: "
                f"{unknown}; pip install -U csr-st if the codes look wrong",
                stacklevel=2,
            )
        return cls(config["input_dim"])
