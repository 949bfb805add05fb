"""What all frameworks share: documents and index that change together, and their files."""

from __future__ import annotations

import copy
import hashlib
import json
import multiprocessing
import os
import pickle
import re
import signal
import threading
import time
import tracemalloc

import numpy as np
import pytest

pytest.importorskip("numba")

from csr_st import SparseCodes
from csr_st.frameworks.coding import found_of
from csr_st.frameworks.diversity import Diversity
from csr_st.frameworks.documents import IndexedDocuments, empty_index, for_which
from csr_st.frameworks.folder import load_documents, save_documents


def codes_of(rows):
    """One latent a document: it is found by a query of the same latent alone."""
    indices = np.array([[row] for row in rows], np.uint8)
    return SparseCodes(indices, np.ones((len(rows), 1), np.float32), 100).normalize()


def asking(latent):
    def ask(index, top_k, allowed):
        found = index.search(codes_of([latent]), top_k, filter=allowed, threads=1)
        return found_of(found.ids[0], found.scores[0])

    return ask


@pytest.fixture
def documents():
    found = IndexedDocuments(empty_index(100, 1))
    found.put({f"{n}": n for n in range(10)}, codes_of(range(10)), [""] * 10)
    return found


def test_a_refused_change_leaves_everything(documents):
    wide = SparseCodes(np.array([[1]], np.uint8), np.ones((1, 1), np.float32), 99).normalize()
    with pytest.raises(ValueError, match="hidden_dim=99 and k=1, the index hidden_dim=100"):
        documents.put({"3": 33}, wide, [""])
    with pytest.raises(ValueError, match="lone surrogate"):
        documents.put({"3": 33, "\ud800": 34}, codes_of([3, 3]), ["", ""])
    assert len(documents) == len(documents.index) == 10
    assert documents.search(asking(3), 1) == [("3", 3, pytest.approx(1))]


def test_a_refused_text_leaves_everything():
    pytest.importorskip("bm25s")
    pytest.importorskip("Stemmer")
    documents = IndexedDocuments(empty_index(100, 1, words=True))
    documents.put({"a": 1}, codes_of([1]), ["cat"])
    with pytest.raises(TypeError):
        documents.put({"a": 2}, codes_of([2]), [None])
    assert documents.search(asking(1), 1) == [("a", 1, pytest.approx(1))]


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_what_fails_on_the_way_leaves_everything(documents, monkeypatch, error):
    """Where there was room for the codes, and none for the rest."""

    def fail(*_):
        raise error

    monkeypatch.setattr("csr_st.search.collection.IdLookup.extended", fail)
    with pytest.raises(error):
        documents.put({"3": 33, "new": 1}, codes_of([4, 5]), ["", ""])
    assert list(documents.documents) == documents.index.ids.tolist()
    assert documents.search(asking(3), 1) == [("3", 3, pytest.approx(1))]
    monkeypatch.undo()
    documents.put({"3": 33, "new": 1}, codes_of([4, 5]), ["", ""])
    assert list(documents.documents) == documents.index.ids.tolist()
    found = {id: document for id, document, _ in documents.search(asking(4), 2)}
    assert found == {"3": 33, "4": 4}


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer that interrupts")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_documents_and_index_agree_after_an_interrupt_at_any_moment():
    def interrupt(*_):
        raise KeyboardInterrupt

    n, rng, interrupts = 500, np.random.default_rng(0), 0
    documents = IndexedDocuments(empty_index(100, 1))
    documents.put({f"{row}": 0 for row in range(n)}, codes_of([0] * n), [""] * n)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for latent in np.resize(np.arange(1, 100), 300).tolist():
            ids = [f"{row}" for row in rng.choice(n, 20, replace=False)]
            codes = codes_of([latent] * 20)
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 1e-3))
                    documents.put(dict.fromkeys(ids, latent), codes, [""] * 20)
                    documents.replace(dict.fromkeys(ids[:5], latent))
                    documents.remove(ids[5:7])
                    documents.put(dict.fromkeys(ids[5:7], latent), codes[:2], [""] * 2)
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupts += 1
            assert list(documents.documents) == documents.index.ids.tolist()
            assert n - 2 <= len(documents) <= n
            here = sum(document == latent for document in documents.documents.values())
            found = documents.search(asking(latent), n)
            assert [each for each in found if each[2] > 0] == [
                (id, latent, pytest.approx(1)) for id, *_ in found[:here]
            ]
            missing = {f"{row}" for row in range(n)} - set(documents.documents)
            documents.put(
                dict.fromkeys(missing, latent), codes[: len(missing)], [""] * len(missing)
            )
    finally:
        signal.signal(signal.SIGALRM, before)
    assert interrupts > 20


