"""A store of codes as a data set on the Hub: Parquet files that `datasets` reads, and back.

Beside the files lie csr_codes.json and the manifest of the store: with them the store that is
loaded is the one that was pushed, bit for bit, which its checksums prove.
"""

from __future__ import annotations

import errno
import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # pyarrow has no type information
from filelock import FileLock

from csr_st import code_files
from csr_st.code_ids import ids_from_arrays
from csr_st.code_layout import CodeLayout
from csr_st.codes import SparseCodes
from csr_st.embeddings.directory import FORMAT_VERSION, MANIFEST, StoreDirectory, checksum_of
from csr_st.embeddings.manifest import CODES, Manifest, Plan, refuse_data
from csr_st.embeddings.writing import LOCK, begin
from csr_st.hub_data.card import CARD_NAME, card_text, new_card
from csr_st.hub_data.code_tables import (
    MOST_SHARD_BYTES,
    Shard,
    check_size,
    read_table,
    row_bytes_of,
    schema_of,
    write_table,
)
from csr_st.hub_data.origin import ModelOrigin
from csr_st.hub_data.repository import Source, destination, source
from csr_st.packed_codes import PackedCodes

ABOUT_NAME = "csr_codes.json"
FORMAT, VERSION = "csr_st.codes_on_hub", 1
WRITER = "CodeStore.push_to_hub"
DOWNLOADS = ".hub"  # hidden: no file of the store
_DATA = re.compile(r"data/train-\d{5,}-of-\d{5,}\.parquet")


def data_name(number: int, total: int) -> str:
    """Path of a shard in the repository, in the pattern that `datasets` finds by itself."""
    return f"data/train-{number:05d}-of-{total:05d}.parquet"


def push_codes(
    path: Path,
    repo_id: str,
    model: ModelOrigin,
    *,
    private: bool | None,
    revision: str | None,
    token: str | None,
    replace_card: bool,
    commit_message: str | None,
) -> str:
    """Publish a complete store; see `CodeStore.push_to_hub`."""
    directory = StoreDirectory(path, CODES)
    manifest = directory.read_complete()
    layout = CodeLayout.of(manifest)
    total = len(manifest.sizes)
    for number, rows in enumerate(manifest.sizes):
        check_size(layout, rows, str(directory.shard(number)))
    items: list[str] = []
    where: dict[str, Any] = {"private": private, "revision": revision, "token": token}
    with (
        tempfile.TemporaryDirectory() as temporary,
        destination(repo_id, **where) as remote,
    ):
        card = _card(remote.repo_id, manifest, layout, model)
        header = _metadata(manifest, layout)
        content = new_card(remote, card, header, replace_card)  # refuses before anything is sent
        for number in range(total):
            name = data_name(number, total)
            table = Path(temporary) / Path(name).name
            write_table(table, layout, _stored(directory, manifest, layout, number))
            _shard_of(table, directory, manifest, layout, number)  # it will come back as it is
            items.append(directory.read_header(number).items)
            if remote.add(name, table):
                table.unlink()
        about = {
            "format": FORMAT,
            "version": VERSION,
            "model": model._asdict(),
            "n": sum(manifest.sizes),
            **layout._asdict(),
            "items": items,
        }
        remote.add(MANIFEST, (path / MANIFEST).read_bytes())
        remote.add(ABOUT_NAME, json.dumps(about, indent=1, ensure_ascii=False).encode())
        remote.add(CARD_NAME, content)
        message = commit_message or f"Add {sum(manifest.sizes):,} sparse codes"
        return remote.commit(message, lambda name: _DATA.fullmatch(name) is not None)


def _stored(
    directory: StoreDirectory, manifest: Manifest, layout: CodeLayout, number: int
) -> Shard:
    """A shard of a store, in memory, its checksum compared."""
    file = directory.open_shard(number)
    kind = SparseCodes if layout.value_bits is None else PackedCodes
    arrays = {name: file.map(name) for name in file.tensors}
    if checksum_of(arrays) != manifest.checksums[number]:
        raise ValueError(
            f"{file.path} was altered after it was written; delete it and {directory.path}'s "
            f"manifest.json, then run {CODES.call} again: only this shard is rebuilt"
        )
    return Shard(kind.load(file.path), ids_from_arrays(arrays, manifest.sizes[number]))


