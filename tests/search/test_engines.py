"""Engines against the exact index, each on the real thing."""

import contextlib
import copy
import json
import os
import pickle
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import scipy.sparse
from stores import CLIENT_WARNINGS, HIDDEN_DIM, KINDS, needs, open_engine, random_codes, start

from csr_st.codes import SparseCodes
from csr_st.search import HybridVectors, SparseIndex

pytestmark = [pytest.mark.engines, *CLIENT_WARNINGS]


@pytest.fixture(params=KINDS)
def store(request, tmp_path):
    """Kind, place and name of a store of this test alone, for `open_engine`."""
    needs(*KINDS[request.param][1:])
    if request.param == "pgvector":
        place = request.getfixturevalue("postgres")
    else:
        place = str(tmp_path / ("m.db" if request.param == "milvus" else "q"))
    return request.param, place, f"t{abs(hash(request.node.name))}"


@pytest.fixture
def opener(store):
    """Opens the same store each time it is called."""
    return lambda hidden_dim=HIDDEN_DIM: open_engine(*store, hidden_dim)


def test_returns_the_exact_top_10(opener):
    documents, queries = random_codes(0, 1500), random_codes(1, 12)
    ids = np.arange(1500) * 3 + 1
    with opener() as engine:
        assert engine.add(documents, ids=ids, batch_size=400, progress=False) == 1500
        assert len(engine) == 1500
        results = engine.search(queries, top_k=10)
    expected = SparseIndex.build(documents, ids=ids).search(queries, top_k=10)
    np.testing.assert_allclose(results.scores, expected.scores, atol=1e-5)
    np.testing.assert_array_equal(results.ids, expected.ids)


def test_more_than_one_request_holds(opener):
    """More queries, and more ids of a filter and of a removal, than are sent at once."""
    documents, queries = random_codes(0, 1300, k=3), random_codes(1, 230, k=12)
    some = np.arange(20, 1250)
    index = SparseIndex.build(documents)
    with opener() as engine:
        engine.add(documents, batch_size=650, progress=False)
        for filter in (None, some):
            found = engine.search(queries, 5, filter=filter)
            expected = index.search(queries, 5, filter=filter)
            np.testing.assert_array_equal(
                found.ids, np.where(expected.scores > 0, expected.ids, -1)
            )
        with pytest.raises(ValueError, match="id 1300 is not among the 1300"):
            engine.remove([*some, 1300])
        engine.remove(some)
        left = np.setdiff1d(np.arange(1300), some)
        assert len(engine) == len(left)
        assert engine.payloads(left) == [{}] * len(left)


def test_of_equal_scores_the_lowest_ids_come_first(opener):
    one = SparseCodes(np.zeros((40, 1), np.uint8), np.ones((40, 1), np.float32), HIDDEN_DIM)
    ids = np.random.default_rng(0).permutation(40)
    with opener() as engine:
        engine.add(one, ids=ids, progress=False)
        found = engine.search(one[:1], 40)
    assert found.ids[0].tolist() == list(range(40))


def random_texts(seed, n, most=30):
    rng = np.random.default_rng(seed)
    usage = 1 / np.arange(1, 301)
    lengths = rng.integers(0, most, n)
    return [" ".join(map(str, rng.choice(300, m, p=usage / usage.sum()))) for m in lengths]


