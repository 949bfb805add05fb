"""`TokenStore`: the vectors of the tokens of n texts, for token-level heads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from csr_st._io.tensor_files import digest
from csr_st.data.examples import Columns
from csr_st.embeddings.arrays import as_row_numbers
from csr_st.embeddings.directory import MANIFEST, StoreDirectory
from csr_st.embeddings.encoder import refuse_head
from csr_st.embeddings.manifest import TOKENS, Manifest, StoreInfo
from csr_st.embeddings.matrix import PartedMatrix
from csr_st.embeddings.store import EmbeddingStore
from csr_st.embeddings.token_encoder import TokenEncoding
from csr_st.embeddings.writing import write_store
from csr_st.model.settings import integer, token_ids
from csr_st.model.token_pooling import Tokens

TOKENS_PER_TEXT = 64
SHARD_TEXTS = 1 << 10
TEXTS_AT_ONCE = 256


class TextTokens(NamedTuple):
    """Tokens of some texts, one text after another.

    Attributes:
        vectors: (m, dim) float32, at unit norm.
        lengths: (n,) int64, tokens of each text; they add up to m.
    """

    vectors: NDArray[np.float32]
    lengths: NDArray[np.int64]

    def on(self, device: torch.device) -> Tokens:
        """The same as tensors on a device, as a head takes them."""
        lengths = torch.from_numpy(self.lengths)
        texts = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        return Tokens(torch.from_numpy(self.vectors).to(device), texts.to(device), len(lengths))


class TokenStore:
    """The token vectors of n texts on disk, at unit norm, without special tokens and prompts.

    Written in shards, resumed and verified as an `EmbeddingStore` is. A text gives at most
    ``tokens_per_text`` of its tokens: a million texts at 64 tokens and width 384 take at most
    49 GB as float16. Only one shard of texts is in memory at a time.

    Attributes:
        path: The directory.
        info: Where the vectors come from; ``info.n`` counts the texts of the directory.
        lengths: (n,) int64, stored tokens of each text.
        texts: (n,) int64, the rows of the directory that this store has; a view has some of them.
        skipped_tokens: Ids of the tokens that were left out.
        tokens_per_text: At most so many of a text's tokens are stored; None for all.
        dense: The pooled vectors of the texts.
    """

    def __init__(
        self, path: Path, manifest: Manifest, texts: NDArray[np.int64] | None = None
    ) -> None:
        self.path = path
        self.info: StoreInfo = manifest.info
        self.skipped_tokens = _skipped_tokens(path, manifest)
        self.tokens_per_text: int | None = manifest.plan.recipe.get("tokens_per_text")
        self._files = _Files(path, manifest)
        self._is_whole = texts is None
        self.texts = np.arange(self.info.n) if texts is None else texts
        every = np.diff(self._files.offsets)
        self.lengths: NDArray[np.int64] = every[self.texts]
        pooled = self._files.matrix("dense")
        dense = EmbeddingStore(pooled, StoreInfo(self.info.n, pooled.dim, self.info.dtype))
        self.dense = dense if texts is None else dense.subset(texts)

    @classmethod
    def embed(
        cls,
        model: Any,
        data: Any,
        path: str | Path,
        *,
        tokens_per_text: int | None = TOKENS_PER_TEXT,
        text_column: str | None = None,
        role: str | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        batch_size: int = 64,
        dtype: str = "float16",
        shard_rows: int | None = None,
        show_progress: bool | None = None,
        device: str | None = None,
    ) -> TokenStore:
        """Embed texts once into a directory, or resume an interrupted run.

        Args:
            model: A `SentenceTransformer` of texts, without a head.
            data: As for `EmbeddingStore.embed`.
            path: Directory of the store.
            tokens_per_text: At most so many of a text's tokens, drawn at random but for each text
                always the same; None for all.
            text_column: As for `EmbeddingStore.embed`.
            role: "query" or "document".
            prompt: Text before each item; its tokens are left out.
            prompt_name: Name of one of the model's prompts.
            batch_size: Texts that the model takes at once.
            dtype: "float16" or "float32", on disk.
            shard_rows: Texts of a shard; 1,024 when None.
            show_progress: Whether to show a bar; None shows it on a terminal.
            device: Where to encode.

        Raises:
            ValueError: As `EmbeddingStore.embed`, and if the model gives no token vectors or no
                text has a token.
            TypeError: If tokens_per_text is not an integer, else as `EmbeddingStore.embed`.
            BlockingIOError: If another process is writing there.
            OSError: If the disk is full. Shards that were finished stay.
        """
        refuse_head(model)
        if tokens_per_text is not None:
            tokens_per_text = integer("tokens_per_text", tokens_per_text)
        options = (role, prompt, prompt_name, batch_size, dtype, device)
        encoding = TokenEncoding(model, *options, tokens_per_text=tokens_per_text)
        columns = Columns(text_column, None, None, None)
        shard_rows = SHARD_TEXTS if shard_rows is None else shard_rows
        write_store(encoding, data, columns, Path(path), shard_rows, show_progress)
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path) -> TokenStore:
        """Open a directory that `embed` wrote.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it is incomplete, damaged or has no token.
        """
        store = cls(Path(path), StoreDirectory(Path(path), TOKENS).read_complete())
        if not store.lengths.any():
            raise ValueError(f"{path}: no text has a token besides special ones")
        return store

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def dim(self) -> int:
        """Width of a token vector."""
        return self.info.dim

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled or copied as how to open it again: files are not copied."""
        texts = None if self._is_whole else self.texts
        return _reopen_store, (self.path.absolute(), self._files.manifest, texts)

    def __repr__(self) -> str:
        tokens = int(self.lengths.sum())
        return f"TokenStore({len(self):,} texts, {tokens:,} tokens x {self.dim} {self.info.dtype})"

    def tokens(self) -> EmbeddingStore:
        """The vectors of all tokens of these texts, as a store to train on."""
        offsets, files = self._files.offsets, self._files
        n = int(offsets[-1])
        store = EmbeddingStore(files.matrix("vectors"), StoreInfo(n, self.dim, self.info.dtype))
        return store if self._is_whole else store.subset(_places(offsets, self.texts))

    def rows(self, index: NDArray[np.int64]) -> TextTokens:
        """The tokens of some texts, in the order of ``index`` (n,).

        Raises:
            IndexError: If a number is outside the store.
            ValueError: If a file is damaged.
        """
        texts = self.texts[as_row_numbers(index, len(self))]
        vectors = self._files.matrix("vectors").gather(_places(self._files.offsets, texts))
        return TextTokens(vectors, np.diff(self._files.offsets)[texts])

    def batches(self) -> Iterator[TextTokens]:
        """All texts in order, 256 at a time."""
        for start in range(0, len(self), TEXTS_AT_ONCE):
            yield self.rows(np.arange(start, min(start + TEXTS_AT_ONCE, len(self))))

    def subset(self, index: NDArray[np.int64]) -> TokenStore:
        """A view of some texts, which shares the files.

        Raises:
            IndexError: If a number is outside the store.
        """
        texts = self.texts[as_row_numbers(index, len(self))]
        return TokenStore(self.path, self._files.manifest, texts)

    def split(self, held_out: int, seed: int = 0) -> tuple[TokenStore, TokenStore]:
        """Two views without a text in common: training texts, and so many held-out ones.

        Raises:
            ValueError: If either side would be empty.
        """
        held_out = integer("held_out", held_out, 1, len(self) - 1, "the texts less one, ")
        order = np.random.default_rng(seed).permutation(len(self))
        return self.subset(np.sort(order[held_out:])), self.subset(np.sort(order[:held_out]))

    def fingerprint(self) -> str:
        """An identity of the content, from the checksums of the shards."""
        return digest(self._files.identity().encode(), self.texts)

    def verify(self) -> None:
        """Read every byte. Raises a ValueError that names a file that was cut short or altered."""
        self._files.verify()


