"""`CodeStore`: the codes of a corpus, written in shards by any number of processes and runs.

For a corpus that is too large for the memory, or for one uninterrupted run of `csr_st.encode`.
Writing, resuming and checksums are those of `csr_st.embeddings`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from csr_st.code_encoding import CodeEncoding
from csr_st.code_ids import ids_from_arrays
from csr_st.code_layout import CodeLayout
from csr_st.code_options import CodeOptions
from csr_st.codes import SparseCodes
from csr_st.data.examples import Columns
from csr_st.embeddings.directory import MANIFEST, StoreDirectory
from csr_st.embeddings.manifest import CODES, Manifest, StoreInfo
from csr_st.embeddings.writing import write_store
from csr_st.encoding import Role, encode_method
from csr_st.hub_data.published_codes import PublishedCodes
from csr_st.model.settings import integer
from csr_st.packed_codes import PackedCodes
from csr_st.residual import ResidualBits
from csr_st.sparse_encoders import AnyModel, ready


class CodeStore(PublishedCodes):
    """Sparse codes of n items in a directory of shards, packed or not.

    Each shard is a file that `SparseCodes.load` reads, or `PackedCodes.load` if it is packed.

    Attributes:
        path: The directory.
        info: Where the codes come from; ``info.dim`` is their k.
        hidden_dim: Number of latents of the head.
        value_bits: Bits of a value if the codes are packed, else None.
        residual_bits: Bits a dimension of the codes' residual, 0 where they have none.
        pursuit: Whether the codes were made with ``pursuit``.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.info: StoreInfo = manifest.info
        self._layout = CodeLayout.of(manifest)
        self.hidden_dim: int = self._layout.hidden_dim
        self.value_bits: int | None = self._layout.value_bits
        self.pursuit: bool = self._layout.pursuit
        self._residual = self._layout.residual
        self.residual_bits: float = 0 if self._residual is None else self._residual["bits"]
        self._manifest = manifest

    # 16 options, because a call names each setting of the model, the data and the files once
    @classmethod
    def encode(
        cls,
        model: AnyModel,
        data: Any,
        path: str | Path,
        k: int | None = None,
        *,
        pursuit: bool = False,
        residual_bits: float = 0,
        text_column: str | None = None,
        role: Role | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        batch_size: int = 64,
        dtype: Literal["float32", "float16"] = "float32",
        value_bits: int | None = None,
        shard_rows: int | None = None,
        show_progress: bool | None = None,
        device: Any = None,
    ) -> CodeStore:
        """Encode data into a directory, or resume an interrupted run.

        Resumes after a crash and divides the work among processes as `EmbeddingStore.embed` does.

        Args:
            model: A model whose last module is a `SparseCSRHead`, or any `SparseEncoder`, as for
                `csr_st.encode`.
            data: As for `EmbeddingStore.embed`.
            path: Directory of the store.
            k: Active latents per item; the head's default for the role when None. All shards have
                this k: of SPLADE, where None stores 1,024, pass what your texts need.
            pursuit: As for `csr_st.encode`.
            residual_bits: As for `csr_st.encode`.
            text_column: Column to encode; may be left out when the data has only one of strings.
            role: "query" or "document" to encode as ``encode_query`` or ``encode_document`` do.
            prompt: Text before each item.
            prompt_name: Name of one of the model's prompts, instead of ``prompt``.
            batch_size: Items per forward pass.
            dtype: Type of the stored values, if they are not packed.
            value_bits: Write packed codes with values of 4 or 8 bits, see `PackedCodes`.
            shard_rows: As for `EmbeddingStore.embed`.
            show_progress: Whether to show a bar; None shows it on a terminal.
            device: Where to encode; a list of devices starts one process for each.

        Raises:
            TypeError: If k or value_bits is not an integer, residual_bits not a number, pursuit not
                a bool, or an item is of a type that cannot be encoded.
            ValueError: If the model has no head, an argument is out of its bounds, another model,
                k or data was encoded at ``path``, the data is empty, lacks a column or has splits,
                or an item embeds to NaN or Inf. Shards that were finished stay.
            BlockingIOError: If another process is writing there.
            OSError: If the disk is full. Shards that were finished stay.
        """
        prepared, coder, k, _ = ready(model, k, role)
        encode_method(prepared, role)  # refuses models whose codes it could not read
        options = (role, prompt, prompt_name, batch_size, dtype, device)
        kept = CodeOptions(pursuit, residual_bits, value_bits)
        kept.check_for(coder)
        encoding = CodeEncoding(prepared, *options, k=k, kept=kept)
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
        try:
            CodeLayout.of(manifest)
        except ValueError as error:
            raise ValueError(
                f"{Path(path) / MANIFEST} is damaged: {error}; delete it and run "
                "CodeStore.encode again"
            ) from error
        return cls(Path(path), manifest)

    def __len__(self) -> int:
        return self.info.n

    def __repr__(self) -> str:
        return (
            f"CodeStore(n={len(self)}, k={self.k}, hidden_dim={self.hidden_dim}, "
            f"{'' if self.value_bits is None else f'value_bits={self.value_bits}, '}"
            f"shards={len(self._manifest.sizes)})"
        )

    @property
    def k(self) -> int:
        """Latents stored for each item."""
        return self.info.dim

    def shards(self) -> Iterator[SparseCodes]:
        """The codes of one shard after another; mapped, or unpacked if they are packed.

        Raises:
            ValueError: If a shard is missing, cut short or of another shape.
        """
        for number in range(len(self._manifest.sizes)):
            yield self._unpacked(number, self._stored(number))

    def _stored(self, number: int) -> SparseCodes | PackedCodes:
        """A shard as it is, mapped: its bytes are read on access."""
        rows, normalized = self._manifest.sizes[number], self._layout.normalize
        shapes = self._layout.shapes(rows)
        directory = StoreDirectory(self.path, CODES)
        arrays = directory.map_shard(number, shapes, self._manifest.checksums[number])
        with self._naming(number):
            residual = ResidualBits.stored(arrays, self._residual)
            about: dict[str, Any] = {"residual": residual, "fitted": self.pursuit}
            if self.value_bits is not None:
                sizes = rows, self.k, self.hidden_dim, self.value_bits, normalized
                return PackedCodes(arrays["bits"], *sizes, **about)
            values = arrays["indices"], arrays["values"]
            return SparseCodes(*values, self.hidden_dim, arrays.get("norms"), **about)

    def _unpacked(self, number: int, codes: SparseCodes | PackedCodes) -> SparseCodes:
        with self._naming(number):
            return codes if isinstance(codes, SparseCodes) else codes.unpack()

    @contextlib.contextmanager
    def _naming(self, number: int) -> Iterator[None]:
        """Errors of codes say which shard has them."""
        try:
            yield
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{StoreDirectory(self.path, CODES).shard(number)} has no valid codes: {error}; "
                f"delete this file and {MANIFEST}, then run CodeStore.encode again: only this "
                "shard is rebuilt"
            ) from error

    def packed(self) -> PackedCodes:
        """All codes in memory, as they are packed.

        Raises:
            ValueError: If they are not packed, or a shard is damaged.
        """
        if self.value_bits is None:
            raise ValueError(f"{self.path} has codes that are not packed; call codes().pack()")
        shards = [self._stored(number) for number in range(len(self._manifest.sizes))]
        return PackedCodes.concatenate(shard for shard in shards if isinstance(shard, PackedCodes))

    def codes(self, k: int | None = None) -> SparseCodes:
        """All codes in memory, for `SparseIndex.build`.

        Args:
            k: Latents to keep of each row; all stored ones when None. At a smaller k codes have no
                residual.

        Raises:
            TypeError: If k is not an integer.
            ValueError: If k is outside 1..``self.k``, or a shard is damaged.
        """
        k = self.k if k is None else integer("k", k, low=-(2**63))
        shards = [self._stored(number) for number in range(len(self._manifest.sizes))]
        # All of them are as the manifest says: now claim memory.
        like = self._unpacked(0, shards[0][:0]).prefix(k)
        indices = np.empty((len(self), k), like.indices.dtype)
        values = np.empty((len(self), k), self.info.dtype)
        norms = None if like.norms is None else np.empty(len(self), np.float32)
        first, residuals = 0, []
        for number, shard in enumerate(shards):
            part = self._unpacked(number, shard).prefix(k)
            rows = slice(first, first + len(part))
            indices[rows], values[rows] = part.indices, part.values
            if norms is not None:
                norms[rows] = part.norms
            if part.residual is not None:
                residuals.append(part.residual)
            first += len(part)
        residual = ResidualBits.concatenate(residuals) if residuals else None
        return like._with(indices=indices, values=values, norms=norms, residual=residual)

    def verify(self) -> None:
        """Read every shard and compare it with its checksum.

        Raises:
            ValueError: If one is missing, cut short or altered.
        """
        StoreDirectory(self.path, CODES).verify_shards(self._manifest)

    def ids(self) -> NDArray[Any] | None:
        """The id of each item, int64 or strings; None if the store has none.

        Those of `csr_st.distributed_encoding` have ids; `encode` keeps the order of the data.

        Raises:
            ValueError: If a shard is missing or damaged.
        """
        if self._layout.ids is None:
            return None
        directory, parts = StoreDirectory(self.path, CODES), []
        for number, rows in enumerate(self._manifest.sizes):
            file = directory.open_shard(number)
            with self._naming(number):
                part = ids_from_arrays({name: file.map(name) for name in file.tensors}, rows)
                if part is None:
                    raise ValueError("it has no ids")
                parts.append(part)
        return np.concatenate(parts)
