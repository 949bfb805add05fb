"""What is promised of an index about threads, processes, kills and copies."""

import copy
import hashlib
import multiprocessing
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from killing import in_child

from csr_st.codes import SparseCodes
from csr_st.search import Decoder, SparseIndex
from csr_st.search.documents import Documents
from csr_st.search.results import SearchResults

pytest.importorskip("numba")
HIDDEN_DIM = 64
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")


def random_codes(seed, n, k=4, hidden_dim=HIDDEN_DIM):
    rng = np.random.default_rng(seed)
    indices = np.argsort(rng.random((n, hidden_dim)), axis=1)[:, :k].astype(np.uint32)
    values = -np.sort(-rng.exponential(size=(n, k)).astype(np.float32) - 0.05, axis=1)
    return SparseCodes(indices, values, hidden_dim).normalize()


def same(found, expected):
    return all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.fixture
def index():
    rng = np.random.default_rng(0)
    decoder = Decoder(rng.normal(size=(HIDDEN_DIM, 6)), rng.normal(size=6))
    return SparseIndex.build(random_codes(0, 40_000), decoder=decoder)


@pytest.fixture
def queries():
    return random_codes(1, 8)


def test_sixteen_threads_get_the_results_of_one(index, queries):
    requests = [
        {"k": k, "threads": threads, **more}
        for k in (None, 1, 2, 3, 4)  # more than the inverted indexes that are kept
        for threads in (1, 2)
        for more in ({}, {"rescore": 20, "queries_dense": np.ones((8, 6))})
    ]
    expected = [copy.copy(index).search(queries, **request) for request in requests]
    start = threading.Barrier(16)

    def work(thread):
        start.wait()
        order = np.random.default_rng(thread).permutation(len(requests))
        return [same(index.search(queries, **requests[i]), expected[i]) for i in order]

    with ThreadPoolExecutor(16) as pool:
        assert np.all(list(pool.map(work, range(16))))


def test_searches_during_changes_see_a_whole_state(index, queries):
    base, more = SparseIndex.build(random_codes(0, 40_000)), random_codes(2, 300)
    expected = [base.search(queries)]
    base.add(more)
    expected.append(base.search(queries))
    ended = threading.Event()

    def change():
        for _ in range(30):
            index.add(more, ids=range(40_000, 40_300))
            index.remove(range(40_000, 40_300))
        ended.set()

    with ThreadPoolExecutor(5) as pool:
        changing = pool.submit(change)

        def search(_):
            while not ended.is_set():
                found = index.search(queries)
                assert any(same(found, one) for one in expected)

        list(pool.map(search, range(4)))
        changing.result()


def child_finds(index, queries, expected, seconds=120):
    """Whether a fork of this process finds the same, in time."""

    def work():
        assert same(index.search(queries, threads=2), expected)

    child, end = in_child(work), time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status == 0
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_searches_before_and_after_the_first_search(index, queries):
    expected = copy.copy(index).search(queries)
    assert child_finds(index, queries, expected)
    index.search(queries)
    assert child_finds(index, queries, expected)


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_searches_while_other_threads_hold_the_lock_and_the_pool(index, queries):
    expected = index.search(queries)
    ended, locked = threading.Event(), threading.Event()

    def hold():
        with index._lock:
            locked.set()
            ended.wait()

    def search():
        busy = copy.copy(index)
        while not ended.is_set():
            busy.search(queries, threads=2)

    threads = [threading.Thread(target=work) for work in (hold, search, search)]
    for thread in threads:
        thread.start()
    locked.wait()
    try:
        assert all(child_finds(index, queries, expected, seconds=30) for _ in range(5))
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def through_pickle(item):
    return pickle.loads(pickle.dumps(item))


def search_as_worker(index, queries):
    return index.search(queries, threads=1)


@pytest.mark.slow
def test_a_spawned_process_gets_an_index_and_returns_results(index, queries):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(search_as_worker, (index, queries))
    assert same(found, index.search(queries))


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
@pytest.mark.parametrize("mapped", [False, True])
def test_an_index_is_copied_and_pickled_with_its_content(
    index, queries, tmp_path, mapped, duplicate
):
    index.remove([3, 5])
    index.search(queries)
    if mapped:
        index.save(tmp_path / "a.index")
        index = SparseIndex.load(tmp_path / "a.index")
        pickled = pickle.dumps(index)
        (tmp_path / "a.index").unlink()
        assert same(pickle.loads(pickled).search(queries), index.search(queries))
    other = duplicate(index)
    rescoring = {"rescore": 20, "queries_dense": np.ones((8, 6))}
    assert same(other.search(queries, **rescoring), index.search(queries, **rescoring))
    before = index.search(queries)
    other.add(queries)  # neither sees what happens to the other
    index.remove(index.ids[:100])
    assert (len(other), len(index)) == (40_006, 39_898)
    assert other.search(queries, top_k=1).ids[:, 0].tolist() == list(range(40_000, 40_008))
    index.add(random_codes(5, 8))
    assert index.search(queries).ids.shape == before.ids.shape