class _Files:
    """The files of a token store.

    Attributes:
        manifest: What they must be.
        offsets: (n + 1,) int64; the tokens of text i are rows ``offsets[i]`` to ``offsets[i + 1]``.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest
        self._directory = StoreDirectory(path, TOKENS)
        lengths = [self._lengths(number) for number in range(len(manifest.sizes))]
        self._sizes = [int(of_shard.sum()) for of_shard in lengths]
        dense = self._directory.open_shard(0).tensors.get("dense", {}).get("shape", [])
        self._dense_dim = int(dense[1]) if len(dense) == 2 else manifest.dim
        ends = np.cumsum(np.concatenate(lengths), dtype=np.int64)
        self.offsets: NDArray[np.int64] = np.concatenate([[0], ends])

    def _lengths(self, number: int) -> NDArray[np.int32]:
        file = self._directory.open_shard(number)
        lengths = file.map("lengths") if "lengths" in file.tensors else np.empty(0, np.int32)
        good = lengths.shape == (self.manifest.sizes[number],) and lengths.dtype == np.int32
        if not good or lengths.min() < 0:
            raise ValueError(f"{file.path} has no valid lengths; delete it and embed again")
        return lengths

    def matrix(self, name: str) -> PartedMatrix:
        """The rows of one array of all shards: "vectors" of tokens, or "dense" ones of texts."""
        sizes = self._sizes if name == "vectors" else self.manifest.sizes
        dims = {"vectors": self.manifest.dim, "dense": self._dense_dim}

        def load(number: int) -> NDArray[Any]:
            texts = self.manifest.sizes[number]
            shapes = {"vectors": (self._sizes[number], dims["vectors"]), "lengths": (texts,)}
            shapes["dense"] = (texts, dims["dense"])
            checksum = self.manifest.checksums[number]
            rows = self._directory.map_shard(number, shapes, checksum)[name]
            if rows.dtype != self.manifest.info.dtype:
                raise ValueError(
                    f"{self._directory.shard(number)} has {name} of {rows.dtype}, the manifest "
                    f"says {self.manifest.info.dtype}; delete both and embed again"
                )
            return rows

        return PartedMatrix(
            sizes,
            dims[name],
            load,
            name=f"{self.path}, {name}",
            identity=lambda: f"{name} {self.identity()}",
            reopen=(_reopen, (self.path.absolute(), self.manifest, name)),
            verify=self.verify,
        )

    def identity(self) -> str:
        return digest("".join(self.manifest.checksums).encode())

    def verify(self) -> None:
        self._directory.verify_shards(self.manifest)


def _skipped_tokens(path: Path, manifest: Manifest) -> list[int]:
    try:
        return token_ids("skipped_tokens", manifest.plan.recipe["skipped_tokens"])
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{path / MANIFEST} is damaged: {error!r}; delete the directory and embed again"
        ) from error


def _reopen_store(path: Path, manifest: Manifest, texts: NDArray[np.int64] | None) -> TokenStore:
    """A store that was pickled, in this or another process."""
    _refuse_replaced(path, manifest)
    return TokenStore(path, manifest, texts)


def _reopen(path: Path, manifest: Manifest, name: str) -> PartedMatrix:
    """The matrix of a store that was pickled, in this or another process."""
    _refuse_replaced(path, manifest)
    return _Files(path, manifest).matrix(name)


def _refuse_replaced(path: Path, manifest: Manifest) -> None:
    if StoreDirectory(path, TOKENS).read_complete() != manifest:
        raise ValueError(f"{path} was replaced after the store was pickled; open it again")


def _places(offsets: NDArray[np.int64], texts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of the tokens of some texts, one text after another."""
    lengths = offsets[texts + 1] - offsets[texts]
    starts = np.repeat(offsets[texts] - (np.cumsum(lengths) - lengths), lengths)
    return starts + np.arange(int(lengths.sum()))