def holding(lock):
    """A thread that holds a lock until an event is set, and the event."""
    held, done = threading.Event(), threading.Event()

    def hold():
        with lock:
            held.set()
            done.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(60)
    return holder, done


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_a_fork_searches_and_changes_while_another_thread_holds_the_lock(documents):
    holder, done = holding(documents.lock)
    child = os.fork()
    if not child:
        signal.alarm(20)  # ends a child that hangs
        documents.put({"new": 1}, codes_of([50]), [""])
        os._exit(documents.search(asking(50), 1)[0][0] != "new")
    _, status = os.waitpid(child, 0)
    done.set()
    holder.join()
    assert status == 0


def test_a_search_does_not_wait_for_a_change_that_takes_long(documents):
    """Such as a large addition, until the moment at which it is done."""
    found = []
    holder, done = holding(documents.lock)
    searching = threading.Thread(target=lambda: found.extend(documents.search(asking(3), 1)))
    searching.start()
    searching.join(60)
    waited = searching.is_alive()
    done.set()
    holder.join()
    searching.join()
    assert not waited
    assert found == [("3", 3, pytest.approx(1))]


def test_one_id_in_place_of_several_is_refused(documents):
    with pytest.raises(TypeError, match=r"ids are the str '12'; pass a list, \['12'\]"):
        documents.remove("12")
    assert len(documents) == 10
    assert documents.remove(["1", "12", "1"]) == 1


def test_replacing_keeps_the_code_and_adds_nothing(documents):
    documents.replace({"3": 33, "unknown": 0})
    assert documents.search(asking(3), 1) == [("3", 33, pytest.approx(1))]
    assert "unknown" not in documents


def test_a_state_stays_while_the_documents_change(documents):
    index, found = documents.state()
    documents.remove(["3"])
    documents.put({"new": 5}, codes_of([3]), [""])
    assert list(found) == index.ids.tolist() == [f"{n}" for n in range(10)]
    assert index.search(codes_of([3]), 1).ids.tolist() == [["3"]]


def test_a_search_during_which_documents_change_is_asked_again(documents):
    """As when another thread changes them: what is found is of one state."""
    asked = []

    def changing(change):
        def ask(index, top_k, allowed):
            if not asked:
                change()
            asked.append(allowed)
            return asking(3)(index, top_k, allowed)

        return ask

    replaced = changing(lambda: documents.put({"3": 33}, codes_of([4]), [""]))
    found = documents.search(replaced, 3)
    assert [score for *_, score in found] == [0, 0, 0]
    assert asked == [None, None]
    asked.clear()
    # Without asking again: an error, as the filter names a document that is no more.
    some = for_which(lambda document: document in (33, 4, 5))
    found = documents.search(changing(lambda: documents.remove(["3"])), 3, some)
    assert [id for id, *_ in found] == ["4", "5"]
    assert asked == [["4", "5", "3"], ["4", "5"]]
    asked.clear()
    with pytest.raises(ValueError, match="top_k=0"):
        documents.search(changing(lambda: None), 0)


def test_a_copy_is_another_collection(documents):
    for other in (copy.deepcopy(documents), pickle.loads(pickle.dumps(documents))):
        other.remove(["3"])
        assert len(other) == len(other.index) == 9
    assert documents.search(asking(3), 1) == [("3", 3, pytest.approx(1))]


