"""A model as one graph in a folder, with all that is needed to run it without torch."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from sentence_transformers import SentenceTransformer

from csr_st._io.files import sync_directory
from csr_st._io.staging import staging, sync_files
from csr_st.encoding import Role, encode
from csr_st.export.agreement import Agreement, sample_texts
from csr_st.export.files import DESCRIPTION, EXTRAS, GRAPHS, TOKENIZER, Description
from csr_st.export.graph import CodeGraph, float32_on_cpu
from csr_st.export.guide import guide
from csr_st.export.model import ExportedModel
from csr_st.export.tokenization import inputs_of, is_static, prompts_of, standalone
from csr_st.export.writing import check_packages, convert_to_openvino, quantize, write_onnx

GraphFormat = Literal["onnx", "openvino"]
LEAST_COSINE = 0.999  # of codes whose graph computes the same, in another order
ROLES: tuple[Role | None, ...] = (None, "query", "document")
VERIFIED = 32  # texts of each role


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: The folder.
        agreement: How near its codes are to the model's, on the sample texts.
    """

    path: Path
    agreement: Agreement


def export_model(
    model: SentenceTransformer,
    folder: str | os.PathLike[str],
    *,
    format: GraphFormat = "onnx",
    int8: bool = False,
    texts: Sequence[str] | None = None,
) -> Exported:
    """Write backbone, pooling and head as one graph, in float32, that needs no torch.

    The graph goes from token ids (``input_ids``, ``attention_mask``, ``token_type_ids`` where the
    backbone has them, each (n, t) int64) and ``k`` (int64) to ``indices`` (n, k) int64, ``values``
    (n, k) float32 and ``norms`` (n,) float32, which the decoder needs. Prompts, the default k of
    each role, and the number of a prompt's tokens (``prompt_length``, where they are not pooled)
    are not in the graph but in ``export.json``. Before the folder appears, the codes of the graph
    are compared with those of the model, for each role.

    Args:
        model: A text model that ends in a head, of text or token level.
        folder: New or empty folder; it is written completely or not at all.
        format: "onnx" for onnxruntime, or "openvino".
        int8: Round the weights of the backbone to 8 bits. Codes then differ: see the agreement.
        texts: Sample texts to measure on, such as some that will be encoded; by default 128
            docstrings of Python's own modules.

    Returns:
        The folder, and how near its codes are to the model's.

    Raises:
        ValueError: If the model reads anything but text or does not end in a head, its tokenizer is
            not a fast one, the folder is not empty, format is unknown, there are no texts, or the
            graph does not give the codes of the model.
        ImportError: If a package is missing that writes or runs the graph.
    """
    if format not in get_args(GraphFormat):
        raise ValueError(f"format={format!r} must be 'onnx' or 'openvino'")
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} exists and is not empty; name a new folder")
    samples = sample_texts() if texts is None else list(texts)
    if not samples:
        raise ValueError("texts is empty; pass some texts, or leave it out")
    model = float32_on_cpu(model)
    graph = CodeGraph(model)
    described = _described(model, graph, format, int8)
    rules = standalone(model)
    check_packages(format, EXTRAS[format])
    with _evaluating(model), staging(target.parent, f".{target.name}.exporting-") as beside:
        staged = beside / "model"
        staged.mkdir()
        place = beside / GRAPHS["onnx"] if format == "openvino" else staged / GRAPHS["onnx"]
        inputs = [name for name in described.inputs if name not in ("k", "prompt_length")]
        write_onnx(graph, model, inputs, place)
        if int8:
            quantize(place)
        if format == "openvino":
            convert_to_openvino(place, staged / GRAPHS["openvino"])
        rules.save(str(staged / TOKENIZER))
        content = json.dumps(described.content(), indent=2, ensure_ascii=False) + "\n"
        (staged / DESCRIPTION).write_text(content, encoding="utf-8")
        agreement = _verified(model, ExportedModel(staged), samples, exact=not int8)
        (staged / "README.md").write_text(guide(described, agreement), encoding="utf-8")
        sync_files(staged)
        if target.exists():
            target.rmdir()  # empty; Windows replaces no folder
        staged.replace(target)
    sync_directory(target.parent)
    return Exported(target, agreement)


@contextlib.contextmanager
def _evaluating(model: SentenceTransformer) -> Iterator[None]:
    """The model without dropout; afterwards each of its modules is as it was."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def _described(
    model: SentenceTransformer, graph: CodeGraph, format: GraphFormat, int8: bool
) -> Description:
    prompts, head = prompts_of(model, graph.skips_prompt), graph.head
    return Description(
        graph_format=format,
        inputs=[*inputs_of(model), "k", *(["prompt_length"] if graph.skips_prompt else [])],
        hidden_dim=head.hidden_dim,
        k=head.k,
        query_k=head.query_k,
        normalize=head.normalize,
        add_special_tokens=not is_static(model),
        prompts=prompts.texts,
        prompt_lengths=prompts.lengths,
        int8=int8,
    )


def _verified(
    model: SentenceTransformer, exported: ExportedModel, texts: list[str], exact: bool
) -> Agreement:
    """The agreement on all texts; a ValueError if codes that must be equal are not."""
    with torch.inference_mode():
        for role in ROLES if exact else ():
            some = texts[:VERIFIED]
            found = Agreement.of(encode(model, some, role=role), exported.encode(some, role=role))
            if not found.lowest >= LEAST_COSINE:
                raise ValueError(
                    f"the graph does not give the codes of the model with role={role!r}: {found} "
                    "It has a module or an option that the graph lacks; use the model as it is"
                )
        wanted = encode(model, texts, show_progress=False)
        return Agreement.of(wanted, exported.encode(texts))
