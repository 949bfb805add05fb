"""`csr-st distill-queries`: a model and texts in, a model with static queries out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import WORDS
from sentence_transformers import SentenceTransformer

import csr_st

pytest.importorskip("numba")


@pytest.fixture
def texts(model, tmp_path, run):
    """A saved model, texts and a BEIR folder, in the current folder."""
    csr_st.save(model, "sparse")
    rng = np.random.default_rng(0)
    found = [" ".join(rng.choice(WORDS, 6)) for _ in range(60)]
    (tmp_path / "texts.txt").write_text("\n".join(found))
    (tmp_path / "beir").mkdir()
    for name, n in (("corpus", 60), ("queries", 5)):
        rows = [json.dumps({"_id": str(place), "text": found[place]}) for place in range(n)]
        (tmp_path / f"beir/{name}.jsonl").write_text("\n".join(rows))
    judged = [f"{place}\t{place}\t1" for place in range(5)]
    (tmp_path / "beir/qrels.tsv").write_text("\n".join(["query\tdocument\tgain", *judged]))
    return found


def test_a_model_is_distilled_measured_and_searched(texts, run):
    command = ("distill-queries", "sparse", "texts.txt", "--output", "fast")
    code, out, err = run(*command, "--queries", "texts.txt", "--evaluate", "beir")
    assert code == 0, err
    assert "On beir (60 documents at k=8, 5 queries at k=32), nDCG@10 is " in out
    assert "Saved to fast." in out
    loaded = SentenceTransformer("fast", device="cpu")
    assert (loaded.encode_query(["the cat"], k=4) > 0).sum() <= 4
    for arguments in (
        ("encode", "fast", "texts.txt", "--role", "document", "--output", "c.safetensors"),
        ("index", "c.safetensors", "--output", "i.csr", "--model", "fast"),
        ("search", "i.csr", "the cat", "--model", "fast", "--top-k", 3, "--rescore", 10),
        ("distill-queries", "sparse", "texts.txt", "--output", "other", "--epochs", 0),
    ):
        code, out, err = run(*arguments)
        assert code == 0, err
    assert "On pieces of texts.txt that were set aside" in out


def test_what_is_refused(texts, run):
    command = ("distill-queries", "sparse", "texts.txt", "--output")
    for more, words in (
        (("sparse",), "--output sparse is the MODEL itself"),
        (("texts.txt",), "texts.txt is a file; name a folder"),
        (("fast", "--evaluate", "texts.txt"), "is no folder in BEIR's format"),
        (("fast", "--queries", "none.txt"), "none.txt"),
    ):
        code, _, err = run(*command, *more)
        assert code == 1
        assert words in err
        assert len(err.strip().splitlines()) == 1
