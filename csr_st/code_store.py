"""`CodeStore`: the codes of a corpus, written in shards by any number of processes and runs.

For a corpus that is too large for the memory, or for one uninterrupted run of `csr_st.encode`.
Writing, resuming and checksums are those of `csr_st.embeddings`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from csr_st import code_files
from csr_st.codes import SparseCodes
from csr_st.data.examples import Columns
from csr_st.embeddings.directory import MANIFEST, StoreDirectory
from csr_st.embeddings.encoder import DTYPES, Encoding
from csr_st.embeddings.manifest import CODES, Manifest, StoreInfo, StoreType
from csr_st.embeddings.writing import write_store
from csr_st.encoding import Role, encode_method, to_codes
from csr_st.head import find_head
from csr_st.model.settings import integer

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

BAD_ROWS_NAMED = 5


class CodeStore:
    """Sparse codes of n items in a directory of shards, each a file that `SparseCodes.load` reads.

    Attributes:
        path: The directory.
        info: Where the codes come from; ``info.dim`` is their k.
        hidden_dim: Number of latents of the head.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.info: StoreInfo = manifest.info
        self.hidden_dim: int = manifest.plan.recipe["hidden_dim"]
        self._manifest = manifest

    # 13 options, because a call names each setting of the model, the data and the files once
    @classmethod
    def encode(
        cls,
        model: SentenceTransformer,
        data: Any,
        path: str | Path,
        k: int | None = None,
        *,
        text_column: str | None = None,
        role: Role | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        batch_size: int = 64,
        dtype: Literal["float32", "float16"] = "float32",
        shard_rows: int | None = None,
        show_progress: bool | None = None,
        device: Any = None,
    ) -> CodeStore:
        """Encode data into a directory, or resume an interrupted run.

        Resumes after a crash and divides the work among processes as `EmbeddingStore.embed` does.

        Args:
            model: A model whose last module is a `SparseCSRHead`.
            data: As for `EmbeddingStore.embed`.
            path: Directory of the store.
            k: Active latents per item; the head's default for the role when None.
            text_column: Column to encode; may be left out when the data has only one of strings.
            role: "query" or "document" to encode as ``encode_query`` or ``encode_document`` do.
            prompt: Text before each item.
            prompt_name: Name of one of the model's prompts, instead of ``prompt``.
            batch_size: Items per forward pass.
            dtype: Type of the stored values.
            shard_rows: As for `EmbeddingStore.embed`.
            show_progress: Whether to show a bar; None shows it on a terminal.
            device: Where to encode; a list of devices starts one process for each.

        Raises:
            TypeError: If k is not an integer, or an item is of a type that cannot be encoded.
            ValueError: If the model has no head, an argument is out of its bounds, another model,
                k or data was encoded at ``path``, the data is empty, lacks a column or has splits,
                or an item embeds to NaN or Inf. Shards that were finished stay.
            BlockingIOError: If another process is writing there.
            OSError: If the disk is full. Shards that were finished stay.
        """
        encode_method(model, role)  # refuses models whose codes it could not read
        k = find_head(model).resolve_k(k, task=role)
        encoding = CodeEncoding(model, role, prompt, prompt_name, batch_size, dtype, device, k=k)
        write_store(encoding, data, Columns(text_column), Path(path), shard_rows, show_progress)
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path) -> CodeStore:
        """Open a store that `encode` completed; reads its manifest and no shard.

        Raises:
            FileNotFoundError: If there is no such directory.
            ValueError: If it is not a store of codes, not complete, or its manifest is damaged.
        """
        manifest = StoreDirectory(Path(path), CODES).read_complete()
        recipe = manifest.plan.recipe
        found = {name: recipe.get(name) for name in ("hidden_dim", "normalize", "dtype")}
        kinds = type(found["hidden_dim"]), type(found["normalize"])
        if kinds != (int, bool) or found["dtype"] not in DTYPES:  # no writer writes such a manifest
            raise ValueError(
                f"{Path(path) / MANIFEST} is damaged: it has {found}; delete it and run "
                "CodeStore.encode again"
            )
        return cls(Path(path), manifest)

    def __len__(self) -> int:
        return self.info.n

    def __repr__(self) -> str:
        return (
            f"CodeStore(n={len(self)}, k={self.k}, hidden_dim={self.hidden_dim}, "
            f"shards={len(self._manifest.sizes)})"
        )

    @property
    def k(self) -> int:
        """Latents stored for each item."""
        return self.info.dim

    def shards(self) -> Iterator[SparseCodes]:
        """The codes of one shard after another, mapped: their bytes are read on access.

        Raises:
            ValueError: If a shard is missing, cut short or of another shape.
        """
        for number, rows in enumerate(self._manifest.sizes):
            shapes: dict[str, tuple[int, ...]] = {"indices": (rows, self.k)}
            shapes["values"] = shapes["indices"]
            if self._manifest.plan.recipe["normalize"]:
                shapes["norms"] = (rows,)
            directory = StoreDirectory(self.path, CODES)
            arrays = directory.map_shard(number, shapes, self._manifest.checksums[number])
            try:
                yield SparseCodes(hidden_dim=self.hidden_dim, **arrays)
            except (ValueError, TypeError) as error:
                raise ValueError(
                    f"{directory.shard(number)} has no valid codes: {error}; delete this file and "
                    f"{MANIFEST}, then run CodeStore.encode again: only this shard is rebuilt"
                ) from error

    def codes(self, k: int | None = None) -> SparseCodes:
        """All codes in memory, for `SparseIndex.build`.

        Args:
            k: Latents to keep of each row; all stored ones when None.

        Raises:
            TypeError: If k is not an integer.
            ValueError: If k is outside 1..``self.k``, or a shard is damaged.
        """
        k = self.k if k is None else integer("k", k, low=-(2**63))
        shards = list(self.shards())  # all of them are as the manifest says: now claim memory
        like = shards[0][:0].prefix(k)
        indices = np.empty((len(self), k), like.indices.dtype)
        values = np.empty((len(self), k), self.info.dtype)
        norms = None if like.norms is None else np.empty(len(self), np.float32)
        first = 0
        for shard in shards:
            part = shard.prefix(k)
            rows = slice(first, first + len(part))
            indices[rows], values[rows] = part.indices, part.values
            if norms is not None:
                norms[rows] = part.norms
            first += len(part)
        return like._with(indices=indices, values=values, norms=norms)

    def verify(self) -> None:
        """Read every shard and compare it with its checksum.

        Raises:
            ValueError: If one is missing, cut short or altered.
        """
        StoreDirectory(self.path, CODES).verify_shards(self._manifest)