def test_diversity_among_many_candidates_takes_little_memory(rng):
    indices = np.argsort(rng.random((4000, 100)), axis=1)[:, :4].astype(np.uint8)
    codes = SparseCodes(indices, np.ones((4000, 4), np.float32), 100).normalize()
    diversity = Diversity.checked(4000, 0.5, ("candidates", "relevance"))
    tracemalloc.start()
    chosen = diversity.choose(np.ones(4000), codes, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    cosines = codes.to_scipy() @ codes.to_scipy()[chosen].T
    assert chosen[0] == 0
    assert cosines[chosen[1], 0] == cosines[chosen[2], 0] == cosines[chosen[2], 1] == 0
    assert peak < 5_000_000  # a number for each pair of candidates would take 64 MB


def numbered(n):
    """A state of which everything says n: its ids, documents, latents and settings."""
    documents = IndexedDocuments(empty_index(100, 1))
    documents.put({f"{n}-{row}": n for row in range(50)}, codes_of([n % 100] * 50), [""] * 50)
    return documents


def save(path, n):
    index, documents = numbered(n).state()
    save_documents(path, "test", index, documents.items(), {"n": n})


def check_whole(saved):
    n = saved.settings["n"]
    assert set(saved.documents.values()) == {n}
    assert saved.index.ids.tolist() == list(saved.documents) == [f"{n}-{row}" for row in range(50)]
    assert saved.index.search(codes_of([n % 100]), 1).scores[0, 0] == pytest.approx(1)
    return n


def save_for_ever(path, begun):
    begun.set()
    n = 1
    while True:
        save(path, n)
        n += 1


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a signal that cannot be caught")
def test_readers_beside_a_writer_and_after_its_kill_find_a_whole_state(tmp_path):
    path = tmp_path / "store.json"
    save(path, 0)
    spawn = multiprocessing.get_context("spawn")
    seen, kills = set(), np.random.default_rng(0)
    for _ in range(4):
        begun = spawn.Event()
        writer = spawn.Process(target=save_for_ever, args=(path, begun))
        writer.start()
        assert begun.wait(120)
        until = time.monotonic() + 1 + kills.random()
        while time.monotonic() < until:
            seen.add(check_whole(load_documents(path, "test")))
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        check_whole(load_documents(path, "test"))
    assert len(seen) > 4
    save(path, 7)
    assert check_whole(load_documents(path, "test")) == 7
    names = sorted(re.sub("[0-9a-f]{32}", "*", left.name) for left in tmp_path.iterdir())
    wanted = [".store.json.lock", "store-*.index", "store-*.jsonl", "store.json"]
    assert names == wanted  # what the killed writers left is gone


@pytest.mark.parametrize(("call", "wanted"), [(1, 3), (2, 3), (3, 4)])
def test_an_interrupted_save_leaves_a_whole_state(tmp_path, monkeypatch, call, wanted):
    path, calls = tmp_path / "store.json", []
    save(path, 3)

    def interrupt(_):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt

    monkeypatch.setattr("csr_st._io.files.sync_directory", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(path, 4)
    assert check_whole(load_documents(path, "test")) == wanted


def damaged(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "x"}, "is not a csr_st.documents file; its format is 'x'"),
        ({"version": 2}, "format version 2, this csr_st reads up to 1"),
        ({"framework": "other"}, "has documents of 'other', not of 'test'"),
        ({"index": "../store.index"}, "is damaged: it names the files"),
        ({"documents": 3}, "is damaged: it names the files"),
        ({"settings": None}, "is damaged: it has no settings"),
        ({"sha256": "0"}, "is altered"),
        ({"index": f"store-{'0' * 32}.index"}, "which is missing"),
    ],
)
def test_damage_is_named(tmp_path, changes, message):
    path = tmp_path / "store.json"
    save(path, 3)
    damaged(path, **changes)
    with pytest.raises(ValueError, match=message):
        load_documents(path, "test")


@pytest.mark.parametrize(
    "line", [b"3", b"[]", b'["a", 1, 2]', b"{}", b"[[], 1]", b"[" * 100_000, b"\xff"]
)
def test_lines_that_are_no_pairs_are_named(tmp_path, line):
    path = tmp_path / "store.json"
    save(path, 3)
    lines = path.with_name(json.loads(path.read_text())["documents"])
    lines.write_bytes(lines.read_bytes() + line + b"\n")
    damaged(path, sha256=hashlib.sha256(lines.read_bytes()).hexdigest())
    with pytest.raises(ValueError, match=r"store-.*\.jsonl is damaged: a line is no pair"):
        load_documents(path, "test")


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path):
    path, hex = tmp_path / "store.json", "0" * 32
    ours = [f".store.json.{hex}.part", f".store-{hex}.jsonl.{hex}.part", f"store-{hex}.index"]
    others = [f".other.json.{hex}.part", f".{hex}.part", f"store-{hex}.txt", f"other-{hex}.index"]
    for name in ours + others:
        (tmp_path / name).touch()
    save(path, 3)
    left = {each.name for each in tmp_path.iterdir()}
    assert left >= set(others)
    assert not left & set(ours)
    assert len(left) == len(others) + 4  # the three files and the lock


def test_an_index_of_other_documents_is_refused(tmp_path):
    path, other = tmp_path / "store.json", tmp_path / "other.json"
    save(path, 3)
    save(other, 4)
    names = [json.loads(each.read_text())["index"] for each in (path, other)]
    (tmp_path / names[1]).replace(tmp_path / names[0])
    with pytest.raises(ValueError, match="its index has other ids than its documents"):
        load_documents(path, "test")


def test_files_of_other_stores_in_the_folder_stay(tmp_path):
    for name in ("a.json", "a-b.json", "a[x].json"):
        save(tmp_path / name, 1)
    save(tmp_path / "a.json", 2)
    save(tmp_path / "a[x].json", 3)
    found = [
        check_whole(load_documents(tmp_path / name, "test")) for name in ("a.json", "a-b.json")
    ]
    assert found == [2, 1]
    assert len(list(tmp_path.glob("a*"))) == 9
