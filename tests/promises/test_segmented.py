"""What is promised of an index in a folder: see the docstring of `csr_st.SegmentedIndex`."""

import copy
import json
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from killing import in_child

from csr_st import SegmentedIndex, SparseIndex
from csr_st.codes import SparseCodes

pytest.importorskip("numba")
HIDDEN_DIM, K = 64, 4
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
forks = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def code_of(document, version=0):
    """The code of a version of a document, unlike every other."""
    rng = np.random.default_rng([document, version])
    indices = rng.permutation(HIDDEN_DIM)[:K].astype(np.uint32)
    values = -np.sort(-rng.exponential(size=K).astype(np.float32) - 0.05)
    return indices, values


def codes_of(documents, version=0):
    rows = [code_of(document, version) for document in documents]
    indices, values = (np.array(column) for column in zip(*rows, strict=True))
    return SparseCodes(indices, values, HIDDEN_DIM).normalize()


def same(found, expected):
    return all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.fixture
def folder(tmp_path):
    SegmentedIndex.create(tmp_path / "index", codes_of(range(100)), merging="asked").close()
    return tmp_path / "index"


# What the child does: each change is written down before it begins and after it returned.


def change_for_ever(folder, journal, seed):
    rng = np.random.default_rng(seed)
    with journal.open("a") as notes, SegmentedIndex.open(folder) as index:
        while True:
            ids = index.ids
            kind = rng.choice(["add", "add", "remove", "replace", "merge"])
            version = int(rng.integers(1, 2**31))
            if kind == "add":
                first = 1 + max(ids.max(initial=0), int(rng.integers(0, 1000)))
                chosen = list(range(first, first + int(rng.integers(1, 30))))
            else:
                chosen = rng.choice(ids, min(len(ids) - 1, int(rng.integers(1, 15))), replace=False)
                chosen = [] if kind == "merge" else sorted(chosen.tolist())
            change = {"kind": str(kind), "ids": chosen, "version": version}
            print(json.dumps(change), file=notes, flush=True)
            if kind == "merge":
                index.merge()
            elif kind == "remove":
                index.remove(chosen)
            else:
                index.add(codes_of(chosen, version), chosen, replace=kind == "replace")
            print("done", file=notes, flush=True)


def changed(state, change):
    state = dict(state)
    for document in change["ids"]:
        if change["kind"] == "remove":
            del state[document]
        else:
            state[document] = change["version"]
    return state


def states_after(state, journal):
    """What must be there: one state, or that before and after the last change."""
    pending = None
    for line in journal.read_text().splitlines():
        if line == "done":
            state, pending = changed(state, pending), None
        else:
            pending = json.loads(line)
    return [state] if pending is None else [state, changed(state, pending)]


def has(index, state):
    """Whether an index has just these documents: each is found by its code, and found once."""
    ids = index.ids.tolist()
    if len(ids) != len(set(ids)) or set(ids) != set(state) or len(index) != len(ids):
        return False
    versions = [code_of(document, state[document]) for document in ids]
    indices, values = (np.array(column) for column in zip(*versions, strict=True))
    found = index.search(SparseCodes(indices, values, HIDDEN_DIM).normalize(), 2)
    assert (found.scores[:, 1] < 0.9999).all()
    return found.ids[:, 0].tolist() == ids and bool((found.scores[:, 0] > 0.9999).all())


def kill_again_and_again(folder, tmp_path, kills, seed):
    rng = np.random.default_rng(seed)
    state = dict.fromkeys(range(100), 0)
    done = after = 0
    for number in range(kills):
        journal = tmp_path / f"journal-{number}"
        child = in_child(lambda journal=journal, number=number: change_for_ever(
            folder, journal, [seed, number]))  # fmt: skip
        while not journal.exists() or not journal.stat().st_size:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.2))
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        possible = states_after(state, journal)
        index = SegmentedIndex.open(folder, verify=True, merging="asked")
        held = [one for one in possible if has(index, one)]
        assert held, f"after kill {number}"
        state, done = held[0], done + journal.read_text().count("done")
        after += len(possible) > 1 and held[0] is possible[1]
    return done, after


