"""One data set of a mixture: found, its column chosen, bounded, and brought to a common form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csr_st.data.files import is_local, short_name
from csr_st.data.images import image_columns, undecoded
from csr_st.data.loading import check_column, chosen_column, item_column, load, without_bad
from csr_st.data.names import DataName

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

BUFFER = 10_000  # rows of a stream among which the next one is drawn
COMMON = {True: "image", False: "text"}  # name of the column in the mixture, by whether of images


@dataclass(frozen=True)
class Part:
    """One data set of a mixture.

    Attributes:
        rows: A Dataset, or an IterableDataset where it is streamed; of one column.
        source: Its name, split, column and configuration.
        on_hub: Whether the name is a Hub id.
        size: Number of rows, None where it is unknown.
        pictures: Whether it holds images, not texts.
    """

    rows: Any
    source: DataName
    on_hub: bool
    size: int | None
    pictures: bool

    @classmethod
    def of(cls, data: Any, place: int, split: str, column: str | None) -> Part:
        """The data set of a name, or a data set itself, of which it is the ``place``-th."""
        size, on_hub = None, False
        rows: Any = data
        if isinstance(data, str | Path):
            source = DataName.parse(data, split, column)
            on_hub = not is_local(source.name)
            rows = load(source, columns=[source.column] if source.column else [], stream=True)
            if not on_hub:
                source = replace(source, name=short_name(source.name))
        elif hasattr(data, "column_names") and hasattr(data, "features"):
            known = getattr(data.info, "dataset_name", None)
            source = DataName(known or f"data set {place}", str(data.split or ""), column)
        else:
            raise TypeError(
                f"data set {place} is a {type(data).__name__}; pass the name of a file or of a "
                "data set, or a Dataset or IterableDataset of `datasets`"
            )
        if hasattr(rows, "__len__"):
            size = len(rows)
        elif on_hub and rows.info.splits and source.split in rows.info.splits:
            size = rows.info.splits[source.split].num_examples or None
        chosen, pictures = _chosen(rows, source.column, source.name)
        rows = undecoded(rows.select_columns([chosen]))
        return cls(rows, replace(source, column=chosen), on_hub, size, pictures)

    @property
    def streamed(self) -> bool:
        """Whether the rows come one after the other."""
        return not hasattr(self.rows, "__len__")

    @property
    def column(self) -> str:
        """The column that is taken."""
        assert self.source.column is not None
        return self.source.column

    def without_bad(self) -> Part:
        """Without missing entries; where not streamed, also without unreadable images."""
        name = self.column
        if self.streamed:
            return replace(self, rows=self.rows.filter(lambda row: row[name] is not None))
        rows = without_bad(self.rows, [name])
        return replace(self, rows=rows, size=len(rows))

    def sample(self, count: int | None, seed: int) -> Part:
        """``count`` random rows; all in their order where there are no more, or it is None."""
        if count is None or (self.size == count and not self.streamed):
            return self
        if self.streamed:
            rows = self.rows.shuffle(seed=seed, buffer_size=BUFFER).take(count)
            return replace(self, rows=rows)
        # in memory: beside a saved data set, `datasets` would write its order into a file
        rows = self.rows.shuffle(seed=seed, keep_in_memory=True)
        return replace(self, rows=rows.select(range(count), keep_in_memory=True))

    def common(self) -> Part:
        """With the name and type that the column has in every part."""
        import datasets

        name = COMMON[self.pictures]
        rows = self.rows if name == self.column else self.rows.rename_column(self.column, name)
        kind = (rows.features or {}).get(name)  # None where unknown, which `counted` sets
        if not self.pictures and kind not in (None, datasets.Value("string")):
            rows = rows.cast_column(name, datasets.Value("string"))
        return replace(self, rows=rows)

    def counted(self, seen: list[int]) -> Part:
        """As a stream of `common` rows that writes into ``seen`` how many it has given."""

        def count(row: dict[str, Any], place: int) -> dict[str, Any]:
            seen[0] = place + 1
            return row

        import datasets

        rows = self.rows if self.streamed else self.rows.to_iterable_dataset()
        texts = datasets.Features({COMMON[False]: datasets.Value("string")})
        features = rows.features or texts
        return replace(self, rows=rows.map(count, with_indices=True, features=features))


def _chosen(rows: Dataset | IterableDataset, name: str | None, where: str) -> tuple[str, bool]:
    """The column to take, and whether it holds images; errors name the data set."""
    try:
        if rows.features is None:  # of a stream: known once a row is read
            return _chosen_of_row(next(iter(rows), {}), name), False
        chosen = name or item_column(rows.features)
        check_column(rows.features, chosen)
        return chosen, chosen in image_columns(rows.features)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _chosen_of_row(row: Mapping[str, Any], name: str | None) -> str:
    if not row:
        raise ValueError("it has no row; it must have at least one")
    types = {key: type(value).__name__ for key, value in row.items()}
    texts = [key for key, value in row.items() if isinstance(value, str)]
    chosen = name or chosen_column(types, texts, [])
    if chosen not in row:
        raise ValueError(f"column {chosen!r} is not among {list(row)}")
    if not isinstance(row[chosen], str | None):  # None: a missing entry
        raise ValueError(f"column {chosen!r} holds {types[chosen]}, not text; name another one")
    return chosen
