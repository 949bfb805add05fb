"""What a file or folder is: names it, and the command that takes it, where another is expected."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

from csr_st._io.files import read_json
from csr_st._io.tensor_files import open_tensors

Kind: TypeAlias = Literal["codes", "index", "model", "vectors", "data"]

_FORMATS: dict[str, Kind] = {
    "csr_st.codes": "codes",
    "csr_st.packed_codes": "codes",
    "csr_st.code_store": "codes",
    "csr_st.index": "index",
    "csr_st.segments": "index",
    "csr_st.embeddings": "vectors",
}
_DATA = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt", ".npy", ".npz")
_ABOUT: dict[Kind, tuple[str, str]] = {
    "codes": ("codes", "csr-st index {path} --output index.csr"),
    "index": ("an index", 'csr-st search {path} "a query" --model MODEL'),
    "model": ("a model", "csr-st encode {path} DATA --output codes.safetensors"),
    "vectors": ("a store of vectors", "csr-st encode MODEL {path} --output codes.safetensors"),
    "data": ("data", "csr-st encode MODEL {path} --output codes.safetensors"),
}


def expect(path: str | Path, *wanted: Kind) -> None:
    """Refuse what is known to be of another kind.

    Raises:
        FileNotFoundError: If nothing has this name.
        ValueError: If it is of another kind, with the command that takes it.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    kind = _kind(path)
    if kind is not None and kind not in wanted:
        what, command = _ABOUT[kind]
        needed = " or ".join(_ABOUT[one][0] for one in wanted)
        verb = "are" if needed.endswith(("codes", "data")) else "is"
        raise ValueError(
            f"{path} is {what}, where {needed} {verb} needed; its command is: "
            f"{command.format(path=path)}"
        )


def _kind(path: Path) -> Kind | None:
    """What a path is, None if that is not known."""
    try:
        if path.is_dir():
            if (path / "modules.json").exists():
                return "model"
            for name in ("manifest.json", "plan.json", "segments.json"):
                if (path / name).exists():
                    return _FORMATS.get(str(read_json(path / name).get("format")))
            return None
        if path.suffix.lower() in _DATA:
            return "data"
        return _FORMATS.get(open_tensors(path).metadata.get("format", "").strip('"'))
    except (ValueError, OSError, AttributeError):  # damaged: the reader says how
        return None
