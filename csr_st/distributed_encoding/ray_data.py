"""Encoding under Ray Data: one model in each actor, one part of the store for each batch."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]  # pyarrow has no type information

from csr_st.code_store import CodeStore
from csr_st.data.files import in_order, is_pattern, matching
from csr_st.distributed_encoding.parts import Part, PartWriter, finish, writing
from csr_st.distributed_encoding.spec import spec_of
from csr_st.embeddings.writing import SHARD_ROWS
from csr_st.model.settings import integer

RESULT = pa.schema([("part", pa.string()), ("rows", pa.int64()), ("error", pa.string())])
READERS = {
    ".parquet": "read_parquet",
    ".jsonl": "read_json",
    ".json": "read_json",
    ".csv": "read_csv",
    ".txt": "read_text",
}
REFUSALS: dict[str, type[Exception]] = {"ValueError": ValueError, "TypeError": TypeError}


def ray_encode(
    model: str | Path,
    data: Any,
    path: str | Path,
    *,
    text_column: str = "text",
    id_column: str | None = None,
    shard_rows: int = SHARD_ROWS,
    workers: int | tuple[int, int] = 1,
    num_gpus: float = 0,
    **options: Any,
) -> CodeStore:
    """Encode a data set of Ray Data into a `CodeStore`, on as many machines as the cluster has.

    The rows of the store are those of the data, in its order, whatever the number of workers. Only
    ``text_column`` and ``id_column`` are read.

    The same call goes on after a crash: a batch whose rows were encoded before is not encoded
    again. Batches are the same if the data has the same rows in the same blocks, so read it with a
    fixed ``override_num_blocks`` on clusters of different size. Rows in other batches are encoded
    again; the result is right in any case. A complete store is opened if the data is the same.

    Args:
        model: Folder that every machine sees, or Hub id, of a model that `CodeStore.encode` takes.
            Each worker loads it.
        data: A `ray.data.Dataset`.
        path: Directory of the store, on a disk that all machines share.
        text_column: Column to encode.
        id_column: Column of integers or strings, stored as `CodeStore.ids`; none when None.
        shard_rows: Rows of a batch, which becomes a shard: the most that a crash can lose.
        workers: The most actors, with a model and a CPU each; or (least, most). Leave a CPU of the
            cluster for reading the data.
        num_gpus: GPUs of a worker; a part of one where several share it.
        options: ``k``, ``role``, ``prompt``, ``prompt_name``, ``pursuit``, ``residual_bits``,
            ``value_bits``, ``dtype``, ``batch_size``, ``device`` as in `CodeStore.encode`;
            ``revision`` and ``trust_remote_code`` of a model on the Hub.

    Raises:
        ImportError: If Ray is not installed.
        TypeError: If the data is no Ray data set, an option is of the wrong type, or a column has
            no strings.
        ValueError: If an option is out of its bounds, a column or a value is missing, the data is
            empty, or another model or other data was encoded at ``path``. Batches that were
            finished stay.
        BlockingIOError: If another process is writing there.
    """
    ray = _ray()
    spec = spec_of(model, options)
    shard_rows = integer("shard_rows", shard_rows)
    if not isinstance(data, ray.data.Dataset):
        raise TypeError(
            f"data is a {type(data).__module__}.{type(data).__qualname__}; pass a "
            'ray.data.Dataset, such as ray.data.read_parquet("texts/")'
        )
    columns = [name for name in (text_column, id_column) if name is not None]
    there = data.columns() or columns
    if missing := [name for name in columns if name not in there]:
        raise ValueError(f"column {missing[0]!r} is not in the data; its columns are {there}")
    least, most = _worker_numbers(ray, workers)
    with writing(path) as begun:
        place = str(Path(path).absolute())
        writer = PartWriter(spec, place, text_column, id_column, shard_rows, begun)
        pool = ray.data.ActorPoolStrategy(min_size=least, max_size=most)
        rows = data.select_columns(columns)
        rows.context.execution_options.preserve_order = True
        found = rows.map_batches(
            _Worker,
            fn_constructor_args=(writer,),
            batch_size=shard_rows,
            batch_format="pyarrow",
            compute=pool,
            num_gpus=num_gpus or None,
        )
        parts = []
        for row in found.iter_rows():
            if row["error"]:
                raise REFUSALS[row["error"]](row["part"])
            parts.append(Part(row["part"], row["rows"]))
        finish(path, parts)
    return CodeStore.open(path)


def ray_files(source: str | Path) -> Any:
    """A data set of Ray Data that reads files on the workers.

    Args:
        source: A file, a folder or a pattern with ``*``, all of one type: .parquet, .jsonl, .json,
            .csv, or .txt with a text on each line.

    Raises:
        ImportError: If Ray is not installed.
        FileNotFoundError: If there is no such file.
        ValueError: If the files are of another type, or of several.
    """
    ray, path = _ray(), Path(source)
    files = in_order(path.rglob("*")) if path.is_dir() else [path]
    if is_pattern(str(source)) and not path.exists():
        files = matching(str(source))
    files = [file for file in files if file.is_file() and file.name[0] not in "._"]
    if not files:
        raise FileNotFoundError(f"there is no file at {source}")
    kinds = sorted({file.suffix.lower() for file in files})
    if len(kinds) > 1 or kinds[0] not in READERS:
        raise ValueError(
            f"{source} has files of {', '.join(kinds)}; Ray reads one of {', '.join(READERS)} "
            "here: pass such files, or any data set of Ray to ray_encode"
        )
    reader = getattr(ray.data, READERS[kinds[0]])
    return reader([str(file.absolute()) for file in files])


def _worker_numbers(ray: ModuleType, workers: int | tuple[int, int]) -> tuple[int, int]:
    """The least and most workers; warns if reading would wait for them."""
    pair = (1, workers) if not isinstance(workers, tuple) else workers
    least, most = (integer("workers", number) for number in pair)
    if least > most:
        raise ValueError(f"workers={workers}: {least} exceeds {most}; pass (least, most)")
    cpus = ray.cluster_resources().get("CPU", 0)
    if least >= cpus:
        warnings.warn(
            f"workers={workers} take all {cpus:g} CPUs of the cluster, and reading the data needs "
            "one: pass fewer, unless the cluster grows by itself",
            stacklevel=3,
        )
    return least, most


class _Worker:
    """What an actor has: the model is loaded with the first batch that needs it."""

    def __init__(self, writer: PartWriter) -> None:
        self._writer = writer

    def __call__(self, batch: pa.Table) -> pa.Table:
        if not batch.num_rows:
            return pa.table([pa.array([], kind) for kind in RESULT.types], schema=RESULT)
        try:
            name, rows, error = *self._writer.write(batch), ""
        except (ValueError, TypeError) as refusal:
            # As a row: of an error Ray gives the driver only a traceback in text.
            kind = TypeError if isinstance(refusal, TypeError) else ValueError
            name, rows, error = str(refusal), 0, kind.__name__
        return pa.table({"part": [name], "rows": [rows], "error": [error]}, schema=RESULT)


def _ray() -> ModuleType:
    try:
        ray = importlib.import_module("ray")
        importlib.import_module("ray.data")
    except ImportError as error:
        raise ImportError('ray is missing: pip install "csr-st[ray]"') from error
    return ray
