"""The options of Milvus's index by name: what Milvus Lite takes, and what a server is sent.

No Milvus server can be installed by pip. In its place: Milvus Lite behind a proxy that gives
another version, notes the requests and keeps from Lite the one parameter that it does not know.
"""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from stores import CLIENT_WARNINGS, HIDDEN_DIM, needs, open_engine, random_codes

from csr_st.search import SparseIndex

pytestmark = [pytest.mark.engines, *CLIENT_WARNINGS]


class Server:
    """Milvus Lite that looks like a server of some version."""

    def __init__(self, folder, version):
        import grpc
        from milvus_lite.server_manager import ServerManager

        self._lite = ServerManager()
        address = self._lite.start_and_get_uri(str(folder / "server.db")).split("//")[1]
        self._channel, self._version = grpc.insecure_channel(address), version
        self.algorithms, self.searches, self.refused = {}, [], ()
        proxy = self

        class Handler(grpc.GenericRpcHandler):
            def service(self, details):
                method = details.method

                def answer(request, context):
                    try:
                        return proxy.answer(method, request)
                    except grpc.RpcError as error:
                        return context.abort(error.code(), error.details())

                return grpc.unary_unary_rpc_method_handler(answer)

        self._server = grpc.server(ThreadPoolExecutor(2), handlers=[Handler()])
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def answer(self, method, request):
        from pymilvus.grpc_gen import common_pb2, milvus_pb2

        name = method.split("/")[-1]
        if name == "GetVersion":
            return milvus_pb2.GetVersionResponse(version=self._version).SerializeToString()
        if name == "CreateIndex":
            asked = milvus_pb2.CreateIndexRequest.FromString(request)
            params = {pair.key: pair.value for pair in asked.extra_params}
            given = {**params, **json.loads(params.get("params", "{}"))}
            algorithm = given.get("inverted_index_algo")
            if algorithm in self.refused:
                reason = f"sparse inverted index algo {algorithm} not found or not supported"
                return common_pb2.Status(code=1100, reason=reason).SerializeToString()
            self.algorithms[asked.collection_name] = algorithm
            kept = [
                pair for pair in asked.extra_params if pair.key in ("index_type", "metric_type")
            ]
            del asked.extra_params[:]
            asked.extra_params.extend(kept)
            request = asked.SerializeToString()
        if name == "Search":
            params = milvus_pb2.SearchRequest.FromString(request).search_params
            self.searches.append(json.loads({p.key: p.value for p in params}["params"]))
        answer = self._channel.unary_unary(method)(request)
        if name == "DescribeIndex":
            told = milvus_pb2.DescribeIndexResponse.FromString(answer)
            asked = milvus_pb2.DescribeIndexRequest.FromString(request)
            for description in told.index_descriptions:
                if (algorithm := self.algorithms.get(asked.collection_name)) is not None:
                    pair = common_pb2.KeyValuePair(key="inverted_index_algo", value=algorithm)
                    description.params.append(pair)
            answer = told.SerializeToString()
        return answer

    def open(self, name="t", **options):
        return open_engine("milvus", f"http://127.0.0.1:{self.port}", name, **options)

    def close(self):
        self._server.stop(None).wait()
        self._channel.close()
        self._lite.release_all()


@pytest.fixture
def server_of(tmp_path):
    """Starts a server of a version."""
    needs("pymilvus", "milvus_lite")
    started = []

    def start(version):
        started.append(Server(tmp_path, version))
        return started[-1]

    yield start
    for server in started:
        server.close()


def test_a_server_gets_the_algorithm_and_the_ratio(server_of):
    server = server_of("v3.0.1")
    documents, queries = random_codes(0, 200), random_codes(1, 5)
    expected = SparseIndex.build(documents).search(queries)
    for algorithm in ("SINDI", "BLOCK_MAX_MAXSCORE", "BLOCK_MAX_WAND", "DAAT_WAND", None):
        name = f"t_{algorithm}"
        with server.open(name, algorithm=algorithm) as engine:
            engine.add(documents, progress=False)
            found = engine.search(queries)
        np.testing.assert_array_equal(found.ids, expected.ids)
        assert server.algorithms[name] == algorithm
    assert [params["drop_ratio_search"] for params in server.searches] == [0.0] * 5
    with server.open("t_SINDI", algorithm="SINDI") as engine:  # its index is there already
        assert len(engine) == 200
    with server.open("t_SINDI", drop_ratio=0.25) as engine, pytest.raises(Exception, match="drop"):
        engine.search(queries)  # Lite refuses; the request is what counts
    assert server.searches[-1]["drop_ratio_search"] == 0.25


