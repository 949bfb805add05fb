"""`EmbeddingStore`: vectors of n items with optional labels and positive pairs.

It only reads. `writing` embeds, `directory` and `formats` map files, `batching` shuffles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from csr_st._io.tensor_files import digest
from csr_st.data.examples import Columns
from csr_st.embeddings.arrays import as_labels, as_matrix, as_pairs, as_row_numbers, as_scores
from csr_st.embeddings.batching import draw_held_out, iterate_batches
from csr_st.embeddings.directory import MANIFEST, PLAN, open_embeddings
from csr_st.embeddings.encoder import Encoding, refuse_head
from csr_st.embeddings.formats import open_file
from csr_st.embeddings.manifest import StoreInfo
from csr_st.embeddings.matrix import PartedMatrix, in_memory
from csr_st.embeddings.writing import write_store

if TYPE_CHECKING:
    import torch


@dataclass(eq=False, repr=False)
class EmbeddingStore:
    """Vectors of n items, on disk or in memory, with optional labels and positive pairs.

    Made by `embed`, `open` or `from_array`; `subset` and `split` give views that share the
    vectors. Rows are read as float32 whatever they are stored as. Pages of mapped files are
    released again, so that memory does not grow with n.

    Attributes:
        matrix: The vectors of this store and of those that it is a view of.
        info: Where the vectors come from.
        index: (n,) the rows of ``matrix`` that this view has, or None for all.
        labels: (n,) class of each row, -1 where unlabelled, or None.
        label_names: Name of each class, or None when classes are plain numbers.
        pairs: (m, 2) row numbers of positive pairs, or None.
        scores: (m,) graded score of each pair, or None.
    """

    matrix: PartedMatrix
    info: StoreInfo
    index: NDArray[np.integer[Any]] | None = None
    labels: NDArray[np.int64] | None = None
    label_names: list[str] | None = None
    pairs: NDArray[np.int64] | None = None
    scores: NDArray[np.float32] | None = None

    # 14 options, because a call names each setting of the model, the data and the files once
    @classmethod
    def embed(
        cls,
        model: Any,
        data: Any,
        path: str | Path,
        *,
        text_column: str | None = None,
        label_column: str | None = None,
        pair_columns: tuple[str, str] | None = None,
        score_column: str | None = None,
        role: str | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        batch_size: int = 64,
        dtype: str = "float16",
        shard_rows: int | None = None,
        show_progress: bool | None = None,
        device: Any = None,
    ) -> EmbeddingStore:
        """Embed data once into a directory, or resume an interrupted run.

        A run that was killed at any moment goes on after its last complete shard, and ends with
        the same store as an uninterrupted one. A complete store is opened without embedding.
        Under ``accelerate launch`` every process embeds its own shards (shard number modulo
        processes) and process 0 completes the store. Only one shard is in memory at a time.

        Args:
            model: A SentenceTransformer, or anything with its ``encode``. Without a sparse head.
            data: A datasets.Dataset or IterableDataset, a pandas DataFrame, or an iterable of
                texts, images or whatever ``model.encode`` takes, or of dicts, or what
                `csr_st.mix` gives. To go on, pass the same data again (a new generator). Only a
                Dataset has a fingerprint; other data is read completely to compare it with a store
                that is already at ``path``.
            path: Directory of the store.
            text_column: Column to embed; may be left out when the data has only one of strings.
            label_column: Column of classes: whole numbers or strings. None, NaN and a negative
                number mean that a row has no class.
            pair_columns: Two columns of positive pairs. Rows are the distinct texts of both, in
                the order in which they first occur.
            score_column: With pairs: a number for each.
            role: "query" or "document" to use the model's encode_query or encode_document.
            prompt: Text before each item.
            prompt_name: Name of one of the model's prompts, instead of ``prompt``.
            batch_size: Items that the model takes at once.
            dtype: "float16" or "float32", on disk.
            shard_rows: Rows of a shard: the most that a crash can lose. When None, 16,384 of text
                and 1,024 of anything else. An unfinished store keeps its shard size.
            show_progress: Whether to show a bar; None shows it on a terminal.
            device: Where to encode; a list of devices starts one process for each.

        Raises:
            ValueError: If the model has a sparse head; if another model, prompt, column or data
                was embedded at ``path``; if the data is empty, lacks a column or an item, or has
                splits; if a vector has NaN or Inf. Shards that were finished stay.
            TypeError: If an item is of another type than the first, or cannot be compared later.
            BlockingIOError: If another process is writing there.
            OSError: If the disk is full. Shards that were finished stay.
        """
        refuse_head(model)
        columns = Columns(text_column, label_column, pair_columns, score_column)
        encoding = Encoding(model, role, prompt, prompt_name, batch_size, dtype, device)
        write_store(encoding, data, columns, Path(path), shard_rows, show_progress)
        return cls.open(path)

    @classmethod
    def open(
        cls, path: str | Path, *, column: str | None = None, label_column: str | None = None
    ) -> EmbeddingStore:
        """Open a directory that `embed` wrote, or vectors from elsewhere.

        Mapped without a copy: .npy, uncompressed .npz, .safetensors, .arrow, uncompressed
        .feather, and a datasets.Dataset saved to disk. Read into memory, because they do not store
        a plain array: compressed .npz, .parquet, compressed .feather, .csv, .tsv, .jsonl, .ndjson,
        .json, and all of the text files and .npy as .gz, .bz2, .zst or .lz4. Numbers are
        floating-point ones, int8 or uint8; in files of text any.

        A mapped file must not be written to while it is open, which is noticed and refused on most
        reads; it may be replaced by a rename, and the store keeps the old rows.

        Args:
            path: The directory; or a file, a directory of shards of one kind, or a pattern of them
                with ``*`` or ``?``, such as "shards/part-*.npy". A path that exists is a name,
                whatever its characters.
            column: Column or array of the vectors; may be left out when there is only one. Where
                each dimension has a column, dim_0, dim_1, ..., these are "dim_*" together.
            label_column: Column or array of labels. In a table every value is a class, and null
                means none; in an array of whole numbers a negative one means none.

        Raises:
            FileNotFoundError: If there is nothing at ``path``.
            ValueError: If it is incomplete or damaged, the column is missing or not a matrix, or
                shards are missing or not alike.
            TypeError: If a label is not a whole number, a string or None.
        """
        path = Path(path)
        if any((path / name).is_file() for name in (PLAN, MANIFEST)):
            if column is not None or label_column is not None:
                raise ValueError(
                    f"{path} is a store, which has its vectors and labels: leave out column and "
                    "label_column"
                )
            return cls(**open_embeddings(path))
        return cls(**open_file(path, column, label_column))

    @classmethod
    def from_array(
        cls,
        vectors: NDArray[Any] | torch.Tensor,
        *,
        labels: Sequence[Any] | NDArray[Any] | None = None,
        label_names: Sequence[str] | None = None,
        pairs: Sequence[Any] | NDArray[Any] | None = None,
        scores: Sequence[float] | NDArray[Any] | None = None,
    ) -> EmbeddingStore:
        """A store around an (n, dim) array or tensor in memory, shared rather than copied.

        Args:
            vectors: (n, dim) floating-point numbers, int8 or uint8: a numpy array, a torch tensor
                (moved to the CPU), a table or a column of lists of pandas, polars or Arrow, or
                vectors one after the other in a list, a generator or the values of a dict.
            labels: (n,) whole numbers or strings. None, NaN and a negative number mean that a row
                has no class; labels -1 and 1 alone are refused, as one class would remain.
            label_names: Name of each class when ``labels`` are numbers.
            pairs: (m, 2) row numbers.
            scores: (m,) numbers.

        Raises:
            ValueError: If shapes do not fit, a pair points outside, or a row has NaN or Inf.
            TypeError: If the vectors are not such numbers, or have no order, as in a set.
        """
        array = as_matrix(vectors)
        n, dim = array.shape
        codes, names = as_labels(labels, n, label_names)
        matched = as_pairs(pairs, n)
        return cls(
            in_memory(array),
            StoreInfo(n=n, dim=dim, dtype=str(array.dtype)),
            labels=codes,
            label_names=names,
            pairs=matched,
            scores=as_scores(scores, matched),
        )

    def __len__(self) -> int:
        return len(self.matrix) if self.index is None else len(self.index)

    def __repr__(self) -> str:
        extras = [n for n in ("labels", "pairs", "scores") if getattr(self, n) is not None]
        about = ", ".join([f"{len(self):,} x {self.dim} {self.info.dtype}", *extras])
        return f"EmbeddingStore({about})"

    @property
    def dim(self) -> int:
        """Width of a row."""
        return self.matrix.dim

    def rows(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Some rows, in the order of ``index``.

        Args:
            index: (m,) row numbers, 0 <= row < n.

        Returns:
            (m, dim) float32, a copy.

        Raises:
            IndexError: If a row number is outside the store.
            ValueError: If the file is damaged or a row has NaN or Inf.
        """
        index = as_row_numbers(index, len(self))
        return self.matrix.gather(index if self.index is None else self.index[index])

    def vectors(self) -> NDArray[np.float32]:
        """(n, dim) float32, all rows in memory at once; for small stores."""
        return self.rows(np.arange(len(self)))

    def sample(self, n: int, seed: int = 0) -> NDArray[np.float32]:
        """(n, dim) float32: n distinct random rows in rising order, or all when there are fewer."""
        if n >= len(self):
            return self.vectors()
        drawn = np.random.default_rng(seed).choice(len(self), n, replace=False)
        return self.rows(np.sort(drawn))

    def subset(self, index: NDArray[Any] | Sequence[int]) -> EmbeddingStore:
        """A view of some rows: their labels, and the pairs both of whose rows remain, renumbered.

        Args:
            index: (m,) distinct row numbers, in the order of the view.

        Raises:
            IndexError: If a row number is outside the store.
            ValueError: If a row is named twice.
        """
        index = as_row_numbers(index, len(self))
        place = np.full(len(self), -1, np.int64)
        place[index] = np.arange(len(index))
        if np.count_nonzero(place >= 0) < len(index):
            raise ValueError("subset index names a row twice; pass distinct row numbers")
        pairs, scores = self.pairs, self.scores
        if pairs is not None:
            pairs = place[pairs]
            kept = (pairs >= 0).all(axis=1)
            pairs, scores = pairs[kept], None if scores is None else scores[kept]
        below = index if self.index is None else self.index[index]
        return replace(
            self,
            info=replace(self.info, n=len(index)),
            index=below.astype(np.min_scalar_type(max(len(self.matrix) - 1, 0)), copy=False),
            labels=None if self.labels is None else self.labels[index],
            pairs=pairs,
            scores=scores,
        )

    def split(self, held_out: float | int, seed: int = 0) -> tuple[EmbeddingStore, EmbeddingStore]:
        """Training rows and held-out rows, as two views without a row in common.

        Rows of a pair are held out together. A pair with one row on either side is dropped.

        Args:
            held_out: How many rows to hold out, or which fraction when a float below 1.
            seed: Seed of the random draw.

        Returns:
            (training, held-out), each in rising row order.

        Raises:
            ValueError: If either side would be empty.
        """
        n = len(self)
        count = round(held_out * n) if isinstance(held_out, float) else int(held_out)
        if not 0 < count < n or (isinstance(held_out, float) and held_out >= 1):
            raise ValueError(
                f"held_out={held_out} of {n} rows leaves one side empty; pass a fraction between "
                f"0 and 1, or 1..{n - 1} rows"
            )
        held = np.zeros(n, bool)
        held[draw_held_out(n, self.pairs, count, seed)] = True
        return self.subset(np.flatnonzero(~held)), self.subset(np.flatnonzero(held))

    def batches(
        self,
        batch_size: int,
        *,
        seed: int,
        epoch: int,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
        drop_last: bool = False,
    ) -> Iterator[NDArray[np.int64]]:
        """Row numbers of each batch of one shuffled epoch, for `rows`.

        The order depends on (n, seed, epoch) alone; `csr_st.embeddings.batching` describes the
        shuffle. ``world`` processes together read exactly the batches that one process reads: rank
        r has the r-th contiguous part of each. Starting at batch ``start`` costs nothing.

        Args:
            batch_size: Rows of a batch over all processes; a multiple of ``world``.
            seed: Seed of the training run.
            epoch: Number of this pass over the data.
            rank: This process.
            world: Number of processes.
            start: Batches to leave out at the beginning.
            drop_last: Leave out a last batch that is smaller. Otherwise it is divided as evenly as
                possible, and a rank may get one row fewer than another, or none.

        Raises:
            ValueError: If an argument is out of its bounds.
        """
        n = len(self)
        return iterate_batches(n, batch_size, seed, epoch, rank, world, start, drop_last)

    def fingerprint(self) -> str:
        """An identity of the content, without much reading: it changes when rows change.

        From shard checksums, or from size, time and sampled bytes of a file, or from up to 4,096
        rows of an array; and from labels, pairs and the rows of a view.
        """
        extras = (self.index, self.labels, self.pairs, self.scores)
        parts = [self.matrix.identity(), repr(self.label_names)]
        parts += ["none" if array is None else digest(array) for array in extras]
        return digest("\n".join(parts).encode())

    def verify(self) -> None:
        """Read every byte: checksums of a store that `embed` wrote, else that rows are finite.

        Raises:
            ValueError: If a file was cut short or altered, naming it, or a row is not finite.
        """
        self.matrix.verify()
