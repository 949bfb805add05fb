"""A matrix in consecutive parts, each mapped when first read; rows gathered in any order."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# A row that is touched maps up to 2 MiB of its neighbours (one large folio of the system's cache),
# and what is mapped counts as the process's memory until it is let go.
MAPPED_AROUND_BYTES = 1 << 21
MAPPED_BUDGET_BYTES = 1 << 29
ROWS_BETWEEN_RELEASES = MAPPED_BUDGET_BYTES // MAPPED_AROUND_BYTES


class Part(NamedTuple):
    """Consecutive rows of a matrix.

    Attributes:
        rows: (n, dim) float16, float32 or float64; uint16 holding the bits of bfloat16.
        mapping: The map that ``rows`` lies in, or None when it is in memory.
    """

    rows: NDArray[Any]
    mapping: mmap.mmap | None = None


class PartedMatrix:
    """An (n, dim) matrix whose rows are read as float32, its parts opened on first use.

    Args:
        sizes: Rows of each part.
        dim: Width of every row.
        load: Opens part number i.
        describe: Names where a row comes from, for messages.
        identity: A cheap string that changes when the content does.
        verify: Reads every byte and raises where one is wrong; None reads every row.
        trusted: Whether the rows are known to be finite.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        dim: int,
        load: Callable[[int], Part],
        *,
        describe: str,
        identity: Callable[[], str],
        verify: Callable[[], None] | None = None,
        trusted: bool = False,
    ) -> None:
        self.starts: NDArray[np.int64] = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self.dim = dim
        self.describe = describe
        self.identity = identity
        self._load = load
        self._verify = verify
        self._trusted = trusted
        self._open: dict[int, Part] = {}
        self._touched: dict[int, int] = {}
        self._mapped = 0

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}, "_touched": {}, "_mapped": 0}

    def gather(self, index: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Rows ``index`` (m,) in the order asked, as (m, dim) float32.

        Raises:
            ValueError: If a row holds NaN or Inf, or a part is damaged.
        """
        out = np.empty((len(index), self.dim), np.float32)
        if len(self.starts) == 2 and self._part(0).mapping is None:
            out[:] = self._part(0).rows.take(index, axis=0)
        elif len(index):
            self._gather_parts(np.asarray(index, np.int64), out)
        if not self._trusted and not np.isfinite(out.sum()):
            self._refuse_not_finite(index, out)
        return out

    def _gather_parts(self, index: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        order = np.argsort(index, kind="stable")
        ordered = index[order]
        first = int(np.searchsorted(self.starts, ordered[0], side="right")) - 1
        last = int(np.searchsorted(self.starts, ordered[-1], side="right")) - 1
        cuts = np.searchsorted(ordered, self.starts[first : last + 2])
        for part, begin, end in zip(range(first, last + 1), cuts, cuts[1:], strict=False):
            if begin < end:
                local = ordered[begin:end] - self.starts[part]
                for piece in range(0, end - begin, ROWS_BETWEEN_RELEASES):
                    cut = slice(piece, piece + ROWS_BETWEEN_RELEASES)
                    self._copy(part, local[cut], out, order[begin:end][cut])

    def _copy(
        self,
        number: int,
        local: NDArray[np.integer[Any]],
        out: NDArray[np.float32],
        where: NDArray[np.int64],
    ) -> None:
        part = self._part(number)
        rows = part.rows.take(local, axis=0)
        if rows.dtype == np.uint16:
            rows = (rows.astype(np.uint32) << 16).view(np.float32)
        out[where] = rows
        if part.mapping is not None:
            before = self._touched.get(number, 0)
            after = min(before + len(local) * MAPPED_AROUND_BYTES, part.rows.nbytes)
            self._touched[number] = after
            self._mapped += after - before
            if self._mapped > MAPPED_BUDGET_BYTES:
                self.release()

    def _part(self, number: int) -> Part:
        if number not in self._open:
            self._open[number] = self._load(number)
        return self._open[number]

    def release(self) -> None:
        """Let go of mapped pages: they stay in the system's cache, not in this process's memory."""
        touched, self._touched, self._mapped = self._touched, {}, 0
        if not hasattr(mmap, "MADV_DONTNEED"):
            return
        for number in touched:
            mapping = self._part(number).mapping
            if mapping is not None:
                mapping.madvise(mmap.MADV_DONTNEED)

    def verify(self) -> None:
        """Read everything.

        Raises:
            ValueError: If a file is damaged or a row holds NaN or Inf.
        """
        if self._verify is not None:
            self._verify()
        for begin in range(0, len(self), 1 << 14):
            self.gather(np.arange(begin, min(begin + (1 << 14), len(self))))

    def _refuse_not_finite(self, index: NDArray[np.integer[Any]], out: NDArray[np.float32]) -> None:
        bad = np.asarray(index)[~np.isfinite(out).all(axis=1)]
        if len(bad):
            raise ValueError(
                f"{self.describe} holds NaN or Inf in row {name_rows(np.sort(bad))}; remove such "
                "rows or compute them again"
            )


def name_rows(rows: NDArray[np.integer[Any]]) -> str:
    """The first few row numbers, and how many more there are."""
    named = ", ".join(str(row) for row in rows[:5])
    return named if len(rows) <= 5 else f"{named} and {len(rows) - 5} more"


def map_array(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int) -> Part:
    """Map an array of a file, read-only.

    Raises:
        ValueError: If the file is shorter than the array.
    """
    count = int(np.prod(shape))
    needed = offset + count * dtype.itemsize
    if path.stat().st_size < needed:
        raise ValueError(
            f"{path} is cut short: {path.stat().st_size} bytes where {needed} are needed; write "
            "it again"
        )
    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), needed, access=mmap.ACCESS_READ)
    return Part(np.frombuffer(mapping, dtype, count, offset).reshape(shape), mapping)


def in_memory(vectors: NDArray[Any], describe: str, *, trusted: bool = False) -> PartedMatrix:
    """A matrix of one part that is an array already.

    Its identity is its shape and up to 4,096 rows spread evenly over it.
    """

    def identity() -> str:
        from csr_st.embeddings.shards import digest

        spread = np.linspace(0, len(vectors) - 1, min(len(vectors), 4096)).astype(np.int64)
        return f"{vectors.shape} {vectors.dtype} {digest(np.ascontiguousarray(vectors[spread]))}"

    return PartedMatrix(
        [len(vectors)],
        vectors.shape[1],
        lambda _: Part(vectors),
        describe=describe,
        identity=identity,
        trusted=trusted,
    )