def test_codes_and_words_have_the_ranking_of_the_index(opener):
    documents, queries = random_codes(0, 700), random_codes(1, 12)
    texts, asked = random_texts(2, 700), random_texts(3, 12, most=8)
    asked[0] = "unheard of"
    ids = np.arange(700) * 3 + 1
    index = SparseIndex.build(documents, ids, words=texts, language=str.split)
    vectors = HybridVectors.of(index)
    with opener(vectors.dim) as engine:
        stored = vectors.documents(documents, texts)
        assert engine.add(stored[:500], ids=ids[:500], progress=False) == 500
        assert engine.add(vectors.documents_of(index), index.ids, progress=False) == 200
        expected = index.search(queries, 10, words=asked)
        results = engine.search(vectors.queries(queries, asked), 10)
        np.testing.assert_allclose(results.scores, expected.scores, atol=1e-6, rtol=1e-6)
        np.testing.assert_array_equal(results.ids, expected.ids)
        expected = index.search(words=asked[1:], top_k=5, weight=2.0)
        results = engine.search(vectors.queries(words=asked[1:], weight=2.0), 5)
        found = expected.scores > 0
        np.testing.assert_allclose(results.scores[found], expected.scores[found], rtol=1e-6)
        with pytest.raises(ValueError, match=r"the same HybridVectors"):
            engine.add(documents, progress=False)


def test_sparse_vectors_are_stored_as_they_are(opener):
    rows = np.zeros((3, HIDDEN_DIM))
    rows[0, [5, 299]], rows[1, 5], rows[2, 0] = (3, 0.5), 2, 0.25
    for matrix in (scipy.sparse.csr_matrix(rows), scipy.sparse.coo_array(rows)):
        with opener() as engine:
            engine.add(matrix, progress=False)
            results = engine.search(scipy.sparse.csr_array(rows[:1]), top_k=2)
            assert results.ids.tolist() == [[0, 1]]
            np.testing.assert_allclose(results.scores, [[9.25, 6]])
    with opener() as engine:
        assert engine.add(matrix, progress=False) == 0
        with pytest.raises(ValueError, match="another document is stored under id 0"):
            engine.add(matrix.tocsr()[[2, 1, 0]], progress=False)
        for value in (-1, np.nan, 1e39):
            rows[1, 5] = value
            with pytest.raises(ValueError, match=r"row 1 of the codes has the value (-1|nan|inf)"):
                engine.add(scipy.sparse.csr_matrix(rows), [7, 8, 9], progress=False)
        with pytest.raises(TypeError, match=r"type complex128; pass a matrix of floats"):
            engine.add(scipy.sparse.csr_matrix(rows).astype(complex), progress=False)
        with pytest.raises(TypeError, match="codes are ndarray"):
            engine.add(rows, progress=False)
        assert len(engine) == 3


def test_more_values_than_an_engine_stores_are_refused(opener):
    with opener(17_000) as engine:
        matrix = scipy.sparse.csr_matrix(np.tri(2, 17_000, 15_999))
        with pytest.raises(ValueError, match=r"row 1 .* has 16001 values .*at most 16000: pass"):
            engine.add(matrix, progress=False)
        assert engine.add(matrix[:1], progress=False) == 1


def test_payloads_are_kept_and_a_second_load_doubles_nothing(opener):
    documents = random_codes(0, 250)
    payloads = [{"text": f"document {n}", "n": n} for n in range(250)]
    with opener() as engine:
        assert engine.add(documents[:120], payloads=payloads[:120], progress=False) == 120
    with opener() as engine:
        assert engine.add(documents, payloads=payloads, batch_size=100, progress=False) == 130
        assert len(engine) == 250
        assert engine.payloads([200, 3]) == [payloads[200], payloads[3]]
        with pytest.raises(KeyError, match="999"):
            engine.payloads([999])


def test_payloads_come_back_as_plain_json_values(opener):
    payload = {
        "number": np.int64(3), "real": np.float32(0.5), "flag": np.bool_(True), "pair": (1, 2),
        "array": np.array([1.5, 2]), "inner": {"none": None, "list": [np.uint8(1), "ö", {}]},
        "least": -(2**63), "text": np.str_("x"), "": "",
    }  # fmt: skip
    plain = {
        "number": 3, "real": 0.5, "flag": True, "pair": [1, 2], "array": [1.5, 2.0],
        "inner": {"none": None, "list": [1, "ö", {}]}, "least": -(2**63), "text": "x", "": "",
    }  # fmt: skip
    with opener() as engine:
        engine.add(random_codes(0, 2), payloads=[{}, payload], progress=False)
        assert engine.payloads([1, 0]) == [plain, {}]