def _shard_of(
    table: Path, directory: StoreDirectory, manifest: Manifest, layout: CodeLayout, number: int
) -> Shard:
    """The shard in a Parquet file; a ValueError if it is not the one in the manifest."""
    try:
        found = read_table(table, layout, manifest.sizes[number])
    except (ValueError, TypeError, OverflowError, pa.ArrowException) as error:
        raise ValueError(f"{table.name} has no valid codes: {error}") from error
    except OSError as error:  # of a damaged file: pyarrow has no other
        if error.errno in (errno.ENOSPC, errno.ENOENT, errno.EACCES):
            raise
        raise ValueError(f"{table.name} is no readable Parquet file: {error}") from error
    if checksum_of(found.arrays()) != manifest.checksums[number]:
        raise ValueError(
            f"{table.name} has other codes than shard {number} of the store in {directory.path}: "
            "their checksums differ"
        )
    return found


def _metadata(manifest: Manifest, layout: CodeLayout) -> dict[str, Any]:
    """What the Hub and `datasets` read at the top of the card."""
    from datasets import Features

    features = Features.from_arrow_schema(schema_of(layout))
    n = sum(manifest.sizes)
    n_bytes = n * row_bytes_of(layout)
    split = {"name": "train", "num_bytes": n_bytes, "num_examples": n}
    return {
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}
        ],
        "dataset_info": {"features": features._to_yaml_list(), "splits": [split]},
    }


def _card(repo_id: str, manifest: Manifest, layout: CodeLayout, model: ModelOrigin) -> str:
    info = manifest.info
    residual = None if layout.residual is None else f"{layout.residual['bits']} bits a dimension"
    kept = layout.dtype if layout.value_bits is None else f"{layout.value_bits} bits, packed"
    facts = {
        "items": f"{info.n:,}",
        "model": model.linked(),
        "active latents (k)": layout.k,
        "latents (hidden_dim)": f"{layout.hidden_dim:,}",
        "values": f"{kept}{', of unit norm' if layout.normalize else ''}",
        "fitted by pursuit": "yes" if layout.pursuit else None,
        "residual": residual,
        "role": info.role,
        "ids": layout.ids,
        "data": info.dataset,
    }
    folder = repo_id.split("/")[-1]
    calls = [
        "import csr_st\n\n"
        f'store = csr_st.CodeStore.load_from_hub("{repo_id}", "{folder}")\n'
        "index = csr_st.SparseIndex.build(store.codes())",
        "import datasets\n\n"
        f'rows = datasets.load_dataset("{repo_id}", split="train")\n'
        'rows[0]["indices"], rows[0]["values"]  # latents and how strong they are, strongest first',
    ]
    notes = (
        "Each row is one item. At a smaller k the code is the beginning of the row. Values of 0 at "
        "the end of a row stand for no latent. " + ("" if not layout.normalize else
        "`norms` is the length that a row had before it was scaled to unit length. ")
        + "Codes come from texts or other data, and tell something about them; publish only what "
        "may be known."
    )  # fmt: skip
    what = "Sparse codes: for each item the few latents that are active, and their values."
    return card_text(repo_id, what, facts, calls, notes)


