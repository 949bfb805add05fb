"""What goes to the workers: a model by its name, and how it encodes."""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Module

from csr_st._io.files import FileState, read_json
from csr_st.code_encoding import CodeEncoding
from csr_st.code_options import CodeOptions
from csr_st.codes import SparseCodes
from csr_st.embeddings.writing import ENCODE_BATCHES
from csr_st.encoding import encode_method
from csr_st.model.settings import flag, integer, one_of
from csr_st.sparse_encoders import coder_of, ready

SETTINGS = "config_sentence_transformers.json"


@dataclass(frozen=True)
class EncoderSpec:
    """A model and its options; equal ones share one loaded model within a process.

    Attributes:
        model: Hub id, or a folder that every worker sees.
        k: Active latents per item; this and the next eight as in `CodeStore.encode`.
        role: "query", "document" or None.
        prompt: Text before each item.
        prompt_name: Name of one of the model's prompts.
        pursuit: Whether values are fitted.
        residual_bits: Bits a dimension of the residual.
        value_bits: Bits of a value, of packed codes.
        dtype: Type of the values.
        batch_size: Items per forward pass.
        revision: Commit, branch or tag of a model on the Hub.
        trust_remote_code: Whether code of the model's repository may run.
        device: Where to encode; the worker's accelerator if it has one when None.

    Raises:
        TypeError: If an option is of the wrong type.
        ValueError: If one is out of its bounds.
    """

    model: str
    k: int | None = None
    role: str | None = None
    prompt: str | None = None
    prompt_name: str | None = None
    pursuit: bool = False
    residual_bits: float = 0
    value_bits: int | None = None
    dtype: str = "float32"
    batch_size: int = 64
    revision: str | None = None
    trust_remote_code: bool = False
    device: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, str | Path):
            raise TypeError(
                f"model is a {type(self.model).__name__}; pass its folder or Hub id: every worker "
                "loads it for itself"
            )
        place = Path(self.model)
        object.__setattr__(self, "model", str(place.absolute() if place.exists() else self.model))
        if self.k is not None:
            integer("k", self.k)
        integer("batch_size", self.batch_size)
        flag("trust_remote_code", self.trust_remote_code)
        if self.role is not None:
            one_of("role", self.role, ("query", "document"))
        one_of("dtype", self.dtype, ("float32", "float16"))
        self.kept  # noqa: B018 - checks what codes keep

    @property
    def kept(self) -> CodeOptions:
        """What codes keep of their vectors."""
        return CodeOptions(self.pursuit, self.residual_bits, self.value_bits)

    @property
    def encoding(self) -> CodeEncoding:
        """The loaded model with these options; loaded once in a process.

        Raises:
            OSError: If the model cannot be read or downloaded.
            ValueError: If it makes no codes, or an option does not go with it.
        """
        return _encoding(self, _stamp(self.model))

    @property
    def identity(self) -> dict[str, Any]:
        """What a code depends on besides the text; computed once in a process."""
        return _identity(self, _stamp(self.model))

    def encode(self, texts: list[str]) -> dict[str, NDArray[Any]]:
        """The arrays of some rows, as `CodeEncoding.encode` gives them.

        Raises:
            ValueError: If a text embeds to NaN or Inf.
        """
        encoding = self.encoding
        step = max(1024, ENCODE_BATCHES * self.batch_size)
        pieces = [encoding.encode(texts[i : i + step], i) for i in range(0, len(texts), step)]
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}

    def codes(self, texts: list[str]) -> SparseCodes:
        """The codes of some texts, without a residual."""
        arrays, hidden_dim = self.encode(texts), coder_of(self.encoding.model).hidden_dim
        indices, values, norms = arrays["indices"], arrays["values"], arrays.get("norms")
        return SparseCodes(indices, values, hidden_dim, norms, fitted=self.pursuit)


def spec_of(model: Any, options: dict[str, Any]) -> EncoderSpec:
    """A spec of the options of a call; a TypeError names one that there is not."""
    known = [field.name for field in fields(EncoderSpec)][1:]
    if unknown := sorted(options.keys() - set(known)):
        raise TypeError(f"{unknown[0]}= is no option; there are {', '.join(known)}")
    return EncoderSpec(model, **options)


def _stamp(model: str) -> tuple[Any, ...]:
    """What changes when a model is saved again in its folder; a worker may outlive that."""
    files = sorted(path for path in Path(model).rglob("*") if path.is_file())
    return tuple((str(path), *FileState.of(path)) for path in files)


@functools.lru_cache(maxsize=1)
def _identity(spec: EncoderSpec, stamp: tuple[Any, ...]) -> dict[str, Any]:  # noqa: ARG001
    return spec.encoding.identity()


@functools.lru_cache(maxsize=1)
def _encoding(spec: EncoderSpec, stamp: tuple[Any, ...]) -> CodeEncoding:  # noqa: ARG001
    path = Module.load_file_path(spec.model, filename=SETTINGS, revision=spec.revision)
    saved_as = None if path is None else read_json(path).get("model_type")
    kind = SparseEncoder if saved_as == "SparseEncoder" else SentenceTransformer
    loaded = kind(
        spec.model,
        revision=spec.revision,
        trust_remote_code=spec.trust_remote_code,
        device=spec.device,
    )
    asked, coder, k, _ = ready(loaded, spec.k, spec.role)
    encode_method(asked, spec.role)  # type: ignore[arg-type] # refuses models it could not read
    spec.kept.check_for(coder)
    options = spec.role, spec.prompt, spec.prompt_name, spec.batch_size, spec.dtype, spec.device
    return CodeEncoding(asked, *options, k=k, kept=spec.kept)
