"""Encoding under Spark: a function for ``DataFrame.mapInArrow``, and a store of what it encodes."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # pyarrow has no type information

from csr_st.code_store import CodeStore
from csr_st.distributed_encoding.parts import Part, PartWriter, finish, texts_of, writing
from csr_st.distributed_encoding.spec import EncoderSpec, spec_of
from csr_st.embeddings.writing import SHARD_ROWS
from csr_st.model.settings import integer

CODES = ("indices", "values")


@dataclass(frozen=True)
class SparkEncoder:
    """A function for ``DataFrame.mapInArrow``; see `spark_encoder`.

    Attributes:
        spec: The model and its options.
        text_column: Column to encode.
    """

    spec: EncoderSpec
    text_column: str

    def schema(self, frame: Any) -> Any:
        """The columns of a frame, and ``indices`` and ``values`` after them.

        Raises:
            ValueError: If the frame lacks the text column, or has one of the new ones already.
        """
        _check_columns(frame, self.text_column)
        if taken := [name for name in CODES if name in frame.columns]:
            raise ValueError(f"the frame has a column {taken[0]!r}; rename or drop it")
        types = importlib.import_module("pyspark.sql.types")
        indices = types.ArrayType(types.IntegerType(), False)  # Spark has no unsigned integers
        values = types.ArrayType(types.FloatType(), False)
        new = [
            types.StructField(name, kind, False)
            for name, kind in zip(CODES, (indices, values), strict=True)
        ]
        return types.StructType([*frame.schema.fields, *new])

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The batches of a partition with their codes; what Spark calls."""
        for batch in batches:
            texts = texts_of(batch.column(self.text_column), self.text_column)
            columns = list(batch.columns)
            if not batch.num_rows:
                columns += [
                    pa.array([], pa.list_(pa.int32())),
                    pa.array([], pa.list_(pa.float32())),
                ]
            else:
                codes = self.spec.codes(texts)
                ends = np.arange(len(codes) + 1, dtype=np.int32) * np.int32(codes.k)
                arrays = codes.indices.astype(np.int32), codes.values.astype(np.float32)
                columns += [
                    pa.ListArray.from_arrays(ends, pa.array(array.reshape(-1))) for array in arrays
                ]
            yield pa.RecordBatch.from_arrays(columns, names=[*batch.schema.names, *CODES])


def spark_encoder(
    model: str | Path, k: int | None = None, *, text_column: str = "text", **options: Any
) -> SparkEncoder:
    """A function that gives the rows of a DataFrame their codes, where Spark keeps them.

    For tables of Spark's own formats and object stores; `spark_encode` writes a `CodeStore`::

        encoder = spark_encoder("org/my-csr", k=32)
        frame.mapInArrow(encoder, encoder.schema(frame)).write.parquet("s3://...")

    The codes are two columns after those of the frame: ``indices``, array<int>, and ``values``,
    array<float>, k of each, strongest first; values of 0 at the end stand for no latent. Each
    Python worker of Spark loads the model once, so set ``spark.executor.cores`` or
    ``spark.task.cpus`` to as many as memory allows.

    Args:
        model: Folder that every machine sees, or Hub id, of a model that `CodeStore.encode` takes.
        k: Active latents per row; the model's default when None.
        text_column: Column of strings.
        options: See `csr_st.distributed_encoding.ray_encode`, without ``residual_bits`` and
            ``value_bits``, which have no place in these columns.

    Raises:
        TypeError: If an option is of the wrong type.
        ValueError: If one is out of its bounds, or needs a store.
    """
    if kept := [name for name in ("residual_bits", "value_bits") if options.get(name)]:
        raise ValueError(f"{kept[0]}={options[kept[0]]} needs a store: use spark_encode")
    return SparkEncoder(spec_of(model, {"k": k, **options}), text_column)


def spark_encode(
    model: str | Path,
    frame: Any,
    path: str | Path,
    *,
    text_column: str = "text",
    id_column: str | None = None,
    shard_rows: int = SHARD_ROWS,
    **options: Any,
) -> CodeStore:
    """Encode a DataFrame of Spark into a `CodeStore`.

    The rows of the store are those of the partitions, one after another. A frame has that order
    only where it was sorted, so pass ``id_column``: `CodeStore.ids` has the ids in the order of the
    rows.

    The same call goes on after a crash: rows of a partition whose part was finished are not encoded
    again. Parts are the same if the frame has the same partitions; rows in others are encoded
    again, and the result is right in any case. A complete store is opened if the data is the same.

    Args:
        model: See `spark_encoder`.
        frame: A DataFrame.
        path: Directory of the store, on a disk that all machines share.
        text_column: Column of strings.
        id_column: Column of integers or strings; none when None.
        shard_rows: Rows of a shard at most; a partition has one shard or more.
        options: See `csr_st.distributed_encoding.ray_encode`.

    Raises:
        TypeError: If an option is of the wrong type.
        ValueError: If an option is out of its bounds, a column is missing, the frame is empty, or
            another model or other data was encoded at ``path``.
        BlockingIOError: If another process is writing there.
        pyspark.errors.PythonException: If a worker fails; its message has the reason. Parts that
            were finished stay.
    """
    spec = spec_of(model, options)
    shard_rows = integer("shard_rows", shard_rows)
    columns = [name for name in (text_column, id_column) if name is not None]
    _check_columns(frame, *columns)
    with writing(path) as begun:
        place = str(Path(path).absolute())
        writer = PartWriter(spec, place, text_column, id_column, shard_rows, begun)
        found = frame.select(*columns).mapInArrow(_PartsOfPartition(writer), "part string, n long")
        finish(path, [Part(row["part"], row["n"]) for row in found.collect()])
    return CodeStore.open(path)


@dataclass(frozen=True)
class _PartsOfPartition:
    """Writes the rows of a partition as parts of ``shard_rows``, and gives their names."""

    writer: PartWriter

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        waiting: list[pa.RecordBatch] = []
        size = self.writer.shard_rows
        for batch in batches:
            waiting.append(batch)
            while sum(map(len, waiting)) >= size:
                table = pa.Table.from_batches(waiting)
                yield self._written(table.slice(0, size))
                waiting = table.slice(size).to_batches()
        if sum(map(len, waiting)):
            yield self._written(pa.Table.from_batches(waiting))

    def _written(self, table: pa.Table) -> pa.RecordBatch:
        part = self.writer.write(table)
        rows = pa.array([part.rows], pa.int64())
        return pa.RecordBatch.from_arrays([pa.array([part.name]), rows], names=["part", "n"])


def _check_columns(frame: Any, *names: str) -> None:
    if not hasattr(frame, "mapInArrow"):
        raise TypeError(
            f"frame is a {type(frame).__module__}.{type(frame).__qualname__}; pass a DataFrame of "
            "Spark 3.3 or newer"
        )
    if missing := [name for name in names if name not in frame.columns]:
        raise ValueError(
            f"column {missing[0]!r} is not in the frame; its columns are {frame.columns}"
        )