def test_a_payload_that_cannot_be_stored_is_named_before_the_first_write(opener):
    with opener() as engine:
        payloads = [{}, {}, {"a": {"b": [1, float("nan")]}}]
        with pytest.raises(ValueError, match=r"row 2, 'a', 'b'\[1\] is nan, which JSON"):
            engine.add(random_codes(0, 3), payloads=payloads, batch_size=1, progress=False)
        assert len(engine) == 0


def test_an_engine_is_neither_pickled_nor_copied(opener):
    with opener() as engine:
        for action in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match=r"Engine holds a connection.*open another"):
                action(engine)


@pytest.mark.parametrize(
    ("hidden_dim", "error"),
    [(0, ValueError), (-1, ValueError), (3.0, TypeError), (True, TypeError)],
)
def test_a_width_that_cannot_be_is_refused(opener, hidden_dim, error):
    with pytest.raises(error, match="hidden_dim="):
        opener(hidden_dim)


def test_a_string_is_stored_under_the_uuid_made_of_it(tmp_path):
    needs("qdrant_client")
    import qdrant_client

    place = str(tmp_path / "q")
    with open_engine("qdrant", place, "t", id_type="str") as engine:
        engine.add(random_codes(0, 1), ids=["a wing"], progress=False)
    client = qdrant_client.QdrantClient(path=place)
    try:  # uuid5 of the namespace that stored collections have
        assert [point.id for point in client.scroll("t")[0]] == [
            "56c1275f-f0d8-580c-a5bf-ae3e3a734388"
        ]
    finally:
        client.close()


def test_nothing_stored_and_nothing_asked(opener):
    documents = random_codes(0, 2)
    with opener() as engine:
        with pytest.raises(ValueError, match="no documents are stored"):
            engine.search(documents, top_k=1)
        assert engine.add(documents[:0], progress=False) == 0
        assert engine.payloads([]) == []
        assert engine.add(documents[:1], progress=False) == 1
        assert engine.search(documents[:0], top_k=1).ids.shape == (0, 1)
        with pytest.raises(TypeError, match=r"top_k=1.0 is a float"):
            engine.search(documents, top_k=1.0)
        with pytest.raises(TypeError, match="batch_size='1' is a str"):
            engine.add(documents, batch_size="1", progress=False)


@pytest.mark.parametrize("kind", ["milvus", "qdrant"])
def test_a_store_in_use_by_another_process_is_named(kind, tmp_path):
    needs(*KINDS[kind][1:])
    place = str(tmp_path / ("m.db" if kind == "milvus" else "q"))
    script = """
from test_engines import open_engine
engine = open_engine(*sys.argv[1:], "t")
print("open", flush=True)
sys.stdin.read()
"""
    other = start(script, kind, place, stdin=subprocess.PIPE)
    assert other.stdout.readline() == "open\n"
    message = rf"{place} is in use by another .*server and pass its address"
    with pytest.raises(BlockingIOError, match=message):
        open_engine(kind, place, "t")
    other.kill()
    other.communicate()
    with open_engine(kind, place, "t"):
        pass


@pytest.mark.parametrize("kind", ["milvus", "qdrant"])
def test_a_file_that_is_no_store_is_refused(kind, tmp_path):
    needs(*KINDS[kind][1:])
    place = tmp_path / "notes.db"
    place.write_text("notes")
    with pytest.raises(ValueError, match=r"notes\.db.*server's address"):
        open_engine(kind, str(place), "t")
    assert place.read_text() == "notes"