def test_codes_documents_and_results_are_copied_and_pickled(index, queries):
    documents = Documents.from_codes(queries)
    for item in (queries, documents, index.search(queries)):
        for other in (copy.deepcopy(item), pickle.loads(pickle.dumps(item))):
            assert type(other) is type(item)
            fields = item._fields if isinstance(item, SearchResults) else list(vars(item))
            for name in fields:
                one, two = getattr(item, name), getattr(other, name)
                assert not isinstance(one, np.ndarray) or np.array_equal(one, two)


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_eight_readers_map_an_index_while_one_rewrites_it(queries, tmp_path):
    path, stop = tmp_path / "a.index", tmp_path / "stop"
    versions = [SparseIndex.build(random_codes(seed, 3000 + seed)) for seed in (2, 3)]
    expected = [version.search(queries) for version in versions]
    versions[0].save(path)

    def read():
        loads, seen = 0, set()
        while not stop.exists() or len(seen) < 2:
            index = SparseIndex.load(path, verify=loads % 2 == 0)
            found = index.search(queries, threads=1)
            version = [same(found, one) for one in expected].index(True)  # one of them, unmixed
            assert len(index) == len(versions[version])
            seen.add(version)
            loads += 1

    readers = [in_child(read) for _ in range(8)]
    for number in range(200):
        versions[number % 2].save(path)
    stop.touch()
    ended = {}
    while len(ended) < 8:  # each reader waits until it has seen both
        for version in versions:
            version.save(path)
            time.sleep(0.05)
        for reader in set(readers) - set(ended):
            child, status = os.waitpid(reader, os.WNOHANG)
            if child:
                ended[reader] = status
    assert set(ended.values()) == {0}


def start(script):
    """A Python process that knows this file."""
    here = os.path.dirname(os.path.abspath(__file__))
    head = f"import sys; sys.path[:0] = [{here!r}, {os.path.dirname(here)!r}]\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + script],
        stdout=subprocess.PIPE,
        text=True,
    )


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_kill_at_any_moment_of_saving_leaves_the_old_or_the_new_file(tmp_path):
    path = tmp_path / "a.index"
    versions = [SparseIndex.build(random_codes(seed, 30_000 + seed)) for seed in (2, 3)]
    contents = set()
    for version in versions:
        version.save(path)
        contents.add(hashlib.sha256(path.read_bytes()).hexdigest())
    begin = time.perf_counter()
    versions[0].save(path)
    seconds = time.perf_counter() - begin
    rng = np.random.default_rng(0)
    killed = 0
    for number in range(20):
        child = in_child(lambda number=number: versions[number % 2].save(path))
        time.sleep(rng.uniform(0, 1.2 * seconds))
        os.kill(child, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        assert hashlib.sha256(path.read_bytes()).hexdigest() in contents
        SparseIndex.load(path)
    assert killed > 3


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_full_disk_keeps_the_old_file_and_leaves_nothing_behind(index, tmp_path):
    path = tmp_path / "a.index"
    SparseIndex.build(random_codes(2, 10)).save(path)
    content = path.read_bytes()

    def save():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write fails as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        with pytest.raises(OSError, match="large"):
            index.save(path)

    assert os.waitpid(in_child(save), 0)[1] == 0
    assert path.read_bytes() == content
    assert [item.name for item in tmp_path.iterdir()] == ["a.index"]


def test_a_truncated_or_altered_file_is_refused(index, tmp_path):
    path = tmp_path / "a.index"
    index.save(path)
    content = path.read_bytes()
    for kept in (0, 7, 8, 300, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:kept])
        for verify in (True, False):
            with pytest.raises(ValueError, match=r"a\.index"):
                SparseIndex.load(path, verify=verify)
    for place in np.random.default_rng(0).integers(0, len(content), 10):
        altered = bytearray(content)
        altered[place] ^= 1
        path.write_bytes(altered)
        with pytest.raises(ValueError, match=r"a\.index"):
            SparseIndex.load(path)


CODES = """
import time
import numpy as np
from csr_st.codes import SparseCodes
from csr_st.search import SparseIndex

n = 400_000
rng = np.random.default_rng(0)
indices = ((np.arange(32) * 32) + rng.integers(0, 32, (n, 32))).astype(np.uint16)
values = np.sort(rng.random((n, 32), np.float32) + 0.1, axis=1)[:, ::-1].copy()
codes = SparseCodes(indices, values, 1024)
names = [f"d{i}" for i in range(n)]
index = SparseIndex.build(codes)
index.search(codes[:2], top_k=2)  # compiles

def build(threads):
    SparseIndex.build(codes, ids=names).search(codes[:1], threads=threads)

def search(threads):
    index.search(codes[:100_000], top_k=100, threads=threads)

works = build, search
"""

WORDS = """
import time
import numpy as np
from csr_st.search import SparseIndex

rng = np.random.default_rng(0)
usage = 1 / np.arange(1, 20_001)
names = np.array([f"w{number}" for number in range(20_000)])
rows = names[rng.choice(20_000, (40_000, 50), p=usage / usage.sum())]
texts = [" ".join(row) for row in rows]
long = [" ".join(texts[:2000])] * 50
index = SparseIndex.build(words=texts)
index.search(words=texts[:2], top_k=2)  # compiles

def build(threads):
    SparseIndex.build(words=texts + long).search(words=texts[:1], threads=threads)

def search(threads):
    index.search(words=texts[:20_000], top_k=100, threads=threads)

works = build, search
"""

LOOP = """
for work in works:
    for threads in (1, 2, 1, 2, 1, 2):
        try:
            print("started", flush=True)
            while True:
                work(threads)
        except KeyboardInterrupt:
            print(time.monotonic(), flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("script", [CODES, WORDS], ids=["codes", "words"])
def test_an_interrupt_ends_a_long_build_or_search_within_a_second(script):
    with start(script + LOOP) as process:
        waits = []
        for pause in (0.5, 0.9, 1.4, 2.0, 2.5, 3.1) * 2:
            assert process.stdout.readline() == "started\n"
            time.sleep(pause)
            begin = time.monotonic()
            process.send_signal(signal.SIGINT)
            waits.append(float(process.stdout.readline()) - begin)
    # Beside other work each second of this process takes longer.
    assert max(waits) < max(1, os.getloadavg()[0] / (os.cpu_count() or 1))