@needs_fork
@forks
def test_a_kill_at_any_moment_loses_no_document_and_doubles_none(folder, tmp_path):
    assert kill_again_and_again(folder, tmp_path, 10, 0)[0] > 10


@pytest.mark.slow
@needs_fork
@forks
def test_a_hundred_kills_lose_no_document_and_double_none(folder, tmp_path):
    done, after = kill_again_and_again(folder, tmp_path, 100, 1)
    assert done > 100
    assert after >= 0
    index = SegmentedIndex.open(folder)
    index.add(codes_of([10**6]), [10**6])
    named = {name for entry in index._folder.state.entries for name in entry.files()}
    left = {path.name for path in folder.iterdir()} - named
    assert left <= {"segments.json", ".writing.lock", ".merging.lock"}


@needs_fork
@forks
def test_a_killed_create_can_be_called_again(tmp_path):
    codes = codes_of(range(2000))
    for number in range(8):
        folder = tmp_path / f"{number % 2}"
        child = in_child(lambda folder=folder: SegmentedIndex.create(folder, codes))
        time.sleep(0.004 * number)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if (folder / "segments.json").exists():
            assert len(SegmentedIndex.open(folder, verify=True)) == 2000
            shutil.rmtree(folder)
        assert len(SegmentedIndex.create(folder, codes)) == 2000
        shutil.rmtree(folder)


@needs_fork
@forks
def test_a_full_disk_keeps_the_index_as_it_was(folder):
    def add():
        index = SegmentedIndex.open(folder)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write fails as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        for change in (lambda: index.add(codes_of(range(1000, 1500))), lambda: index.merge()):
            if change is not None:
                try:
                    change()
                except OSError as error:
                    assert "large" in str(error)  # noqa: PT017
        assert len(index) == 100

    assert os.waitpid(in_child(add), 0)[1] == 0
    index = SegmentedIndex.open(folder, verify=True)
    assert has(index, dict.fromkeys(range(100), 0))
    index.add(codes_of([100]))
    assert len(list(folder.glob("*.part"))) == 0


class Recorder:
    """The states of an index while one thread changes it."""

    def __init__(self, state):
        self.states = [dict(state)]
        self.begun = self.ended = 0

    def change(self, work, state):
        self.states.append(dict(state))
        self.begun += 1
        work()
        self.ended += 1


def write_at_random(index, recorder, seed, stop):
    rng = np.random.default_rng(seed)
    state, following = dict(recorder.states[0]), 1000
    while not stop.is_set():
        kind = rng.choice(["add", "add", "remove", "replace", "merge"])
        if len(state) < 50 or len(state) > 500:
            kind = "add" if len(state) < 50 else "remove"
        chosen = sorted(rng.choice(list(state), 12, replace=False).tolist())
        version = int(rng.integers(1, 2**31))
        if kind == "add":
            chosen = list(range(following, following + int(rng.integers(1, 20))))
            following += len(chosen)
        after = {key: state[key] for key in state if kind == "merge" or key not in set(chosen)}
        if kind in ("add", "replace"):
            after |= dict.fromkeys(chosen, version)
        work = {
            "add": lambda c=chosen, v=version: index.add(codes_of(c, v), c),
            "replace": lambda c=chosen, v=version: index.add(codes_of(c, v), c, replace=True),
            "remove": lambda c=chosen: index.remove(c),
            "merge": index.merge,
        }[kind]
        recorder.change(work, after)
        state = after


def brute_force(state, queries, top_k):
    """The scores of the best documents of a state, and of all by id."""
    documents = list(state)
    rows = [code_of(document, state[document]) for document in documents]
    indices, values = (np.array(column) for column in zip(*rows, strict=True))
    matrix = SparseCodes(indices, values, HIDDEN_DIM).normalize().to_dense()
    scores = queries.to_dense() @ matrix.T
    return -np.sort(-scores, axis=1)[:, :top_k], dict(zip(documents, scores.T, strict=True))


def is_of(found, best, scores):
    """Whether a result is that of a state."""
    rows = range(len(best))
    known = [[scores.get(int(one)) for one in found.ids[row]] for row in rows]
    if any(one is None for row in known for one in row):
        return False
    own = np.array([[one[row] for one in known[row]] for row in rows])
    return np.allclose(own, found.scores, atol=1e-5) and np.allclose(best, found.scores, atol=1e-5)