def test_empty_rows_and_few_hits(opener):
    documents = SparseCodes(
        np.array([[0], [1], [0]]), np.array([[1], [1], [0]], np.float32), HIDDEN_DIM
    ).normalize()
    with opener() as engine:
        engine.add(documents, progress=False)
        results = engine.search(documents[:1], top_k=2)
        assert results.ids[0, 0] == 0
        assert results.scores[0, 0] == pytest.approx(1.0)
        assert (results.scores[0, 1:] <= 0).all()
        assert engine.search(documents[2:], top_k=1).ids.tolist() == [[-1]]


def assert_refuses_other_documents(engine):
    """Without ids, documents are taken for those stored under their numbers only if they are."""
    first, second = random_codes(0, 20), random_codes(1, 30)
    assert engine.add(first, progress=False) == 20
    with pytest.raises(ValueError, match=r"another document is stored under id 0.*pass ids"):
        engine.add(second, progress=False)
    assert len(engine) == 20
    assert engine.add(second, ids=range(20, 50), progress=False) == 30
    everything = SparseCodes.concatenate([first, second])
    assert engine.add(everything, progress=False) == 0
    assert len(engine) == 50


def test_other_documents_without_ids_are_refused(opener):
    with opener() as engine:
        assert_refuses_other_documents(engine)
        with pytest.raises(ValueError, match="batch_size=-1"):
            engine.add(random_codes(2, 5), ids=range(100, 105), batch_size=-1, progress=False)


def test_other_documents_without_ids_are_refused_by_seismic():
    needs("seismic")
    from csr_st.search.engines.seismic import SeismicEngine

    with SeismicEngine(HIDDEN_DIM) as engine:
        assert_refuses_other_documents(engine)


def test_an_empty_document_is_loaded_again_as_itself(opener):
    documents = SparseCodes(
        np.array([[0], [1]]), np.array([[1], [0]], np.float32), HIDDEN_DIM
    ).normalize()
    with opener() as engine:
        engine.add(documents, progress=False)
        assert engine.add(documents, progress=False) == 0


def test_another_head_and_bad_input_are_refused(opener):
    with opener() as engine:
        engine.add(random_codes(0, 5), progress=False)
        with pytest.raises(ValueError, match="hidden_dim=40"):
            engine.add(random_codes(0, 2, hidden_dim=40), progress=False)
        with pytest.raises(ValueError, match=r"top_k=6 is not within 1\.\.5"):
            engine.search(random_codes(0, 1), top_k=6)
        with pytest.raises(ValueError, match="id 7 is given twice"):
            engine.add(random_codes(0, 2), ids=[7, 7], progress=False)
        with pytest.raises(TypeError, match="integer ids"):
            engine.add(random_codes(0, 1), ids=["a"], progress=False)
        assert len(engine) == 5
    with pytest.raises(ValueError, match=f"{HIDDEN_DIM}"):
        opener(HIDDEN_DIM + 1)
    with opener() as engine:  # the refusal has let go of the store
        assert len(engine) == 5


def test_seismic_finds_nearly_all():
    needs("seismic")
    from csr_st.search.engines.seismic import SeismicEngine

    documents, queries = random_codes(0, 3000), random_codes(1, 50)
    expected = SparseIndex.build(documents).search(queries)
    with SeismicEngine(HIDDEN_DIM) as engine:
        engine.add(documents[:1000], progress=False)
        engine.search(queries)
        assert engine.add(documents, payloads=[{"n": n} for n in range(3000)]) == 2000
        results = engine.search(queries)
        assert engine.payloads([2999]) == [{"n": 2999}]
    found = [len(set(a) & set(b)) for a, b in zip(results.ids, expected.ids, strict=True)]
    assert sum(found) / expected.ids.size >= 0.95
    assert (results.scores <= expected.scores + 1e-2).all()


