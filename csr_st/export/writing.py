"""Graphs in files: by torch's exporter, in 8 bits by onnxruntime, converted by OpenVINO."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from csr_st.export.graph import CodeGraph
from csr_st.export.tokenization import standalone
from csr_st.search.engines.base import require

OUTPUTS = ("indices", "values", "norms")
ONE_FILE = 1_900_000_000  # bytes of weights; a file of protobuf ends at 2 GiB
BACKBONE = "'backbone"  # in the exporter's note of the module that a node comes from


def check_packages(format: str, extra: str) -> None:
    """Raise an ImportError if a package is missing that writes or runs this format."""
    needed = ["onnx", "onnxscript", "onnxruntime"]
    for module in [*needed, "openvino"] if format == "openvino" else needed:
        require(module, extra)


def write_onnx(graph: CodeGraph, model: SentenceTransformer, inputs: list[str], path: Path) -> None:
    """Write the graph, with the number of texts, of tokens, and k left open.

    Args:
        graph: Graph of the model, in float32 on the CPU.
        model: Gives token ids to trace with.
        inputs: Names of the (n, t) inputs.
        path: Path of the new file; weights of more than 1.9 GB are put beside it.
    """
    texts = ["an example of a text", "another"]  # of two lengths, so that there is padding
    given = [standalone(model).encode(text).ids[:8] for text in texts]
    width = max(2, *map(len, given))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in given])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in given])
    known = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    arguments: dict[str, Tensor] = {name: known[name] for name in inputs}
    open_shapes: dict[str, Any] = {
        name: {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC} for name in inputs
    }
    arguments["k"], open_shapes["k"] = torch.tensor(2), None
    if graph.skips_prompt:
        arguments["prompt_length"], open_shapes["prompt_length"] = torch.tensor(1), None
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            graph.eval(),
            kwargs=arguments,
            input_names=list(arguments),
            output_names=list(OUTPUTS),
            dynamic_shapes=open_shapes,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    size = sum(p.numel() * p.element_size() for p in graph.parameters())
    program.save(str(path), external_data=size > ONE_FILE)


def quantize(path: Path) -> None:
    """Round the weights of the backbone to 8 bits, in place; those of the head stay.

    Activations are rounded as the graph runs, by the range of each batch.
    """
    onnx = require("onnx", "onnx")
    quantization = require("onnxruntime.quantization", "onnx")
    parsed = onnx.load(str(path), load_external_data=False)
    weights = {one.name for one in parsed.graph.initializer}
    chosen = [
        node.name
        for node in parsed.graph.node
        if node.op_type in ("MatMul", "Gather")
        and weights.intersection(node.input)
        and any(BACKBONE in note.value for note in node.metadata_props)
    ]
    del parsed.graph.value_info[:]  # of shapes that the quantizer infers itself, and may not find
    onnx.save(parsed, str(path))
    large = path.with_name(f"{path.name}.data").exists()
    rounded = path.with_name(f"int8-{path.name}")
    with _quiet():
        quantization.quantize_dynamic(
            path,
            rounded,
            nodes_to_quantize=chosen,
            per_channel=True,
            use_external_data_format=large,
        )
    if not large:
        rounded.replace(path)
        return
    # The graph names the file of its weights: written anew, under the usual names.
    parsed = onnx.load(str(rounded))
    for old in path.parent.glob(f"*{path.name}*"):
        old.unlink()
    onnx.save(parsed, str(path), save_as_external_data=True, location=f"{path.name}.data")


def convert_to_openvino(source: Path, target: Path) -> None:
    """Write an ONNX graph as OpenVINO's two files, target and its .bin, in full precision."""
    openvino = require("openvino", "openvino")
    with _quiet():
        converted = openvino.convert_model(str(source))
        openvino.save_model(converted, str(target), compress_to_fp16=False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the notes of exporters on their own work, of which none is for the user."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
