"""On-disk metadata of a store: its plan when begun, its manifest when complete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

OTHERWISE = "Pass another path, or delete that directory to begin again"
DIFFERENCES_NAMED = 8
ORIGIN = ("dtype", "model", "revision", "prompt", "role")
MOST_ROWS = 1 << 40


@dataclass(frozen=True)
class StoreType:
    """A type of store: of embeddings, of the vectors of tokens, or of codes.

    Attributes:
        format: Name of the format, within its files.
        noun: What messages call it.
        call: The call that writes it.
        progress: What its progress bar says.
    """

    format: str
    noun: str
    call: str
    progress: str


EMBEDDINGS = StoreType("csr_st.embeddings", "embedding store", "EmbeddingStore.embed", "Embedding")
TOKENS = StoreType("csr_st.tokens", "token store", "TokenStore.embed", "Embedding tokens")
CODES = StoreType("csr_st.code_store", "store of codes", "CodeStore.encode", "Encoding")


@dataclass(frozen=True)
class StoreInfo:
    """Where the rows of a store come from.

    Attributes:
        n: Number of rows.
        dim: Width of a row; of codes, their k.
        dtype: Type on disk or in memory: "float16", "float32", "bfloat16" or "float64".
        model: Name of the model that made them, or None when unknown.
        revision: Its commit, where it has one.
        prompt: Text before every item, or None.
        role: "query", "document" or None.
        dataset: Name of the data, or None.
        dataset_fingerprint: Identity of the data's content, where the data has one.
    """

    n: int
    dim: int
    dtype: str
    model: str | None = None
    revision: str | None = None
    prompt: str | None = None
    role: str | None = None
    dataset: str | None = None
    dataset_fingerprint: str | None = None


@dataclass(frozen=True)
class Plan:
    """What a store is made of; two runs with one plan write the same store.

    Attributes:
        recipe: What a vector depends on: model, revision, weights, modules and their settings,
            prompt, role, columns, dtype.
        shard_rows: Rows of every shard but the last.
        dataset: Name of the data, or None.
        dataset_fingerprint: Its identity when the store was begun, or None.
        rows: Number of rows where it is known before reading, else None.
    """

    recipe: dict[str, Any]
    shard_rows: int
    dataset: str | None = None
    dataset_fingerprint: str | None = None
    rows: int | None = None

    def __post_init__(self) -> None:
        _check("recipe", self.recipe, isinstance(self.recipe, dict))
        _check("shard_rows", self.shard_rows, _is_count(self.shard_rows) and self.shard_rows > 0)
        _check("rows", self.rows, self.rows is None or _is_count(self.rows))

    def refuse_other(self, other: Plan, path: Path) -> None:
        """Raise a ValueError that names the differences between this plan on disk and another."""
        if other.recipe.get("modules") and "modules" not in self.recipe:
            raise ValueError(
                f"{path} was written by an earlier csr_st, which did not note the model's modules, "
                "so it is unknown whether its rows are of this model. Embed again: pass another "
                "path, or delete that directory. A complete store can still be opened as it is"
            )
        there, now = _flat(self.recipe), _flat(other.recipe)
        differences = [
            f"{key} {there.get(key)!r} there, {now.get(key)!r} now"
            for key in sorted({*there, *now})
            if there.get(key) != now.get(key)
        ]
        if differences:
            named = "; ".join(differences[:DIFFERENCES_NAMED])
            if len(differences) > DIFFERENCES_NAMED:
                named += f"; and {len(differences) - DIFFERENCES_NAMED} more"
            raise ValueError(f"{path} was begun with another plan: {named}. {OTHERWISE}")
        if self.rows is not None and other.rows is not None and self.rows != other.rows:
            refuse_data(path, f"data of {self.rows} rows there, {other.rows} rows now")


def refuse_data(path: Path, difference: str) -> NoReturn:
    """Raise the ValueError of a store that was made from other data."""
    raise ValueError(f"{path} was made from other data: {difference}. {OTHERWISE}")


def _flat(recipe: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested recipe by dotted names."""
    found: dict[str, Any] = {}
    for name, value in recipe.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


@dataclass(frozen=True)
class Manifest:
    """A complete store.

    Attributes:
        plan: What it is made of.
        dim: Width of a row.
        sizes: Rows of each shard.
        checksums: Digest of each shard.
        arrays: Digest of each array beside the shards: labels, pairs, scores.
        label_names: Names of the labels, or None.
    """

    plan: Plan
    dim: int
    sizes: list[int]
    checksums: list[str]
    arrays: dict[str, str] = field(default_factory=dict)
    label_names: list[str] | None = None

    def __post_init__(self) -> None:
        missing = [name for name in ORIGIN if name not in self.plan.recipe]
        _check("recipe", self.plan.recipe, not missing)
        _check("dim", self.dim, _is_count(self.dim) and self.dim > 0)
        _check("sizes", self.sizes, isinstance(self.sizes, list) and self.sizes)
        _check("sizes", self.sizes, all(_is_count(size) and size > 0 for size in self.sizes))
        _check("checksums", self.checksums, _is_strings(self.checksums))
        _check("checksums", self.checksums, len(self.checksums) == len(self.sizes))
        names = self.label_names
        _check("label_names", names, names is None or _is_strings(names))
        _check("arrays", self.arrays, isinstance(self.arrays, dict))
        _check("arrays", self.arrays, set(self.arrays) <= {"labels", "pairs", "scores"})

    @property
    def info(self) -> StoreInfo:
        """Where the rows come from."""
        return StoreInfo(
            n=sum(self.sizes),
            dim=self.dim,
            **{name: self.plan.recipe[name] for name in ORIGIN},
            dataset=self.plan.dataset,
            dataset_fingerprint=self.plan.dataset_fingerprint,
        )


def _check(name: str, value: Any, valid: Any) -> None:
    """Raise a ValueError for a value that no writer wrote: the file was altered."""
    if not valid:
        raise ValueError(f"{name} is {value!r:.100}")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < MOST_ROWS


def _is_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(part, str) for part in value)