def test_what_seismic_cannot_hold_is_refused_before_it_is_stored():
    needs("seismic")
    from csr_st.search.engines.seismic import SeismicEngine

    many = scipy.sparse.eye_array(70_000, format="csr", dtype=np.float32)
    with SeismicEngine(70_000) as engine:
        engine.add(many[:60_000], progress=False)
        with pytest.raises(ValueError, match=r"there are 65600 different .* at most 65536"):
            engine.add(many[60_000:65_600], ids=range(60_000, 65_600), batch_size=9999)
        with pytest.raises(ValueError, match=r"document 70007 has the value 70000; .* 65504"):
            engine.add(many[:1] * 70_000, ids=[70_007])
        assert len(engine) == 60_000
        engine.remove(range(10_000))
        assert engine.add(many[60_000:65_600], ids=range(60_000, 65_600), progress=False) == 5600
    for options, error, message in [
        ({"postings": 0}, ValueError, "postings=0 must be at least 1"),
        ({"summary_energy": 3.0}, ValueError, "summary_energy=3.0 must be above 0 and at most 1"),
        ({"heap_factor": -1}, ValueError, "heap_factor=-1 must be finite and at least 0"),
        ({"heap_factor": "1"}, TypeError, "heap_factor='1' is a str"),
    ]:
        with pytest.raises(error, match=message):
            SeismicEngine(300, **options)


def load(store, n, batch_size, each_batch=lambda: None):
    """Open the store and load n documents, as the children that get killed do."""
    engine = open_engine(*store)
    write = engine._write

    def write_and_report(documents):
        write(documents)
        each_batch()

    engine._write = write_and_report
    engine.add(random_codes(0, n), batch_size=batch_size, progress=False)
    engine.close()


def assert_holds_each_once(engine, n):
    assert len(engine) == n
    assert engine.payloads(range(n)) == [{}] * n  # KeyError if one is missing
    documents, queries = random_codes(0, n), random_codes(1, 5)
    found, expected = engine.search(queries), SparseIndex.build(documents).search(queries)
    shared = expected.scores > 0  # the index has others too, an engine leaves them out
    np.testing.assert_array_equal(found.ids, np.where(shared, expected.ids, -1))
    np.testing.assert_allclose(found.scores[shared], expected.scores[shared], atol=1e-5)


def test_a_killed_load_is_finished_by_running_it_again(store):
    # Enough to be far from done at the kill; a write of Qdrant's local mode takes longest.
    n, batch_size = (300, 20) if store[0] == "qdrant" else (2000, 20)
    script = """
from test_engines import load
load(sys.argv[1:4], *map(int, sys.argv[4:]), each_batch=lambda: print("written", flush=True))
"""
    process = start(script, *store, n, batch_size)
    for _ in range(3):
        assert process.stdout.readline().strip() == "written"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    with open_engine(*store) as engine:
        half = len(engine)
        assert 3 * batch_size <= half < n  # what was written before the kill is there
        written = engine.add(random_codes(0, n), batch_size=batch_size, progress=False)
        assert written == n - half
        assert_holds_each_once(engine, n)


@pytest.mark.slow
def test_loads_killed_at_random_lose_and_double_nothing(store):
    kind, place, name = store
    n = 300 if kind == "qdrant" else 2000
    complete = os.path.join(os.path.dirname(place), "complete-" + os.path.basename(place))
    script = """
import importlib
from killing import kill_at_random
from test_engines import KINDS, load
kind, place, name, complete, n = sys.argv[1:]
for module in KINDS[kind][1:]:
    importlib.import_module(module)  # before the forks, so that kills fall into the load
killed, _ = kill_at_random(
    lambda: load((kind, place, name), int(n), 20),
    lambda: load((kind, complete, name + "complete"), int(n), 20),
    kills=8,
    seed=0,
)
print("killed", killed)
"""
    place_of_complete = place if kind == "pgvector" else complete
    process = start(script, kind, place, name, place_of_complete, n)
    killed = process.communicate()[0].split()
    assert process.returncode == 0
    assert int(killed[killed.index("killed") + 1]) >= 1
    with open_engine(*store) as engine:
        assert engine.add(random_codes(0, n), progress=False) == 0
        assert_holds_each_once(engine, n)


