"""The files of an exported model, and its description, ``export.json``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from csr_st._io.files import read_json, refuse_newer_format

DESCRIPTION = "export.json"
TOKENIZER = "tokenizer.json"
GRAPHS = {"onnx": "model.onnx", "openvino": "model.xml"}  # by format
EXTRAS = {"onnx": "onnx", "openvino": "openvino"}
FORMAT, VERSION = "csr_st.export", 1


@dataclass(frozen=True)
class Description:
    """The content of ``export.json``: what is needed to run the graph and is not in it.

    Attributes:
        graph_format: "onnx" or "openvino".
        inputs: Names of the graph's inputs.
        hidden_dim: Number of latents, the largest k.
        k: Active latents by default.
        query_k: Active latents of queries by default; None if they use ``k``.
        normalize: Whether values have unit L2 norm.
        add_special_tokens: Whether the tokenizer puts special tokens around a text.
        prompts: Text to put before an input, by role: "query", "document", or "" for no role.
        prompt_lengths: The input ``prompt_length`` by role, for graphs that have it.
        int8: Whether the backbone's weights were quantized to 8 bits.
    """

    graph_format: str
    inputs: list[str]
    hidden_dim: int
    k: int
    query_k: int | None
    normalize: bool
    add_special_tokens: bool
    prompts: dict[str, str]
    prompt_lengths: dict[str, int]
    int8: bool

    def content(self) -> dict[str, Any]:
        """The content of ``export.json``."""
        head = {"format": FORMAT, "format_version": VERSION}
        return {**head, "graph": GRAPHS[self.graph_format], **asdict(self)}

    @classmethod
    def read(cls, folder: Path) -> Description:
        """The description in a folder.

        Raises:
            FileNotFoundError: If the folder has none.
            ValueError: If it is damaged, or of a newer format.
        """
        path = folder / DESCRIPTION
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} has no {DESCRIPTION}, so it is no exported model; csr-st export MODEL "
                f"--output {folder} writes one"
            )
        found = read_json(path)
        if found.get("format") != FORMAT:
            raise ValueError(f"{path} is not of an exported model: its format is not {FORMAT!r}")
        refuse_newer_format(path, found.get("format_version"), VERSION)
        names = cls.__dataclass_fields__
        if missing := sorted(set(names) - set(found)):
            raise ValueError(f"{path} lacks {', '.join(missing)}; export the model again")
        described = cls(**{name: found[name] for name in names})
        if described.graph_format not in GRAPHS:
            raise ValueError(f"{path} has the unknown graph_format {described.graph_format!r}")
        return described
