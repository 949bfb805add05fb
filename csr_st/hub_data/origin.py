"""Which model made what is published."""

from __future__ import annotations

import re
from typing import NamedTuple


class ModelOrigin(NamedTuple):
    """The model that made codes.

    Attributes:
        id: Hub id such as "org/my-csr", or a name; None when unknown.
        revision: Its commit, branch or tag; None when unknown.
        weights: Digest of its weights; None when unknown.
    """

    id: str | None
    revision: str | None = None
    weights: str | None = None

    def linked(self) -> str:
        """For a card: the name, linked where it may be a Hub id."""
        name = "unknown" if self.id is None else re.sub(r"[\n\r|`<>\[\]]", " ", self.id)
        if re.fullmatch(r"[\w.-]+/[\w.-]+", name, re.ASCII):
            name = f"[{name}](https://huggingface.co/{name})"
        return name if self.revision is None else f"{name}, revision {self.revision}"


def checked_origin(
    model: str | None, model_revision: str | None, known: ModelOrigin | None = None
) -> ModelOrigin:
    """What a caller says of the model, before what is known of it.

    Raises:
        TypeError: If a name is not a string.
        ValueError: If it is empty, or a revision is given without a model.
    """
    for name, value in {"model": model, "model_revision": model_revision}.items():
        if value is not None and not isinstance(value, str):
            raise TypeError(f"{name}={value!r:.60} must be a Hub id such as 'org/my-csr', a string")
        if value is not None and not value.strip():
            raise ValueError(f"{name}={value!r} is empty; pass a name, or leave it out")
    known = known or ModelOrigin(None)
    if model is None:
        if model_revision is not None and known.id is None:
            raise ValueError(
                f"model_revision={model_revision!r} needs model=, whose revision it is"
            )
        return known if model_revision is None else known._replace(revision=model_revision)
    same = model == known.id
    return ModelOrigin(model, model_revision or (known.revision if same else None), known.weights)
