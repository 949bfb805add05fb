"""Encoding under Ray Data, in a real Ray on this machine."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from importlib.util import find_spec

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from distributed_parts import mark
from encoding_runs import TEXTS
from sentence_transformers import SentenceTransformer

import csr_st
from csr_st import CodeStore
from csr_st.distributed_encoding import ray_encode, ray_files

# Ray warns of its own plans, and leaves sockets and processes to the end of the program.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
MANY = [f"the {text}" for text in TEXTS[:50]]
IDS = [f"doc-{i}" for i in range(50)]


@pytest.fixture(scope="module")
def ray():
    """Ray with three CPUs, in name: two for workers, one for reading."""
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray = importlib.import_module(
            "ray"
        )  # seconds, which a run of the fast tests has no use for
        importlib.import_module("ray.data")
        ray.init(
            num_cpus=3,
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            object_store_memory=100_000_000,
            log_to_driver=False,
            logging_level="error",
        )
        ray.data.DataContext.get_current().enable_progress_bars = False
    yield ray
    ray.shutdown()
    patch.undo()


@pytest.fixture
def files(tmp_path):
    """Three files of Parquet, of another size each."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for number, (first, last) in enumerate([(0, 7), (7, 40), (40, 50)]):
        rows = pa.table({"id": IDS[first:last], "text": MANY[first:last], "n": range(first, last)})
        pq.write_table(rows, folder / f"part-{number}.parquet")
    return str(folder)


def files_of(path):
    return {entry.name: entry.read_bytes() for entry in path.iterdir() if entry.name != ".lock"}


def test_the_store_has_the_rows_in_the_order_of_the_data(ray, saved, model, files, tmp_path):
    data = ray.data.read_parquet(files)
    options = {"k": 6, "role": "query", "id_column": "id", "shard_rows": 20}
    store = ray_encode(saved, data, tmp_path / "c", workers=2, **options)
    store.verify()
    assert store.ids().tolist() == IDS
    assert (store.k, store.info.role, store.info.prompt) == (6, "query", "the red ")
    expected = csr_st.encode(model, MANY, k=6, role="query")
    np.testing.assert_array_equal(store.codes().indices, expected.indices)
    np.testing.assert_allclose(store.codes().values, expected.values, rtol=1e-5)
    opened = CodeStore.open(tmp_path / "c")
    assert opened.ids().tolist() == IDS
    before = files_of(store.path)
    ray_encode(saved, ray.data.read_parquet(files), tmp_path / "c", **options)
    assert files_of(store.path) == before


def test_packed_codes_with_a_residual_from_memory(ray, saved, model, tmp_path):
    data = ray.data.from_items([{"text": text} for text in MANY], override_num_blocks=3)
    options = {"k": 4, "value_bits": 4, "residual_bits": 0.5, "pursuit": True}
    store = ray_encode(saved, data, tmp_path / "c", shard_rows=16, **options)
    options["shard_rows"] = 50
    expected = CodeStore.encode(model, MANY, tmp_path / "e", **options)
    found, codes = store.codes(), expected.codes()
    np.testing.assert_array_equal(found.indices, codes.indices)
    assert (found.residual.kind, found.fitted) == (codes.residual.kind, True)
    assert store.ids() is None


def test_a_run_whose_worker_failed_goes_on(ray, saved, files, tmp_path):
    path = tmp_path / "c"
    rows = [{"text": text} for text in MANY]
    bad = [*rows[:40], {"text": None}, *rows[41:]]
    options = {"k": 6, "shard_rows": 10}
    with pytest.raises(ValueError, match="column 'text' is empty in 1 of 10 rows; drop these rows"):
        ray_encode(saved, ray.data.from_items(bad, override_num_blocks=5), path, **options)
    finished = list((path / ".parts").iterdir())
    assert finished
    with pytest.raises(ValueError, match="is not complete"):
        CodeStore.open(path)
    for file in finished:
        mark(file)
    data = ray.data.from_items(rows, override_num_blocks=5)
    store = ray_encode(saved, data, path, **options)
    store.verify()
    assert len(store) == 50
    kept = [content for name, content in files_of(path).items() if b'"marked"' in content]
    assert len(kept) == len(finished)


def test_what_is_wrong_with_the_data_is_said_before_work(ray, saved, tmp_path):
    data = ray.data.from_items([{"title": text} for text in MANY[:3]])
    with pytest.raises(ValueError, match=r"column 'text' is not in the data; its .*\['title'\]"):
        ray_encode(saved, data, tmp_path / "c")
    with pytest.raises(TypeError, match=r"data is a builtins\.list; pass a ray\.data\.Dataset"):
        ray_encode(saved, MANY, tmp_path / "c")
    data = ray.data.from_items([{"text": text} for text in MANY[:3]])
    with pytest.raises(ValueError, match=r"workers=\(3, 2\): 3 exceeds 2; pass \(least, most\)"):
        ray_encode(saved, data, tmp_path / "c", workers=(3, 2))
    with pytest.raises(TypeError, match="workers='2' is not an integer"):
        ray_encode(saved, data, tmp_path / "c", workers="2")
    assert not (tmp_path / "c").exists()


def test_another_k_is_refused_and_the_store_stays(ray, saved, tmp_path):
    data = ray.data.from_items([{"text": text} for text in MANY[:20]], override_num_blocks=1)
    store = ray_encode(saved, data, tmp_path / "c", k=6)
    before = files_of(store.path)
    with pytest.raises(ValueError, match="another plan: k 6 there, 4 now"):
        ray_encode(saved, data, tmp_path / "c", k=4)
    assert files_of(store.path) == before


def test_the_command_encodes_files_on_the_cluster(ray, run, saved, model, files, tmp_path):
    options = ["--ray", "--id-column", "id", "--k", "6", "--value-bits", "4", "--role", "document"]
    code, out, err = run("encode", saved, files, "--output", "codes", *options)
    assert code == 0, err
    assert out.endswith("in codes\n")
    store = CodeStore.open(tmp_path / "codes")
    assert store.ids().tolist() == IDS
    expected = csr_st.encode(model, MANY, k=6, role="document").pack(4).unpack()
    np.testing.assert_array_equal(store.codes().indices, expected.indices)


def test_files_of_lines_are_read_on_the_workers(ray, saved, tmp_path):
    (tmp_path / "texts").mkdir()
    for number in range(2):
        lines = "\n".join(MANY[number * 25 : number * 25 + 25])
        (tmp_path / "texts" / f"{number}.txt").write_text(lines)
    store = ray_encode(saved, ray_files(tmp_path / "texts"), tmp_path / "c", k=6)
    expected = CodeStore.encode(SentenceTransformer(saved, device="cpu"), MANY, tmp_path / "e", k=6)
    np.testing.assert_array_equal(store.codes().indices, expected.codes().indices)


def test_files_that_ray_does_not_read_are_named(ray, run, saved, tmp_path):
    (tmp_path / "a.npy").write_bytes(b"")
    for name, words in (("a.npy", "a.npy has files of .npy; Ray reads one of .parquet"),
                        ("absent.txt", "there is no file at absent.txt")):  # fmt: skip
        code, _, err = run("encode", saved, name, "--output", "codes", "--ray")
        assert (code, words in err) == (1, True), err
    (tmp_path / "b.txt").write_text("a")
    code, _, err = run("encode", saved, "b.txt", "--output", "c.safetensors", "--ray")
    assert "--ray writes a folder of shards, and --output c.safetensors names a file" in err
