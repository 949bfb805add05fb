"""The examples as a reader runs them, on tiny inputs and offline."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

import csr_st
from csr_st import SparseIndex

EXAMPLES = Path(__file__).parent.parent / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))

# Fewer sentences than any real corpus: warnings that say so are right here.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*are few for hidden_dim"),
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning"),
]


@pytest.fixture
def run(transformer_folder, tmp_path, monkeypatch, capsys):
    """Run an example in an empty folder; what it prints."""
    monkeypatch.chdir(tmp_path)

    def start(name, *arguments) -> str:
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.main(["--tiny", "--model", transformer_folder, *arguments])
        return capsys.readouterr().out

    return start


@pytest.mark.parametrize("name", NAMES)
def test_each_says_what_it_shows_how_to_run_it_and_how_long_it_takes(name):
    text = (EXAMPLES / f"{name}.py").read_text().split('"""')[1]
    assert "Shows" in text
    assert f"python examples/{name}.py" in text
    assert "pip install" in text
    assert re.search(r"minute|second", text, re.IGNORECASE)


def test_quickstart(run):
    pytest.importorskip("numba")
    out = run("quickstart")
    assert out.count("the dog ran:") == 1
    assert len(re.findall(r"^  -?\d\.\d\d  ", out, re.MULTILINE)) == 6
    assert "bytes a document; dense 64 bytes" in out


def test_train_on_your_corpus(run, tmp_path):
    out = run("train_on_your_corpus", "--output", "mine")
    assert "Recall@10 of the dense neighbours" in out
    model = SentenceTransformer(str(tmp_path / "mine"), device="cpu")
    assert np.count_nonzero(model.encode("the cat sat", k=4)) <= 4


def test_supervised_intents(run):
    out = run("supervised_intents")
    assert re.search(r"without labels: k=2 \d+\.\d%, k=4 \d+\.\d%, k=8 \d+\.\d%", out)
    assert re.search(r"\nwith labels: k=2 \d+\.\d%", out)


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_finetune_lora(run, tmp_path):
    pytest.importorskip("peft")
    out = run("finetune_lora", "--output", "tuned")
    assert re.search(r"step 6, k 2, loss \d", out)
    assert "SparseCodes(n=64, k=2, hidden_dim=48" in out
    assert (tmp_path / "tuned" / "adapter_config.json").exists()


def test_publish(run, tmp_path):
    out = run("publish", "--native", "native")
    assert "library_name: sentence-transformers" in out
    assert "pass --repo to publish them" in out
    native = SentenceTransformer(str(tmp_path / "native"), device="cpu")
    assert np.count_nonzero(native.encode("the cat sat", max_active_dims=4)) <= 4


@pytest.mark.engines
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_search_with_milvus(run):
    pytest.importorskip("pymilvus")
    pytest.importorskip("milvus_lite")
    pytest.importorskip("numba")
    out = run("search_with_milvus")
    assert out.count("  ") >= 6
    assert float(out.rsplit(" ", 1)[1]) < 0.01


def test_migrate_vector_database(run, tmp_path):
    pytest.importorskip("qdrant_client")
    pytest.importorskip("numba")
    out = run("migrate_vector_database")
    assert re.search(r"rescored: \d+% of the dense top 10", out)
    index = SparseIndex.load(tmp_path / "documents.index")
    assert sorted(index.ids) == list(range(100, 164))
    assert index.decoder is not None


def test_clip_pairs(run, tmp_path):
    pytest.importorskip("numba")
    out = run("clip_pairs", "--output", "both")
    assert "| image to text, recall@10 | " in out
    assert (
        len(re.findall(r"^a photo of a \w+ square: images \d+, \d+, \d+$", out, re.MULTILINE)) == 3
    )
    head = csr_st.find_head(SentenceTransformer(str(tmp_path / "both"), device="cpu"))
    assert head.modalities == ["image", "text"]


def test_every_example_is_run_here():
    here = Path(__file__).read_text()
    assert all(f"def test_{name}(" in here for name in NAMES)
    assert csr_st.__version__