def test_a_milvus_collection_whose_maker_was_killed_is_completed(tmp_path):
    needs(*KINDS["milvus"][1:])
    import pymilvus

    place = str(tmp_path / "m.db")
    with open_engine("milvus", place, "whole"):
        client = pymilvus.MilvusClient(place)
        schema = client.create_schema(auto_id=False)
        schema.add_field("id", pymilvus.DataType.INT64, is_primary=True)
        schema.add_field(f"code_{HIDDEN_DIM}", pymilvus.DataType.SPARSE_FLOAT_VECTOR)
        schema.add_field("payload", pymilvus.DataType.JSON)
        client.create_collection("half", schema=schema)  # and killed before its index was made
        assert client.list_indexes("half") == []
        client.close()
    with open_engine("milvus", place, "half") as engine:
        # Milvus Lite would do without; a server loads no collection that has no index.
        assert len(pymilvus.MilvusClient(place).list_indexes("half")) == 1
        engine.add(random_codes(0, 500), progress=False)
        assert_holds_each_once(engine, 500)


@pytest.mark.parametrize(
    ("kind", "place", "message"),
    [
        ("milvus", "http://127.0.0.1:9", r"no Milvus answers at http://127.*start one there"),
        ("qdrant", "http://127.0.0.1:9", r"no Qdrant answers at http://127.*start one there"),
        (
            "pgvector",
            "postgresql://127.0.0.1:9/x",
            r"(?s)no PostgreSQL answers: .*127\.0\.0\.1.*start it",
        ),
    ],
)
def test_an_unreachable_server_is_named(kind, place, message):
    needs(*KINDS[kind][1:])
    with pytest.raises(ConnectionError, match=message):
        open_engine(kind, place, "t", timeout=2)


