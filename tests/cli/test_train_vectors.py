"""`csr-st train` from vectors in the files that people have."""

import numpy as np
import pandas as pd
import pytest
from sentence_transformers import SentenceTransformer

VECTORS = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)


def write(folder, kind):
    frame = pd.DataFrame(VECTORS, columns=[f"dim_{i}" for i in range(8)])
    if kind == "vectors.csv":
        frame.to_csv(folder / kind)
    elif kind == "vectors.jsonl.gz":
        lists = pd.DataFrame({"embedding": [*VECTORS]})
        lists.to_json(folder / kind, orient="records", lines=True)
    elif kind == "vectors.parquet":
        frame.to_parquet(folder / kind)
    else:
        (folder / "shards").mkdir()
        for number in range(3):
            np.save(folder / "shards" / f"{number}.npy", VECTORS[number * 100 :][:100])


@pytest.mark.parametrize(
    "kind", ["vectors.csv", "vectors.jsonl.gz", "vectors.parquet", "shards", "shards/*.npy"]
)
def test_vectors_are_trained_on_wherever_they_are(run, tmp_path, kind):
    write(tmp_path, kind)
    code, _, errors = run("train", kind, "--output", "out", "--steps", 3, "--k", 4)
    assert code == 0, errors
    assert SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(VECTORS).shape[0] == 300


def test_a_pattern_without_a_match_says_so(run, tmp_path):
    code, _, errors = run("train", "shards/*.npy", "--output", "out")
    assert code != 0
    assert "no file matches shards/*.npy" in errors
