"""What a store says of itself on disk: its plan when begun, its manifest when complete."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from csr_st._io.files import write_atomically

FORMAT_VERSION = 1
PLAN = "plan.json"
MANIFEST = "manifest.json"
OTHERWISE = "Pass another path, or delete that directory to begin anew"
DIFFERENCES_NAMED = 8


@dataclass(frozen=True)
class Kind:
    """What tells one kind of store from another.

    Attributes:
        format: Name of the format, within its files.
        noun: What messages call it.
        call: The call that writes it.
    """

    format: str
    noun: str
    call: str


EMBEDDINGS = Kind("csr_st.embeddings", "embedding store", "EmbeddingStore.embed")
CODES = Kind("csr_st.code_store", "store of codes", "CodeStore.encode")


@dataclass(frozen=True)
class StoreInfo:
    """Where the rows of a store come from.

    Attributes:
        n: Number of rows.
        dim: Width of a row; of codes, their k.
        dtype: Type on disk or in memory: "float16", "float32", "bfloat16" or "float64".
        model: Name of the model that made them, or None when unknown.
        revision: Its commit, where it has one.
        prompt: Text put before every item, or None.
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
        recipe: What decides a vector: model, revision, weights, modules and their settings,
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

    def refuse_other(self, other: Plan, path: Path) -> None:
        """Raise a ValueError that names the differences between this plan on disk and another."""
        if other.recipe.get("modules") and "modules" not in self.recipe:
            raise ValueError(
                f"{path} was written by an earlier csr_st, which did not note the model's modules, "
                "so whether its rows are of this model cannot be told. Embed again: pass another "
                "path, or delete that directory. A complete store can still be opened as it is"
            )
        there, now = _flat(self.recipe), _flat(other.recipe)
        differences = [
            f"{key} {there.get(key)!r} there, {now.get(key)!r} now"
            for key in sorted({*there, *now})
            if there.get(key) != now.get(key)
        ]
        if differences:
            further = len(differences) - DIFFERENCES_NAMED
            told = "; ".join(differences[:DIFFERENCES_NAMED])
            told += f"; and {further} more" * (further > 0)
            raise ValueError(f"{path} was begun with another plan: {told}. {OTHERWISE}")
        if self.rows is not None and other.rows is not None and self.rows != other.rows:
            refuse_data(path, f"data of {self.rows} rows there, {other.rows} rows now")


def refuse_data(path: Path, difference: str) -> NoReturn:
    """Raise the ValueError of a store whose data is not that of now."""
    raise ValueError(f"{path} was made from other data: {difference}. {OTHERWISE}")


def _flat(recipe: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A recipe of dicts within dicts by dotted names."""
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

    @property
    def info(self) -> StoreInfo:
        """Where the vectors come from."""
        recipe = self.plan.recipe
        return StoreInfo(
            n=sum(self.sizes),
            dim=self.dim,
            dtype=recipe["dtype"],
            model=recipe["model"],
            revision=recipe["revision"],
            prompt=recipe["prompt"],
            role=recipe["role"],
            dataset=self.plan.dataset,
            dataset_fingerprint=self.plan.dataset_fingerprint,
        )


def write_plan(directory: Path, plan: Plan, kind: Kind) -> None:
    """Begin a store."""
    _write(directory / PLAN, asdict(plan), kind)


def write_manifest(directory: Path, manifest: Manifest, kind: Kind) -> None:
    """Complete a store."""
    _write(directory / MANIFEST, asdict(manifest), kind)


def read_plan(directory: Path, kind: Kind) -> Plan | None:
    """The plan of a store that was begun, or None.

    Raises:
        ValueError: If it is damaged, of a newer format or of another kind.
    """
    content = _read(directory / PLAN, kind)
    return None if content is None else Plan(**content)


def read_manifest(directory: Path, kind: Kind) -> Manifest | None:
    """The manifest of a store that is complete, or None.

    Raises:
        ValueError: If it is damaged, of a newer format or of another kind.
    """
    content = _read(directory / MANIFEST, kind)
    if content is None:
        return None
    return Manifest(**{**content, "plan": Plan(**content["plan"])})


def read_complete(directory: Path, kind: Kind) -> Manifest:
    """The manifest of a store that must be complete.

    Raises:
        FileNotFoundError: If there is no such directory.
        ValueError: If it holds no store of this kind, or one that is not complete.
    """
    if not directory.is_dir():
        raise FileNotFoundError(f"there is no {kind.noun} at {directory}")
    manifest = read_manifest(directory, kind)
    if manifest is not None:
        return manifest
    plan = read_plan(directory, kind)
    if plan is None:
        raise ValueError(f"{directory} holds no {kind.noun}: it has no {PLAN}")
    done = len(list(directory.glob("shard-*.safetensors")))
    whole = "?" if plan.rows is None else -(-plan.rows // plan.shard_rows)
    raise ValueError(
        f"{directory} is not complete: {done} of {whole} shards; run the same {kind.call} call "
        "again to finish it"
    )


def _write(path: Path, content: dict[str, Any], kind: Kind) -> None:
    header = {"format": kind.format, "version": FORMAT_VERSION}
    write_atomically(path, json.dumps({**header, **content}, ensure_ascii=False))


def _read(path: Path, kind: Kind) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        content = dict(json.loads(path.read_text(encoding="utf-8")))
        found, version = content.pop("format"), int(content.pop("version"))
    except (UnicodeDecodeError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is damaged: {error!r}; delete it and run {kind.call} again"
        ) from error
    if found != kind.format:
        raise ValueError(f"{path} is of {found!r}, not of {kind.format!r}; pass another path")
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version}, this csr_st reads up to {FORMAT_VERSION}: "
            "pip install -U csr-st"
        )
    return content