@contextlib.contextmanager
def answering(answer):
    """The address of a server that gives status and body of ``answer(method, path)``."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, body = answer(self.command, self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_PUT = do_POST = do_GET

        def log_message(self, *arguments): ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        (
            b'{"title": "qdrant", "version": "1.9.7"}',
            ValueError,
            r"version 1\.9\.7.* 1\.10 .*upgrade",
        ),
        (b"<html>", ConnectionError, "no Qdrant answers"),
    ],
)
def test_qdrant_sends_an_old_or_foreign_server_no_other_request(body, error, message):
    needs("qdrant_client")
    requests = []

    def answer(method, path):
        requests.append((method, path))
        return 200, body

    with answering(answer) as place, pytest.raises(error, match=message):
        open_engine("qdrant", place, "t", timeout=5)
    assert requests == [("GET", "/")]


def test_a_proxy_that_has_lost_qdrant_is_a_lost_connection():
    needs("qdrant_client")
    exists = {"result": {"exists": True}, "status": "ok", "time": 0}
    about = {
        "status": "green", "optimizer_status": "ok", "segments_count": 1, "points_count": 0,
        "payload_schema": {},
        "config": {
            "params": {"sparse_vectors": {f"csr-st-{HIDDEN_DIM}": {}}},
            "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10_000},
            "optimizer_config": {
                "deleted_threshold": 0.2, "vacuum_min_vector_number": 1000,
                "default_segment_number": 0, "flush_interval_sec": 5,
            },
            "wal_config": {"wal_capacity_mb": 32, "wal_segments_ahead": 0},
        },
    }  # fmt: skip
    answers = {
        "/": (200, {"title": "qdrant", "version": "1.14.0"}),
        "/collections/t/exists": (200, exists),
        "/collections/t": (200, {"result": about, "status": "ok", "time": 0}),
    }

    def answer(_, path):
        status, content = answers.get(path, (503, "upstream is gone"))
        return status, json.dumps(content).encode()

    with answering(answer) as place, open_engine("qdrant", place, "t", timeout=5) as engine:
        message = "503.*: 0 documents were written before; run the same add again"
        with pytest.raises(ConnectionError, match=f"(?s){message}"):
            engine.add(random_codes(0, 3), progress=False)


def test_an_old_milvus_gets_no_other_request():
    needs("pymilvus")
    import grpc
    from pymilvus.grpc_gen import milvus_pb2, milvus_pb2_grpc

    requests = []

    class Note(grpc.ServerInterceptor):
        def intercept_service(self, continuation, handler_call_details):
            requests.append(handler_call_details.method.split("/")[-1])
            return continuation(handler_call_details)

    class Old(milvus_pb2_grpc.MilvusServiceServicer):
        def Connect(self, request, context):
            return milvus_pb2.ConnectResponse(identifier=1)

        def GetVersion(self, request, context):
            return milvus_pb2.GetVersionResponse(version="v2.3.9")

    server = grpc.server(ThreadPoolExecutor(1), interceptors=[Note()])
    milvus_pb2_grpc.add_MilvusServiceServicer_to_server(Old(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with pytest.raises(ValueError, match=r"version v2\.3\.9; csr-st needs 2\.4.*upgrade"):
            open_engine("milvus", f"http://127.0.0.1:{port}", "t", timeout=5)
    finally:
        server.stop(None).wait()
    assert set(requests) == {"Connect", "GetVersion"}


@pytest.fixture
def database(postgres, request):
    """A new database: its address, and a connection that may do all."""
    import psycopg
    from psycopg.conninfo import make_conninfo

    name = f"d{abs(hash(request.node.name))}"
    with psycopg.connect(postgres, autocommit=True) as owner:
        owner.execute(f"CREATE DATABASE {name}")
    place = make_conninfo(postgres, dbname=name)
    with psycopg.connect(place, autocommit=True) as connection:
        yield place, connection


def left_behind(connection):
    """Extension and table that an engine made."""
    return connection.execute(
        "SELECT (SELECT count(*) FROM pg_extension WHERE extname = 'vector'), to_regclass('t')"
    ).fetchone()


def test_an_old_pgvector_is_refused_and_left_alone(database):
    place, connection = database
    connection.execute("CREATE EXTENSION vector")
    connection.execute("UPDATE pg_extension SET extversion = '0.6.2' WHERE extname = 'vector'")
    with pytest.raises(ValueError, match=r"version 0\.6\.2; csr-st needs 0\.7.*ALTER EXTENSION"):
        open_engine("pgvector", place, "t")
    assert left_behind(connection) == (1, None)


def test_postgresql_without_pgvector_or_with_another_table_is_left_alone(database):
    from psycopg.conninfo import make_conninfo

    place, connection = database
    connection.execute("CREATE ROLE guest LOGIN")
    with pytest.raises(ValueError, match=r"(?s)no pgvector to enable: permission denied.*install"):
        open_engine("pgvector", make_conninfo(place, user="guest"), "t")
    assert left_behind(connection) == (0, None)
    connection.execute("CREATE TABLE t (id bigint, code text)")
    message = r"table 't' has code of type text, not sparsevec\(300\); choose"
    with pytest.raises(ValueError, match=message):
        open_engine("pgvector", place, "t")
    assert left_behind(connection) == (0, "t")
    with pytest.raises(ValueError, match=r"not a connection string.*pass postgresql://"):
        open_engine("pgvector", "nonsense", "t")


def test_a_table_of_other_columns_is_refused_and_their_order_does_not_count(database):
    place, connection = database
    connection.execute("CREATE EXTENSION vector")
    for columns, message in [
        ("id bigint, code sparsevec(300)", "payload of type no column, not jsonb"),
        ("id varchar, code sparsevec(300), payload jsonb", "id of type character varying, not"),
        ("id text, code sparsevec(300), payload jsonb", "has string ids; open it with id_type='s"),
    ]:
        connection.execute(f"CREATE TABLE t ({columns})")
        with pytest.raises(ValueError, match=message):
            open_engine("pgvector", place, "t")
        connection.execute("DROP TABLE t")
    columns = "payload jsonb, code sparsevec(300), more text, id bigint PRIMARY KEY"
    connection.execute(f"CREATE TABLE t ({columns})")
    with open_engine("pgvector", place, "t") as engine:
        engine.add(random_codes(0, 100), progress=False)
        assert_holds_each_once(engine, 100)


@pytest.mark.parametrize(
    ("name", "message"),
    [("ü" * 32, "has 64 bytes"), ("", "has 0 bytes"), ("100%", "has a '%'"), ("a\0", "or NUL")],
)
def test_names_that_postgresql_would_change_are_refused(postgres, name, message):
    with pytest.raises(ValueError, match=message):
        open_engine("pgvector", postgres, name)
    with open_engine("pgvector", postgres, "ü" * 31) as engine:
        assert len(engine) == 0


def test_roles_that_may_only_read_or_write_rows_open_a_table(database):
    from psycopg.conninfo import make_conninfo

    place, connection = database
    documents = random_codes(0, 100)
    with open_engine("pgvector", place, "t") as engine:
        engine.add(documents[:50], progress=False)
    connection.execute("CREATE ROLE clerk LOGIN; GRANT SELECT, INSERT, DELETE ON t TO clerk")
    try:
        with open_engine("pgvector", make_conninfo(place, user="clerk"), "t") as engine:
            assert engine.add(documents, progress=False) == 50
        reading = make_conninfo(place, options="-c default_transaction_read_only=on")
        with open_engine("pgvector", reading, "t") as engine:
            assert_holds_each_once(engine, 100)
    finally:
        connection.execute("DROP OWNED BY clerk; DROP ROLE clerk")


def test_several_open_a_new_table_at_once(database):
    place, _ = database

    def opened(_):
        with open_engine("pgvector", place, "t") as engine:
            return len(engine)

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(opened, range(6))) == [0] * 6


def test_a_server_lost_on_the_way_says_how_to_go_on(database):
    place, connection = database

    documents = random_codes(0, 200)
    with open_engine("pgvector", place, "t") as engine:
        write = engine._write

        def write_until_lost(batch):
            if batch[0].id == 100:
                ended(connection)
            write(batch)

        engine._write = write_until_lost
        message = r"connection was lost .*100 documents were written.*run the same add again"
        with pytest.raises(ConnectionError, match=f"(?s){message}"):
            engine.add(documents, batch_size=50, progress=False)
        engine._write = write
        assert engine.add(documents, batch_size=50, progress=False) == 100
        assert_holds_each_once(engine, 200)


def ended(connection):
    """End all other connections to the database."""
    connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


def test_each_call_says_that_the_connection_was_lost_and_the_next_one_has_another(database):
    place, connection = database
    documents = random_codes(0, 20)
    with open_engine("pgvector", place, "t") as engine:
        engine.add(documents, progress=False)
        calls = [
            lambda: len(engine), lambda: engine.search(documents, 3), lambda: engine.payloads([3]),
            lambda: engine.remove([3]), lambda: engine.add(documents, progress=False),
        ]  # fmt: skip
        for call in calls:
            ended(connection)
            with pytest.raises(ConnectionError, match="the connection was lost"):
                call()
            call()
        assert len(engine) == 20


def test_an_error_of_a_statement_is_not_called_a_lost_connection(database):
    import psycopg

    place, connection = database
    with open_engine("pgvector", place, "t") as engine:
        engine.add(random_codes(0, 20), progress=False)
        connection.execute("BEGIN; LOCK TABLE t")
        engine._connection.execute("SET statement_timeout = '50ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            len(engine)
        connection.execute("ROLLBACK")
        assert len(engine) == 20