def load_codes(repo_id: str, path: Path, *, revision: str | None, token: str | None) -> None:
    """Write the store of a repository to a directory; see `CodeStore.load_from_hub`."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; a store is a directory")
    with source(repo_id, revision=revision, token=token) as remote:
        manifest, items = _about(remote)
        layout = _checked(remote, manifest)
        directory = StoreDirectory(path, CODES)
        there = directory.read_manifest()
        if there == manifest:
            return
        if there is not None:
            raise ValueError(
                f"{path} has another store of codes than {repo_id}; pass another path, or delete it"
            )
        lock = FileLock(path / LOCK, timeout=0)
        try:
            begin(directory, manifest.plan, lock)
            for number in range(len(manifest.sizes)):
                if not _is_there(directory, manifest, items[number], number):
                    _load_shard(remote, directory, manifest, layout, items[number], number)
            directory.write(manifest)
            shutil.rmtree(path / DOWNLOADS, ignore_errors=True)
        finally:
            lock.release()


def _about(remote: Source) -> tuple[Manifest, list[str]]:
    """The manifest, and the digest of the items of each shard."""
    about = remote.described(ABOUT_NAME, WRITER, FORMAT, VERSION)
    content = remote.described(MANIFEST, WRITER, CODES.format, FORMAT_VERSION)
    try:
        items = about["items"]
        del content["format"], content["version"]
        manifest = Manifest(**{**content, "plan": Plan(**content["plan"])})
        if not isinstance(items, list) or len(items) != len(manifest.sizes):
            raise ValueError("items and shards are not of one number")
        if not all(isinstance(item, str) for item in items):
            raise ValueError("items must be strings")
    except (ValueError, TypeError, KeyError) as error:
        raise _damaged(remote, error) from error
    return manifest, items


def _damaged(remote: Source, error: Exception) -> ValueError:
    return ValueError(
        f"{MANIFEST} or {ABOUT_NAME} of {remote.repo_id} is damaged: {error!r:.200}; push the "
        "store again"
    )


def _checked(remote: Source, manifest: Manifest) -> CodeLayout:
    """The layout, if it is one of codes that can be made; before anything large is fetched."""
    try:
        layout = CodeLayout.of(manifest)
        SparseCodes(
            np.empty((0, layout.k), np.uint8),
            np.empty((0, layout.k), np.float32),
            layout.hidden_dim,
        )
        if manifest.arrays or manifest.label_names:
            raise ValueError("codes have no labels or pairs")
        for number, rows in enumerate(manifest.sizes):
            check_size(layout, rows, data_name(number, len(manifest.sizes)))
    except (ValueError, TypeError) as error:
        raise _damaged(remote, error) from error
    return layout


def _is_there(directory: StoreDirectory, manifest: Manifest, items: str, number: int) -> bool:
    """Whether an earlier run wrote this shard; one that is damaged is written again."""
    if not directory.shard(number).exists():
        return False
    try:
        header = directory.read_header(number)
    except ValueError:
        return False
    if header.items != items:
        refuse_data(directory.path, f"shard {number} there is of other items than on the Hub")
    return header.checksum == manifest.checksums[number]


def _load_shard(
    remote: Source,
    directory: StoreDirectory,
    manifest: Manifest,
    layout: CodeLayout,
    items: str,
    number: int,
) -> None:
    name = data_name(number, len(manifest.sizes))
    if (size := remote.sizes.get(name) or 0) > MOST_SHARD_BYTES:
        raise ValueError(
            f"{name} of {remote.repo_id} has {size:,} bytes; the most is {MOST_SHARD_BYTES:,}"
        )
    table = remote.fetch(name, directory.path / DOWNLOADS)
    try:
        shard = _shard_of(table, directory, manifest, layout, number)
    except ValueError as error:
        raise ValueError(f"{remote.repo_id}: {error}; push the store again") from error
    shape = manifest.sizes[number], manifest.dim
    metadata = _file_metadata(layout, shard.codes)
    directory.write_shard(number, shape, shard.arrays(), items, None, metadata)
    table.unlink()


def _file_metadata(layout: CodeLayout, codes: SparseCodes | PackedCodes) -> Mapping[str, str]:
    """As `CodeEncoding.as_file` gives it."""
    if isinstance(codes, PackedCodes):
        return code_files.metadata("PackedCodes", codes._about())
    about: dict[str, Any] = {"hidden_dim": layout.hidden_dim}
    if layout.residual is not None:
        about["residual"] = layout.residual
    if layout.pursuit:
        about["fitted"] = True
    return code_files.metadata("SparseCodes", about)
