"""Embedding runs in processes of their own, for tests that kill or count them.

``python embedding_runs.py kill DIRECTORY KILLS SEED``: starts an embedding run again and again,
kills it with SIGKILL at random moments, lets the last one end, and prints how many were killed.

``python embedding_runs.py full DIRECTORY`` and ``read-only``: embed on a full disk, and where this
user may not write; print what came of it.

``accelerate launch ... embedding_runs.py once DIRECTORY [FAILING_RANK]``: embeds once.
"""

import ctypes
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import datasets
from embedding_stub import StubModel, vector_of
from killing import in_child, kill_at_random

from csr_st.embeddings import EmbeddingStore

TEXTS = [f"text {i}" for i in range(400)]


class SlowModel(StubModel):
    def encode(self, items, **options):
        time.sleep(0.002)
        return super().encode(items, **options)


def embed(path, model=None):
    """40 shards with string labels, from a stream of pairs' texts."""
    labels = [f"class {i % 7}" for i in range(len(TEXTS))]
    data = datasets.Dataset.from_dict({"text": TEXTS, "label": labels})
    return EmbeddingStore.embed(
        model or SlowModel(),
        data.to_iterable_dataset() if path.endswith("stream") else data,
        path,
        text_column="text",
        label_column="label",
        shard_rows=10,
    )


def kill(path, kills, seed):
    killed, _ = kill_at_random(
        lambda: embed(path), lambda: embed(path + ".whole" + path[-6:]), kills, seed
    )
    print(killed)  # noqa: T201 - what the test reads


def on_a_full_disk(path):
    """Embed onto a file system of 64 KiB until it is full, then again with room."""
    libc = ctypes.CDLL(None, use_errno=True)
    path.mkdir()
    private, size = 0x20000, b"size=64k"  # CLONE_NEWNS: no other process sees the mounts
    if libc.unshare(private) or libc.mount(None, b"/", None, 0x44000, None):
        return "no mount"
    if libc.mount(b"none", bytes(path), b"tmpfs", 0, size):
        return "no mount"
    options = {"dtype": "float32", "shard_rows": 10}
    said = ""
    try:
        EmbeddingStore.embed(StubModel(), TEXTS, path / "s", **options)
    except OSError as error:
        said = str(error)
    written = sorted((path / "s").glob("shard*"))
    assert 0 < len(written) < 40
    assert not list((path / "s").glob(".*.part"))
    assert libc.mount(None, bytes(path), None, 0x20, b"size=8m") == 0  # MS_REMOUNT
    model = StubModel()
    store = EmbeddingStore.embed(model, TEXTS, path / "s", **options)
    store.verify()
    assert model.embedded == len(TEXTS) - 10 * len(written)
    assert store.vectors().tolist() == [vector_of(text).tolist() for text in TEXTS]
    return f"{said}; as one that was never interrupted"


def in_a_read_only_folder():
    """Read and embed where this user may not write; root is another user meanwhile."""
    folder = Path(tempfile.mkdtemp())  # pytest's own folder is closed to other users
    EmbeddingStore.embed(StubModel(), TEXTS, folder / "s")
    for path in (folder / "s", folder):
        path.chmod(0o555)
    ended = os.waitpid(in_child(lambda: print(_embed_there(folder), flush=True)), 0)  # noqa: T201
    for path in (folder, folder / "s"):
        path.chmod(0o755)
    shutil.rmtree(folder)
    assert ended[1] == 0


def _embed_there(folder):
    if os.getuid() == 0:
        os.setuid(65534)
    store = EmbeddingStore.open(folder / "s")
    again = EmbeddingStore.embed(StubModel(), TEXTS, folder / "s")
    assert (store.vectors() == again.vectors()).all()
    said = ""
    try:
        EmbeddingStore.embed(StubModel(), TEXTS, folder / "t")
    except PermissionError as error:
        said = str(error)
    return f"read; embed: {said}"


if __name__ == "__main__":
    if sys.argv[1] == "kill":
        kill(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    elif sys.argv[1] == "full":
        print(on_a_full_disk(Path(sys.argv[2])))  # noqa: T201
    elif sys.argv[1] == "read-only":
        in_a_read_only_folder()
    else:
        failing = sys.argv[3:] == [os.environ["RANK"]]
        embed(sys.argv[2], SlowModel(break_at=2 if failing else None))
