"""Documents and their index on disk: one JSON file that names two others, all of one state.

The two others, the index and the documents as lines of JSON, get new names each time; they count
once the first file, written last, names them. So a save that is killed leaves the state before it,
and readers beside a writer see one state. Nothing is pickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from csr_st._io.files import (
    atomic_path,
    read_json,
    refuse_newer_format,
    target_of_part,
    write_atomically,
)
from csr_st.search import SparseIndex

FORMAT = "csr_st.documents"
FORMAT_VERSION = 1
CODER_SETTINGS = {"query_k": (int, type(None)), "rescore": (int,)}  # of stores that encode
MANIFEST = "documents.json"  # in a folder; a framework may choose another name
_TRIES = 5  # as often as a reader begins anew when a writer removes the files it was about to open

Document = TypeVar("Document")


@dataclass(frozen=True)
class Saved:
    """What was saved.

    Attributes:
        index: The index, memory-mapped.
        documents: By id, in the order of the index, as JSON has them.
        settings: Settings of the store.
    """

    index: SparseIndex
    documents: dict[str, Any]
    settings: dict[str, Any]


def save_documents(
    path: Path,
    framework: str,
    index: SparseIndex,
    documents: Iterable[tuple[str, Any]],
    settings: Mapping[str, Any],
    others: Mapping[str, Any] | None = None,
) -> None:
    """Write documents and their index, completely or not at all.

    Args:
        path: The JSON file, in whose folder the others are written.
        framework: Whose documents they are.
        index: The index.
        documents: Id and what JSON shall have of it, of every document of the index.
        settings: Settings of the store.
        others: Further entries of the JSON file, for programs that take it for one of theirs.

    Raises:
        TypeError: If a document has something that JSON cannot express.
        ValueError: If JSON would change it. What was there stays.
        OSError: If the disk is full or refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        begin = path.with_name(f"{path.stem}-{uuid.uuid4().hex}")
        codes, lines = (begin.with_name(f"{begin.name}.{ending}") for ending in ("index", "jsonl"))
        try:
            index.save(codes)
            n, sha256 = _write_lines(lines, documents)
            about = {"format": FORMAT, "version": FORMAT_VERSION, "framework": framework}
            files = {"index": codes.name, "documents": lines.name, "n": n, "sha256": sha256}
            more = {"settings": dict(settings), **(others or {})}
            write_atomically(path, json.dumps({**about, **files, **more}))
        except BaseException:
            # Not where it came too late, such as Ctrl-C when all is written
            if not path.exists() or codes.name.encode() not in path.read_bytes():
                codes.unlink(missing_ok=True)
                lines.unlink(missing_ok=True)
            raise
        for old in path.parent.iterdir():  # also of a process that was killed
            target = target_of_part(old.name)
            if target == path.name or (
                old not in (codes, lines) and _is_ours(path, target or old.name)
            ):
                with contextlib.suppress(OSError):  # Windows keeps a file that is mapped
                    old.unlink()


def _is_ours(path: Path, name: str) -> bool:
    return re.fullmatch(rf"{re.escape(path.stem)}-[0-9a-f]{{32}}\.(index|jsonl)", name) is not None


def _write_lines(path: Path, documents: Iterable[tuple[str, Any]]) -> tuple[int, str]:
    digest, n = hashlib.sha256(), 0
    with atomic_path(path) as part, part.open("wb") as file:
        for id, document in documents:
            line = f"{_as_json(id, document)}\n".encode()
            digest.update(line)
            file.write(line)
            n += 1
    return n, digest.hexdigest()


def _as_json(id: str, document: Any) -> str:
    with refuse_changed(f"document {id!r}") as check:
        line = json.dumps([id, document], allow_nan=False)
        check(json.loads(line)[1], document)
    return line


@contextlib.contextmanager
def refuse_changed(what: str) -> Iterator[Callable[[Any, Any], None]]:
    """A block that writes something as JSON, and calls what is given with both to compare them.

    Raises:
        TypeError: If JSON cannot express it.
        ValueError: If JSON cannot express it, or it was changed.
    """
    fix = "keep text, numbers, bools, None, and lists and dicts of them (with str keys) in it"
    changed = False

    def check(read: Any, written: Any) -> None:
        nonlocal changed
        changed = read != written

    try:
        yield check
    except (TypeError, ValueError, RecursionError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{what} cannot be saved as JSON: {error}; {fix}") from error
    if changed:
        raise ValueError(f"{what} would be another one after it was saved as JSON; {fix}")


def load_documents(
    path: Path, framework: str, settings: Mapping[str, tuple[type, ...]] | None = None
) -> Saved:
    """Read what `save_documents` wrote.

    Args:
        path: The JSON file.
        framework: Whose documents it has.
        settings: Names and types of the settings of the store; None to take any.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, newer, or of another framework.
    """
    saved = _loaded(path, framework)
    if settings is not None:
        found = {name: type(value) for name, value in saved.settings.items()}
        if found.keys() != settings.keys() or any(
            kind not in settings[name] for name, kind in found.items()
        ):
            raise ValueError(
                f"{path} is damaged: its settings are {saved.settings!r:.200}, not "
                f"{', '.join(settings) or 'none'}"
            )
    return saved


def _loaded(path: Path, framework: str) -> Saved:
    for left in reversed(range(_TRIES)):
        manifest = _manifest(path, framework)
        try:
            return _opened(path, manifest)
        except FileNotFoundError as error:
            if not left or _manifest(path, framework) == manifest:
                raise ValueError(f"{path} names {error.filename}, which is missing") from error
    raise AssertionError


def _manifest(path: Path, framework: str) -> dict[str, Any]:
    found: dict[str, Any] = read_json(path)
    if found.get("format") != FORMAT:
        raise ValueError(f"{path} is not a {FORMAT} file; its format is {found.get('format')!r}")
    refuse_newer_format(path, found.get("version"), FORMAT_VERSION)
    if found.get("framework") != framework:
        raise ValueError(
            f"{path} has documents of {found.get('framework')!r}, not of {framework!r}; open it "
            "with the store that wrote it"
        )
    names = found.get("index"), found.get("documents")
    if not all(isinstance(name, str) and _is_ours(path, name) for name in names):
        raise ValueError(f"{path} is damaged: it names the files {names}")
    if not isinstance(found.get("settings"), dict):
        raise ValueError(f"{path} is damaged: it has no settings")
    return found


def _opened(path: Path, manifest: Mapping[str, Any]) -> Saved:
    index = SparseIndex.load(path.with_name(manifest["index"]))
    content = path.with_name(manifest["documents"]).read_bytes()
    if hashlib.sha256(content).hexdigest() != manifest.get("sha256"):
        raise ValueError(
            f"{path.with_name(manifest['documents'])} is altered: its checksum is not the one in "
            f"{path}; copy the folder again"
        )
    try:
        documents = {id: document for id, document in map(json.loads, content.splitlines())}
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path.with_name(manifest['documents'])} is damaged: a line is no pair of an id and a "
            f"document ({error})"
        ) from error
    if list(documents) != index.ids.tolist():
        raise ValueError(f"{path} is damaged: its index has other ids than its documents")
    return Saved(index, documents, manifest["settings"])


def restored(
    path: Path, documents: Mapping[str, Any], make: Callable[[str, Any], Document]
) -> dict[str, Document]:
    """Documents of a framework, of what JSON has of them.

    Raises:
        ValueError: If one cannot be made.
    """
    found = {}
    for id, document in documents.items():
        try:
            found[id] = make(id, document)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path} is damaged: document {id!r}: {error!r}") from error
    return found