def search_beside_a_writer(folder, readers, seconds):
    index = SegmentedIndex.open(folder)
    queries, stop = codes_of(range(5000, 5003)), threading.Event()
    recorder, found = Recorder(dict.fromkeys(range(100), 0)), []

    def read(_):
        while not stop.is_set():
            first = recorder.ended
            result = index.search(queries, 10)
            found.append((first, recorder.begun, result))
            time.sleep(0.002)

    with ThreadPoolExecutor(readers + 1) as pool:
        writing = pool.submit(write_at_random, index, recorder, 0, stop)
        reading = [pool.submit(read, number) for number in range(readers)]
        end = time.monotonic() + seconds
        while time.monotonic() < end and not writing.done():
            time.sleep(0.05)
        stop.set()
        for each in (writing, *reading):
            each.result()
    index.close()
    expected = {}
    for first, last, result in found:
        for number in range(first, last + 1):
            if number not in expected:
                expected[number] = brute_force(recorder.states[number], queries, 10)
        assert any(is_of(result, *expected[number]) for number in range(first, last + 1))
    assert has(index, recorder.states[-1])
    return len(found), recorder.ended


def test_each_search_beside_a_writer_sees_one_state(folder):
    searches, changes = search_beside_a_writer(folder, 4, 3)
    assert searches > 20
    assert changes > 5


@pytest.mark.slow
def test_eight_threads_beside_a_writer_for_a_minute_see_one_state_each(folder):
    searches, changes = search_beside_a_writer(folder, 8, 60)
    assert searches > 500
    assert changes > 100


@needs_fork
@forks
def test_processes_that_read_see_whole_states_when_they_ask(folder, tmp_path):
    stop, queries = tmp_path / "stop", codes_of(range(200, 206))
    index = SegmentedIndex.open(folder, merging="asked")
    one = SparseIndex.build(codes_of(range(100)))
    expected = [one.search(queries)]
    one.add(queries, range(200, 206))
    expected.append(one.search(queries))

    def read():
        reader, seen = SegmentedIndex.open(folder, merging="asked"), set()
        while not stop.exists() or len(seen) < 2:
            reader.refresh()
            result = reader.search(queries, threads=1)
            seen.add([same(result, each) for each in expected].index(True))

    readers = [in_child(read) for _ in range(6)]
    ended = {}
    while len(ended) < 6:
        index.add(queries, range(200, 206))
        time.sleep(0.01)
        index.remove(range(200, 206))
        if index.n_segments > 5:
            index.merge()
        if len(ended) == 0 and index._folder.state.generation > 60:
            stop.touch()
        for reader in set(readers) - set(ended):
            child, status = os.waitpid(reader, os.WNOHANG)
            if child:
                ended[reader] = status
    assert set(ended.values()) == {0}


@needs_fork
@forks
def test_processes_that_write_follow_each_other(folder):
    def write(first):
        index = SegmentedIndex.open(folder)
        for document in range(first, first + 20):
            index.add(codes_of([document]), [document])
        index.remove([first])
        index.close()

    children = [in_child(lambda first=first: write(first)) for first in (1000, 2000, 3000)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    index = SegmentedIndex.open(folder, verify=True)
    there = [*range(100), *(f + i for f in (1000, 2000, 3000) for i in range(1, 20))]
    assert has(index, dict.fromkeys(there, 0))


@needs_fork
@forks
def test_a_fork_searches_and_writes_while_other_threads_hold_the_locks(folder):
    index, queries = SegmentedIndex.open(folder), codes_of(range(3))
    expected = index.search(queries)
    locked, ended = threading.Event(), threading.Event()

    def hold():
        with index._folder.lock, index._folder._merge_lock:
            locked.set()
            ended.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    locked.wait()

    def work():
        assert same(index.search(queries), expected)
        index.add(codes_of([500]), [500])
        index.merge()

    try:
        assert os.waitpid(in_child(work), 0)[1] == 0
    finally:
        ended.set()
        thread.join()
    assert index.refresh()
    assert 500 in index.ids


def search_as_worker(index, queries):
    return index.search(queries, threads=1)


@pytest.mark.slow
def test_a_spawned_process_opens_the_folder(folder):
    index, queries = SegmentedIndex.open(folder), codes_of(range(3))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(search_as_worker, (index, queries))
    assert same(found, index.search(queries))


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, "pickle"])
def test_copies_and_pickles_open_the_folder_again(folder, duplicate):
    index = SegmentedIndex.open(folder)
    through = (
        (lambda item: pickle.loads(pickle.dumps(item))) if duplicate == "pickle" else duplicate
    )
    other = through(index)
    other.add(codes_of([500]), [500])
    assert (len(index), len(other)) == (100, 101)
    assert index.refresh()
    queries = codes_of([500, 3])
    assert same(index.search(queries), other.search(queries))


