"""An exported model at work: texts to codes, by onnxruntime or OpenVINO."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from csr_st.codes import SparseCodes, index_dtype
from csr_st.data.inputs import as_inputs, check_input
from csr_st.export.files import EXTRAS, GRAPHS, TOKENIZER, Description
from csr_st.export.writing import OUTPUTS
from csr_st.model.settings import integer
from csr_st.search.engines.base import require

Feed = dict[str, NDArray[np.int64]]
Run = Callable[[Feed], list[NDArray[Any]]]
ATTRIBUTES = {  # of an encoded text, by input
    "input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids",
}  # fmt: skip
CHUNK = 128  # batches whose texts are split into tokens, and sorted by length, at a time


class ExportedModel:
    """A model in a folder that `export_model` wrote. It may be used from several threads.

    Args:
        folder: The folder.
        threads: Threads of the runtime; its own default when None.
        providers: Providers of onnxruntime, such as ["CUDAExecutionProvider"]; the CPU when None.

    Attributes:
        description: The content of ``export.json``: k, prompts and names of inputs.

    Raises:
        FileNotFoundError: If the folder or one of its files is missing.
        ValueError: If a file is damaged or of a newer format, or providers are given for OpenVINO.
        ImportError: If the runtime is missing.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        threads: int | None = None,
        providers: Sequence[str] | None = None,
    ) -> None:
        place = Path(folder)
        self.description = Description.read(place)
        form = self.description.graph_format
        for name in (GRAPHS[form], TOKENIZER):
            if not (place / name).is_file():
                raise FileNotFoundError(f"{place} lacks {name}; export the model again")
        if threads is not None:
            threads = integer("threads", threads)
        self._tokenizer = Tokenizer.from_file(str(place / TOKENIZER))
        padding = self._tokenizer.padding or {}
        self._left = padding.get("direction") == "left"
        ids, types = padding.get("pad_id", 0), padding.get("pad_type_id", 0)
        self._padding = {"input_ids": ids, "attention_mask": 0, "token_type_ids": types}
        self._tokenizer.no_padding()  # it would pad all texts, not those of a batch
        if form == "onnx":
            self._run = _onnx(place / GRAPHS[form], threads, providers)
        elif providers is None:
            self._run = _openvino(place / GRAPHS[form], threads)
        else:
            raise ValueError(
                f"providers={list(providers)!r} are of onnxruntime, and {place} is for OpenVINO; "
                "leave them out"
            )

    @property
    def hidden_dim(self) -> int:
        """Number of latents."""
        return self.description.hidden_dim

    def encode(
        self,
        texts: str | Iterable[str],
        k: int | None = None,
        *,
        role: Literal["query", "document"] | None = None,
        batch_size: int = 32,
    ) -> SparseCodes:
        """The codes that ``csr_st.encode(model, texts, k, role=role)`` gives.

        Args:
            texts: One text or many.
            k: Active latents, the model's default for the role when None.
            role: As for `csr_st.encode`: chooses the prompt and the default k.
            batch_size: Texts per run of the graph.

        Returns:
            (n, k) codes in the order of the texts, with float32 values.

        Raises:
            TypeError: If k is not an integer, or a text not a str.
            ValueError: If k is not within 1..hidden_dim, role is unknown, a text is missing, or
                the graph gives NaN or Inf.
        """
        about = self.description
        if role not in (None, "query", "document"):
            raise ValueError(f"role={role!r} must be 'query', 'document' or None")
        if k is None:
            k = about.k if role != "query" or about.query_k is None else about.query_k
        k = integer("k", k, 1, about.hidden_dim, "hidden_dim=")
        batch_size = integer("batch_size", batch_size)
        given = _checked(texts)
        n = len(given)
        indices = np.zeros((n, k), index_dtype(about.hidden_dim))
        values, norms = np.zeros((n, k), np.float32), np.zeros(n, np.float32)
        for start in range(0, n, CHUNK * batch_size):
            rows = np.arange(start, min(start + CHUNK * batch_size, n))
            tokens = self._tokenizer.encode_batch(
                [about.prompts[role or ""] + given[row] for row in rows.tolist()],
                add_special_tokens=about.add_special_tokens,
            )
            order = np.argsort([-len(one.ids) for one in tokens], kind="stable")
            for first in range(0, len(order), batch_size):
                chosen = order[first : first + batch_size]
                feed = self._feed([tokens[place] for place in chosen.tolist()])
                feed["k"] = np.array(k, np.int64)
                if "prompt_length" in about.inputs:
                    feed["prompt_length"] = np.array(about.prompt_lengths[role or ""], np.int64)
                at = rows[chosen]
                indices[at], values[at], norms[at] = self._run(feed)
        return SparseCodes(indices, values, about.hidden_dim, norms if about.normalize else None)

    def _feed(self, tokens: Sequence[Any]) -> Feed:
        """The (n, t) inputs of a batch, padded to its longest text; one token at least."""
        width = max(1, *(len(one.ids) for one in tokens))
        feed = {}
        for name, attribute in ATTRIBUTES.items():
            if name not in self.description.inputs:
                continue
            feed[name] = np.full((len(tokens), width), self._padding[name], np.int64)
            for row, one in zip(feed[name], tokens, strict=True):
                place = slice(width - len(one.ids), None) if self._left else slice(len(one.ids))
                row[place] = getattr(one, attribute)
        return feed


def _checked(texts: Any) -> list[str]:
    found = as_inputs(texts)
    items = [found] if isinstance(found, str) else list(found)
    for place, item in enumerate(items):
        check_input(item, place)
        if not isinstance(item, str):
            raise TypeError(f"input {place} is {item!r:.60} ({type(item).__name__}); pass texts")
    return items


def _onnx(path: Path, threads: int | None, providers: Sequence[str] | None) -> Run:
    runtime = require("onnxruntime", EXTRAS["onnx"])
    options = runtime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    chosen = ["CPUExecutionProvider"] if providers is None else list(providers)
    try:
        session = runtime.InferenceSession(str(path), options, providers=chosen)
    except Exception as error:  # onnxruntime's own classes, which share no base
        raise ValueError(f"onnxruntime cannot load {path}: {error}") from error

    def run(feed: Feed) -> list[NDArray[Any]]:
        found: list[NDArray[Any]] = session.run(list(OUTPUTS), feed)
        return found

    return run


def _openvino(path: Path, threads: int | None) -> Run:
    openvino = require("openvino", EXTRAS["openvino"])
    # Some processors would compute in bfloat16 otherwise.
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    try:
        compiled = openvino.compile_model(str(path), "CPU", options)
    except RuntimeError as error:
        raise ValueError(f"OpenVINO cannot load {path}: {error}") from error

    def run(feed: Feed) -> list[NDArray[Any]]:
        found = compiled.create_infer_request().infer(feed)  # one a call: they hold its memory
        return [np.array(found[name]) for name in OUTPUTS]

    return run