def test_an_index_of_another_algorithm_is_named(server_of):
    server = server_of("v3.0.1")
    with server.open(algorithm="DAAT_WAND"):
        pass
    message = r"'t' has the algorithm DAAT_WAND, not SINDI; release .* drop its index"
    with pytest.raises(ValueError, match=message):
        server.open(algorithm="SINDI")
    with server.open("plain"):
        pass
    with pytest.raises(ValueError, match=r"has no algorithm by name, not SINDI"):
        server.open("plain", algorithm="SINDI")


def test_a_server_that_does_not_know_the_algorithm_says_so(server_of):
    server = server_of("v3.0.1")
    server.refused = ("SINDI",)
    message = r"makes no index with algorithm='SINDI': .*not supported.*; leave it out"
    with pytest.raises(ValueError, match=message):
        server.open(algorithm="SINDI")
    with server.open() as engine:  # the same collection, with the index by default
        assert len(engine) == 0


@pytest.mark.parametrize(
    ("version", "algorithm", "least"),
    [
        ("v2.6.4", "SINDI", "3.0"),
        ("v2.6.4", "BLOCK_MAX_WAND", "3.0"),
        ("v2.4.9", "DAAT_WAND", "2.5"),
    ],
)
def test_an_older_server_is_refused(server_of, version, algorithm, least):
    server = server_of(version)
    message = rf"version {version}; csr-st needs {least} .*leave out algorithm='{algorithm}'"
    with pytest.raises(ValueError, match=message):
        server.open(algorithm=algorithm)
    with server.open() as engine:
        assert len(engine) == 0


def test_milvus_lite_has_one_algorithm(tmp_path):
    needs("pymilvus", "milvus_lite")
    place, documents = str(tmp_path / "m.db"), random_codes(0, 50)
    with pytest.raises(ValueError, match=r"algorithm='SINDI': Milvus Lite has only TAAT_NAIVE"):
        open_engine("milvus", place, "t", algorithm="SINDI")
    with pytest.raises(ValueError, match=r"drop_ratio=0.2: Milvus Lite searches exactly"):
        open_engine("milvus", place, "t", drop_ratio=0.2)
    with open_engine("milvus", place, "t", algorithm="TAAT_NAIVE") as engine:
        engine.add(documents, progress=False)
        np.testing.assert_array_equal(engine.search(documents, 1).ids[:, 0], np.arange(50))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"algorithm": "sindi"}, ValueError, r"algorithm='sindi' is unknown; pass one of DAAT_MAX"),
        ({"drop_ratio": 1.0}, ValueError, r"drop_ratio=1.0 is not within 0\.\.1"),
        ({"drop_ratio": -0.1}, ValueError, r"drop_ratio=-0.1 is not within"),
        ({"drop_ratio": float("nan")}, ValueError, r"drop_ratio=nan is not within"),
        ({"drop_ratio": "0.1"}, TypeError, r"drop_ratio='0.1' is a str; pass a number"),
    ],
)
def test_other_options_are_refused_before_a_connection(options, error, message):
    needs("pymilvus")
    with pytest.raises(error, match=message):
        open_engine("milvus", "http://127.0.0.1:9", "t", HIDDEN_DIM, **options)


def test_what_a_server_does_not_take_is_refused_before_the_first_write(server_of):
    server = server_of("v2.6.4")
    documents = random_codes(0, 20)
    with server.open() as engine:
        payloads = [{}] * 10 + [{"text": "é" * 33_000}] + [{}] * 9
        with pytest.raises(ValueError, match=r"row 10 has 66012 bytes .* takes at most 65536"):
            engine.add(documents, payloads=payloads, batch_size=5, progress=False)
        assert len(engine) == 0
        many = random_codes(0, 16_385, k=1)
        engine.add(many, batch_size=9999, progress=False)
        with pytest.raises(ValueError, match="top_k=16385 is above the 16384 that MilvusEngine"):
            engine.search(many[:1], 16_385)


def test_a_server_that_ends_in_the_middle_is_a_lost_connection(server_of):
    server = server_of("v2.6.4")
    with server.open(timeout=2) as engine:
        engine.add(random_codes(0, 20), progress=False)
        server._server.stop(None).wait()
        for call in (lambda: len(engine), lambda: engine.remove([3])):
            with pytest.raises(ConnectionError, match="the connection was lost"):
                call()
        message = "0 documents were written before; run the same add again"
        with pytest.raises(ConnectionError, match=message):
            engine.add(random_codes(1, 5), ids=range(20, 25), progress=False)
