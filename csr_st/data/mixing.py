"""Several data sets as one: each gives its share of the texts, and these come in a mixed order.

So a run that is stopped early has seen all of them. Data sets of the Hub are streamed: only the
rows that are taken are downloaded.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csr_st.data.files import is_stdin
from csr_st.data.parts import Part

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Share:
    """What one data set gives to a mixture.

    Attributes:
        name: Hub id, or words for data of this machine.
        rows: Number of its texts or images.
        weight: Share that was asked for, within 0..1; None without weights.
        split: Which split of a Hub data set, else None.
        column: Column that was taken.
        config: Configuration of a Hub data set, or None.
        on_hub: Whether ``name`` is a Hub id.
    """

    name: str
    rows: int
    weight: float | None = None
    split: str | None = None
    column: str | None = None
    config: str | None = None
    on_hub: bool = False


@dataclass(eq=False)
class Mixture:
    """Texts or images of several data sets in a mixed order; `mix` makes it.

    Attributes:
        rows: A Dataset, or an IterableDataset if one of the data sets is streamed; of one column.
        planned: The share of each data set, as far as it is known before reading.
    """

    rows: Dataset | IterableDataset
    planned: list[Share]
    _read: list[list[int]] = field(default_factory=list, repr=False)

    @property
    def shares(self) -> list[Share]:
        """What each data set gave; where streamed, what it gave when ``rows`` was read last."""
        if not self._read:
            return self.planned
        pairs = zip(self.planned, self._read, strict=True)
        return [replace(share, rows=rows) for share, (rows,) in pairs]

    @property
    def name(self) -> str:
        """Words for the mixture."""
        n = len(self.planned)
        return self.planned[0].name if n == 1 else f"a mixture of {n} data sets"


def mix(  # public; each option belongs to one of the steps: find, choose, bound, order
    data: Sequence[str | Path | Dataset | IterableDataset],
    weights: Sequence[float] | None = None,
    *,
    limit: int | None = None,
    split: str = "train",
    text_column: str | None = None,
    skip_bad: bool = False,
    seed: int = 0,
) -> Mixture:
    """Mix data sets, for `csr_st.train_model` and `EmbeddingStore.embed`.

    Example::

        names = ["news.jsonl", "wikimedia/wikipedia:config=20231101.en"]
        mixture = csr_st.mix(names, weights=[0.3, 0.7], limit=1_000_000)
        csr_st.train_model(backbone, mixture, "my-csr")

    Without weights each data set gives all that it has; with ``limit``, in proportion to that. With
    weights these are the shares; without ``limit`` they are as large as the data sets allow. One
    that has too few texts for its share gives all that it has, with a warning, and the others give
    no more for that. Where a data set gives a part, it is a random one; of a stream, one drawn
    with a buffer of 10,000 rows. The same arguments give the same texts in the same order.

    Args:
        data: Files, folders, patterns or Hub ids, as `csr_st.data.load` takes them, each of which
            may name its own split, column and configuration (see `csr_st.data.names.DataName`); or
            data sets of `datasets`.
        weights: A positive number for each data set, in proportion to its share.
        limit: At most this many texts in all.
        split: Which split of Hub and saved data sets and folders.
        text_column: Column to take; may be left out where there can be only one.
        skip_bad: Leave out rows whose entry is missing, and unreadable images.
        seed: Seed of the choice and the order.

    Raises:
        FileNotFoundError: If there is no such data.
        TypeError: If ``data`` is one name, or an entry is neither a name nor a data set.
        ValueError: If weights do not fit, a column is missing or ambiguous, some hold texts and
            some images, a share has no text, or the size of a stream is needed and unknown.
    """
    import datasets

    if isinstance(data, str | Path) or not isinstance(data, Sequence) or not data:
        raise TypeError(f"data is {data!r:.60}; pass a list of names or data sets")
    if sum(isinstance(one, str) and is_stdin(one) for one in data) > 1:
        raise ValueError("standard input (-) is named twice, but can be read only once")
    normal = _normal(weights, len(data))
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}; pass 1 or more texts")
    parts = [Part.of(one, place, split, text_column) for place, one in enumerate(data, start=1)]
    if len({part.pictures for part in parts}) > 1:
        what = ", ".join(f"{p.source.name}: {'images' if p.pictures else 'text'}" for p in parts)
        raise ValueError(f"texts and images cannot be mixed ({what}); name another column")
    if skip_bad:
        parts = [part.without_bad() for part in parts]
    counts = _counts(parts, normal, limit)
    kept = [part.sample(n, seed).common() for part, n in zip(parts, counts, strict=True)]
    read: list[list[int]] = []
    if any(part.streamed for part in kept):
        read = [[0] for _ in kept]
        kept = [part.counted(seen) for part, seen in zip(kept, read, strict=True)]
    known = [count for count in counts if count is not None]
    rows = datasets.interleave_datasets(
        [part.rows for part in kept],
        probabilities=[n / sum(known) for n in known] if len(known) == len(kept) else None,
        seed=seed,
        stopping_strategy="all_exhausted_without_replacement",
    )
    return Mixture(rows, [_share(*one) for one in zip(parts, counts, normal, strict=True)], read)


def unmixed(data: Any, columns: Sequence[str]) -> Any:
    """The rows of a mixture; other data as it is.

    Raises:
        ValueError: If columns of a mixture are named.
    """
    if isinstance(data, Mixture) and columns:
        raise ValueError(
            f"column {columns[0]!r} is named, but a mixture has texts only, without labels and "
            "pairs: name text columns where it is made (csr_st.mix); for labels or pairs pass one "
            "data set"
        )
    return data.rows if isinstance(data, Mixture) else data


def facts_read(data: Any) -> dict[str, Any]:
    """What a model's card says of a mixture that has been read; nothing of other data.

    Warns of data sets that gave fewer texts than their share.
    """
    if not isinstance(data, Mixture):
        return {}
    shares = data.shares
    for planned, share in zip(data.planned, shares, strict=True):
        if share.rows < planned.rows:
            _warn_short(share.name, share.rows, planned.rows)
    ids = dict.fromkeys(share.name for share in shares if share.on_hub)
    return {"mixture": shares, "datasets": list(ids)}


def _share(part: Part, count: int | None, weight: float | None) -> Share:
    source = part.source
    split = source.split if part.on_hub else None
    return Share(source.name, count or 0, weight, split, source.column, source.config, part.on_hub)


def _normal(weights: Sequence[float] | None, n: int) -> Sequence[float | None]:
    """The weights as shares of 1; None for each data set without weights."""
    if weights is None:
        return [None] * n
    if len(weights) != n:
        raise ValueError(f"{len(weights)} weights for {n} data sets; pass one for each")
    if bad := [weight for weight in weights if not 0 < weight < math.inf]:
        raise ValueError(f"weight {bad[0]} is not a positive number; leave that data set out")
    return [weight / sum(weights) for weight in weights]


def _counts(
    parts: list[Part], shares: Sequence[float | None], limit: int | None
) -> list[int | None]:
    """How many texts each data set gives; None for all of a stream of unknown size.

    Warns of one that has too few for its share.
    """
    sizes = [part.size for part in parts]
    unknown = next((p.source.name for p in parts if p.size is None), None)
    weights = [share for share in shares if share is not None]
    if not weights:
        known = [size for size in sizes if size is not None]
        if limit is None or (unknown is None and sum(known) <= limit):
            return sizes
        if unknown is not None and len(parts) == 1:
            return [limit]
        if unknown is not None:
            raise ValueError(
                f"the number of rows of {unknown} is unknown, so limit={limit} cannot be divided "
                "in proportion; pass weights (--weights)"
            )
        weights, total = [size / sum(known) for size in known], limit
    elif limit is None:
        if unknown is not None:
            raise ValueError(
                f"the number of rows of {unknown} is unknown, so its weight says not how many to "
                "take; pass limit (--limit), the number of texts in all"
            )
        total = int(min(size / w for size, w in zip(sizes, weights, strict=True) if size))
    else:
        total = limit
    wanted = _divided(total, weights)
    for part, count in zip(parts, wanted, strict=True):
        if not count:
            raise ValueError(
                f"{part.source.name} would give no text: its share of {total} is below one; raise "
                "limit (--limit) or its weight, or leave it out"
            )
        if part.size is not None and part.size < count:
            _warn_short(part.source.name, part.size, count)
    return [n if size is None else min(n, size) for n, size in zip(wanted, sizes, strict=True)]


def _divided(total: int, weights: Sequence[float]) -> list[int]:
    """A number of texts in whole parts in proportion to weights, by the largest remainders."""
    exact = [total * weight / sum(weights) for weight in weights]
    counts = [int(part) for part in exact]
    rest = sorted(range(len(exact)), key=lambda i: counts[i] - exact[i])
    for i in rest[: total - sum(counts)]:
        counts[i] += 1
    return counts


def _warn_short(name: str, there: int, wanted: int) -> None:
    logger.warning(
        "%s has %s texts, its share would be %s: all of them are taken", name, f"{there:,}",
        f"{wanted:,}",
    )  # fmt: skip
