"""Codes in LanceDB: columns of a table; LanceDB itself searches no sparse vectors.

Release 0.40.0 has indexes of dense vectors and of words, none of sparse vectors. So the table keeps
documents and codes, `SparseIndex` searches, and conditions on other columns become its filter::

    from csr_st.search.formats import lancedb as lance

    table = database.create_table("docs", lance.documents(codes, ids=ids, payloads=payloads))
    found = lance.read(table.to_arrow())
    index = csr_st.SparseIndex.build(found.codes, found.ids)
    rows = table.search().where("id > 100").select(["id"]).limit(None).to_arrow()
    index.search(query_codes, filter=rows["id"])

The columns are those of any Arrow table: id, the latents of each document by falling value and
their values at unit norm (lists), its norm, its payload, a string of JSON, and hidden_dim, which is
one for a table.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # pyarrow has no type information
import pyarrow.compute as pc  # type: ignore[import-untyped]
from numpy.typing import NDArray

from csr_st.codes import SparseCodes
from csr_st.search.documents import checked_unit_codes
from csr_st.search.formats.entries import Payload, Shards, parts, payloads_of, size
from csr_st.search.ids import Ids, as_id_array, as_new_ids

ROWS = 10_000  # of a batch
_HIDDEN_DIM = b"csr_st.hidden_dim"
_COLUMNS = ("id", "latents", "values", "norm", "hidden_dim")


class Stored(NamedTuple):
    """What a table has.

    Attributes:
        codes: The codes of its rows.
        ids: Their ids, one each.
        payloads: Their payloads.
    """

    codes: SparseCodes
    ids: NDArray[Any]
    payloads: list[dict[str, Any]]


def documents(
    source: SparseCodes | Shards,
    ids: Ids | None = None,
    payloads: Iterable[Payload] | None = None,
) -> pa.RecordBatchReader:
    """Batches of rows, for ``create_table`` or ``add``.

    Payloads and later shards are checked as they are read: LanceDB then raises a RuntimeError with
    the message, and has stored none of the rows.

    Args:
        source: `SparseCodes` or a `CodeStore`. Residual bits are left out.
        ids: One integer or string per document; 0..n-1 if None.
        payloads: One mapping of JSON values per document.

    Raises:
        TypeError: If something is of the wrong type.
        ValueError: If sizes differ, ids repeat, there is nothing, or values are NaN or infinite.
    """
    n = size(source)
    keys = as_new_ids(ids, n)
    given = payloads_of(payloads, n)
    unit = (checked_unit_codes(part, "codes") for part in parts(source))
    first = next(unit, None)
    if first is None:
        raise ValueError("there are no codes; pass one document at least")
    schema = _schema(keys, first.hidden_dim)
    return pa.RecordBatchReader.from_batches(schema, _batches(first, unit, keys, given, schema))


def _schema(keys: NDArray[Any], hidden_dim: int) -> pa.Schema:
    fields = [
        ("id", pa.string() if keys.dtype == object else pa.int64()),
        ("latents", pa.list_(pa.uint32())),
        ("values", pa.list_(pa.float32())),
        ("norm", pa.float32()),
        ("payload", pa.string()),
        ("hidden_dim", pa.int32()),
    ]
    return pa.schema(fields, {_HIDDEN_DIM: str(hidden_dim).encode()})


def _batches(
    first: SparseCodes,
    rest: Iterator[SparseCodes],
    keys: NDArray[Any],
    payloads: Iterator[dict[str, Any]],
    schema: pa.Schema,
) -> Iterator[pa.RecordBatch]:
    start = 0
    for part in itertools.chain([first], rest):
        for begin in range(0, len(part), ROWS):
            codes = part[begin : begin + ROWS]
            some = itertools.islice(payloads, len(codes))
            texts = [json.dumps(payload, ensure_ascii=False) for payload in some]
            yield _batch(codes, keys[start : start + len(codes)], texts, schema)
            start += len(codes)
    next(payloads, None)  # refuses one too many


def _batch(codes: SparseCodes, keys: NDArray[Any], texts: list[str], schema: Any) -> Any:
    active = codes.values > 0
    offsets = np.concatenate([[0], np.cumsum(active.sum(axis=1))]).astype(np.int32)
    latents = pa.array(codes.indices[active].astype(np.uint32))
    values = pa.array(codes.values[active].astype(np.float32))
    columns = [
        pa.array(keys.tolist(), schema.field("id").type),
        pa.ListArray.from_arrays(offsets, latents),
        pa.ListArray.from_arrays(offsets, values),
        pa.array(codes.norms, pa.float32()),
        pa.array(texts, pa.string()),
        pa.array(np.full(len(codes), codes.hidden_dim, np.int32)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def read(table: pa.Table) -> Stored:
    """Codes, ids and payloads of a table, or of some of its rows.

    Args:
        table: Such as ``table.to_arrow()``, or ``table.search().where(...).limit(None).to_arrow()``
            with all columns that `documents` wrote.

    Raises:
        ValueError: If there are no such columns, they are no codes, or rows differ in hidden_dim.
    """
    about = (table.schema.metadata or {}).get(_HIDDEN_DIM)
    missing = [name for name in _COLUMNS if name not in table.column_names]
    if missing or about is None:
        raise ValueError(
            f"the table has no {missing[0] if missing else 'hidden_dim in its metadata'}; pass one "
            "that was made of documents(codes)"
        )
    hidden_dim = int(about)
    for other in set(table["hidden_dim"].unique().to_pylist()) - {hidden_dim}:
        raise ValueError(
            f"the table has hidden_dim={hidden_dim}, but also rows of hidden_dim={other}, whose "
            f'latents mean something else; remove them by table.delete("hidden_dim = {other}")'
        )
    counts = np.array(pc.list_value_length(table["latents"]).to_pylist(), np.int64)
    if counts.tolist() != pc.list_value_length(table["values"]).to_pylist():
        raise ValueError("a row of the table has another number of latents than of values")
    k = max(1, int(counts.max(initial=0)))
    taken = np.arange(k) < counts[:, None]
    indices, values = np.zeros(taken.shape, np.uint32), np.zeros(taken.shape, np.float32)
    indices[taken] = pc.list_flatten(table["latents"]).to_numpy()
    values[taken] = pc.list_flatten(table["values"]).to_numpy()
    norms = table["norm"].to_numpy()
    codes = SparseCodes(indices, values, hidden_dim, norms)
    texts = table["payload"].to_pylist() if "payload" in table.column_names else []
    payloads = [json.loads(text) for text in texts] or [{} for _ in range(len(codes))]
    return Stored(codes, as_id_array(table["id"]), payloads)
