"""A matrix in consecutive parts, each mapped when first read; rows are read in any order."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csr_st._io.tensor_files import digest

# Reading a row maps up to 2 MiB around it (one large folio of the system's cache), and mapped
# pages count as memory of the process until they are released.
MAPPED_AROUND_BYTES = 1 << 21
MAPPED_BUDGET_BYTES = 1 << 29
ROWS_BETWEEN_RELEASES = MAPPED_BUDGET_BYTES // MAPPED_AROUND_BYTES
VERIFIED_ROWS = 1 << 14
SAMPLED_ROWS = 4096


class PartedMatrix:
    """An (n, dim) matrix whose rows are read as float32, its parts opened on first use.

    Args:
        sizes: Rows of each part.
        dim: Width of every row.
        load: Opens part number i: (n, dim) floating-point numbers, int8, uint8, or uint16 for the
            bits of bfloat16; mapped or in memory.
        name: What messages call the matrix.
        identity: Gives a string, without much reading, that changes when the content does.
        reopen: A function and its arguments, which give this matrix in another process.
        verify: Reads every byte and raises if one is wrong; None reads every row.
        unchanged: Raises if a mapped file was written to, which can end the process on a read.

    Attributes:
        trusted: Whether the rows are known to be finite, so that reading does not check them.
    """

    trusted = False

    def __init__(
        self,
        sizes: Sequence[int],
        dim: int,
        load: Callable[[int], NDArray[Any]],
        *,
        name: str,
        identity: Callable[[], str],
        reopen: tuple[Callable[..., PartedMatrix], tuple[Any, ...]],
        verify: Callable[[], None] | None = None,
        unchanged: Callable[[], None] | None = None,
    ) -> None:
        self.starts: NDArray[np.int64] = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self.dim = dim
        self.name = name
        self.identity = identity
        self.reopen = reopen
        self._unchanged = unchanged
        self._load = load
        self._verify = verify
        self._parts: dict[int, tuple[NDArray[Any], mmap.mmap | None]] = {}
        self._touched: dict[int, int] = {}
        self._mapped = 0  # the sum of what was touched

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __reduce__(self) -> tuple[Callable[..., PartedMatrix], tuple[Any, ...]]:
        """Pickled or copied as how to open it again: files are not copied."""
        return self.reopen

    def gather(self, index: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Rows ``index`` (m,), in this order, as (m, dim) float32.

        Raises:
            ValueError: If a row contains NaN or Inf, or a part is damaged.
        """
        if self._unchanged is not None:
            self._unchanged()
        out = np.empty((len(index), self.dim), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # such rows are named below
            if len(self.starts) == 2 and self._part(0)[1] is None:
                out[:] = self._part(0)[0].take(index, axis=0)
            elif len(index):
                self._gather_parts(np.asarray(index, np.int64), out)
            finite = self.trusted or np.isfinite(out.sum())
        if not finite:
            bad = np.asarray(index)[~np.isfinite(out).all(axis=1)]
            if len(bad):  # the sum alone may overflow
                raise ValueError(
                    f"{self.name} contains NaN or Inf in row {name_rows(np.sort(bad))}, or a "
                    "number beyond float32's 3.4e38; remove such rows or compute them again"
                )
        return out

    def _gather_parts(self, index: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        order = np.argsort(index, kind="stable")
        ordered = index[order]
        first = int(np.searchsorted(self.starts, ordered[0], side="right")) - 1
        last = int(np.searchsorted(self.starts, ordered[-1], side="right")) - 1
        cuts = np.searchsorted(ordered, self.starts[first : last + 2])
        for part, begin, end in zip(range(first, last + 1), cuts, cuts[1:], strict=False):
            for piece in range(begin, end, ROWS_BETWEEN_RELEASES):
                cut = slice(piece, min(piece + ROWS_BETWEEN_RELEASES, end))
                out[order[cut]] = self._take(part, ordered[cut] - self.starts[part])

    def _take(self, number: int, local: NDArray[np.int64]) -> NDArray[Any]:
        """Rows of one part; releases mapped pages once they exceed the budget."""
        part, mapping = self._part(number)
        rows = part.take(local, axis=0)
        if mapping is not None:
            before = self._touched.get(number, 0)
            after = min(before + len(local) * MAPPED_AROUND_BYTES, part.nbytes)
            self._touched[number] = after
            self._mapped += after - before
            if self._mapped > MAPPED_BUDGET_BYTES:
                self._release()
        if rows.dtype == np.uint16:
            return (rows.astype(np.uint32) << 16).view(np.float32)
        return rows

    def _part(self, number: int) -> tuple[NDArray[Any], mmap.mmap | None]:
        if number not in self._parts:
            rows = self._load(number)
            base: Any = rows
            while isinstance(base, np.ndarray):
                base = base.base
            self._parts[number] = rows, base if isinstance(base, mmap.mmap) else None
        return self._parts[number]

    def _release(self) -> None:
        """Drop mapped pages: they stay in the system's cache, not in this process's memory."""
        touched, self._touched, self._mapped = self._touched, {}, 0
        for number in list(touched):  # another thread may note a part meanwhile
            mapping = self._part(number)[1]
            if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
                mapping.madvise(mmap.MADV_DONTNEED)

    def verify(self) -> None:
        """Read everything.

        Raises:
            ValueError: If a file is damaged or a row contains NaN or Inf.
        """
        if self._verify is not None:
            self._verify()
        for begin in range(0, len(self), VERIFIED_ROWS):
            self.gather(np.arange(begin, min(begin + VERIFIED_ROWS, len(self))))


def name_rows(rows: NDArray[np.integer[Any]]) -> str:
    """The first few row numbers, and how many more there are."""
    named = ", ".join(str(row) for row in rows[:5])
    return named if len(rows) <= 5 else f"{named} and {len(rows) - 5} more"


def in_memory(vectors: NDArray[Any]) -> PartedMatrix:
    """A matrix of one part that is an array, whose rows are known to be finite.

    Its identity is its shape, its type and up to 4,096 rows spread evenly over it.

    Raises:
        ValueError: If a row contains NaN or Inf.
    """

    def identity() -> str:
        n = len(vectors)
        spread = np.linspace(0, n - 1, min(n, SAMPLED_ROWS)).astype(np.int64)
        return f"{vectors.shape} {vectors.dtype} {digest(vectors[spread])}"

    matrix = PartedMatrix(
        [len(vectors)],
        vectors.shape[1],
        lambda _: vectors,
        name="the array",
        identity=identity,
        reopen=(in_memory, (vectors,)),
    )
    matrix.verify()
    matrix.trusted = True
    return matrix