@dataclass
class CodeEncoding(Encoding):
    """A model with a head and its options; see `CodeStore.encode`.

    Attributes:
        k: Active latents per item.
    """

    type: ClassVar[StoreType] = CODES

    k: int = 1

    def identity(self) -> dict[str, Any]:
        """What a code depends on besides the item; not the head's default k, which k replaces."""
        head = find_head(self.model)
        found = super().identity()
        for settings in found["modules"].values():
            if settings["class"] == type(head).__qualname__:
                for name in ("k", "query_k"):
                    settings.pop(name, None)
        about = {"k": self.k, "hidden_dim": head.hidden_dim, "normalize": head.normalize}
        return {**found, **about}

    def metadata(self) -> dict[str, str]:
        """What makes a shard a file that `SparseCodes.load` reads."""
        about = {"hidden_dim": find_head(self.model).hidden_dim}
        return code_files.metadata("SparseCodes", about)

    def encode(self, items: list[Any], first: int) -> dict[str, NDArray[Any]]:
        """Arrays of a shard's rows: values and indices (len(items), k), and norms.

        Args:
            items: What the model takes.
            first: Row number of the first item.

        Raises:
            ValueError: If an item embeds to NaN or Inf, naming the rows.
        """
        try:
            packed = self.ask_model(items, k=self.k, packed=True)
        except ValueError as error:
            if "NaN or Inf" in str(error):
                self._name_bad_rows(items, first)
            raise
        codes = to_codes(find_head(self.model), packed, np.dtype(np.float32))
        arrays = {"values": self.as_stored(codes.values, items, first), "indices": codes.indices}
        return arrays if codes.norms is None else {**arrays, "norms": codes.norms}

    def _name_bad_rows(self, items: list[Any], first: int) -> None:
        """Raise a ValueError with the rows that embed to NaN or Inf.

        The head's own error has places in a batch, which was sorted by length: ask again per item.
        """
        vectors = np.zeros((len(items), 1), np.float32)
        for row, item in enumerate(items):
            try:
                self.ask_model([item], k=self.k, packed=True)
            except ValueError:
                vectors[row] = np.nan
            if np.isnan(vectors).sum() == BAD_ROWS_NAMED:
                break
        if np.isnan(vectors).any():
            self.refuse(vectors, np.flatnonzero(np.isnan(vectors)), items, first)