def test_an_interrupt_ends_a_change_and_leaves_the_index(folder):
    index = SegmentedIndex.open(folder, merging="asked")
    main = threading.get_ident()

    class Interrupting:
        """Codes whose reader presses Ctrl-C at the second shard."""

        def __len__(self):
            return 200

        def shards(self):
            yield codes_of(range(100))
            signal.pthread_kill(main, signal.SIGINT)
            time.sleep(5)
            yield codes_of(range(100))

    with pytest.raises(KeyboardInterrupt):
        index.add(Interrupting())
    assert has(index, dict.fromkeys(range(100), 0))
    index.add(codes_of([100]))
    assert has(SegmentedIndex.open(folder, verify=True), dict.fromkeys(range(101), 0))
    assert not list(folder.glob("*.part"))


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # files whose opening was interrupted
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_one_object_goes_on_after_an_interrupt_at_any_moment(folder):
    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    rng, state, interrupts = np.random.default_rng(0), dict.fromkeys(range(100), 0), 0
    index = SegmentedIndex.open(folder)
    try:
        for number in range(150):
            chosen = [1000 + number] if number % 3 else [max(state)]
            after = changed(
                state, {"kind": "add" if number % 3 else "remove", "ids": chosen, "version": 0}
            )
            ended, codes = False, codes_of(chosen)
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-4, 6e-3))
                    index.add(codes, chosen) if number % 3 else index.remove(chosen)
                    ended = True
                    index.merge()
                finally:  # where it may be interrupted too
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except (KeyboardInterrupt, TypeError):  # pathlib's open, interrupted, is a TypeError
                interrupts += 1
            index.refresh()
            ids = index.ids.tolist()
            assert len(ids) == len(set(ids))
            assert set(ids) in ([set(after)] if ended else [set(state), set(after)])
            state = {document: 0 for document in ids}
    finally:
        signal.signal(signal.SIGALRM, before)
    index.close()
    assert interrupts > 20
    assert has(SegmentedIndex.open(folder, verify=True), state)


@needs_fork
@forks
def test_many_small_segments_do_not_keep_their_files_open(folder):
    def add():
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        index = SegmentedIndex.open(folder, merging="asked")
        for document in range(200, 300):
            index.add(codes_of([document]), [document])
        assert index.n_segments == 101
        index.merge()
        assert has(index, dict.fromkeys([*range(100), *range(200, 300)], 0))

    assert os.waitpid(in_child(add), 0)[1] == 0


def test_an_index_made_anew_in_the_same_folder_is_another(folder):
    server = SegmentedIndex.open(folder)
    shutil.rmtree(folder)
    SegmentedIndex.create(folder, codes_of(range(500, 600)), range(500, 600)).close()
    with pytest.raises(ValueError, match="id 3 is not in the index of 100 documents"):
        server.remove([3])
    assert has(server, dict.fromkeys(range(500, 600), 0))


def test_other_threads_run_during_a_search(tmp_path):
    # The interpreter's lock is free in the loops: this thread counts while another one searches.
    codes = codes_of(range(3000))
    index = SegmentedIndex.create(tmp_path / "index", SparseCodes.concatenate([codes] * 20))
    index.search(codes[:1], threads=1)
    queries = SparseCodes.concatenate([codes] * 3)
    searching = threading.Thread(target=lambda: index.search(queries, 100, threads=1))
    searching.start()
    counted = 0
    while searching.is_alive():
        time.sleep(0.001)
        counted += 1
    searching.join()
    assert counted > 5
