"""The examples, run as a reader runs them, on tiny inputs and offline."""

from __future__ import annotations

import gzip
import importlib.util
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from PIL import Image
from sentence_transformers import SentenceTransformer

import csr_st
from csr_st import SparseIndex

EXAMPLES = Path(__file__).parent.parent / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))

# The inputs are tiny: warnings that there are few vectors are expected.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*are few for hidden_dim"),
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning"),
]


@pytest.fixture
def run(transformer_folder, tmp_path, monkeypatch, capsys):
    """Run an example in an empty folder; what it prints."""
    monkeypatch.chdir(tmp_path)

    def start(name, *arguments, model=True) -> str:
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        chosen = ["--model", transformer_folder] if model else []
        module.main(["--tiny", *chosen, *arguments])
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
    assert "bytes per document; dense 64 bytes" in out


def test_beyond_dense(run):
    for name in ("numba", "bm25s", "Stemmer"):
        pytest.importorskip(name)
    out = run("beyond_dense")
    assert re.search(r"^TokenStore\(64 texts, \d+ tokens x 16 float16\)$", out, re.MULTILINE)
    found = {
        line[:30].strip(): float(re.search(r"(\d+\.\d)%", line)[1])
        for line in out.splitlines()
        if "the right document" in line
    }
    names = ["dense vectors", "words (BM25)", "token-level codes", "token-level codes and words"]
    assert list(found) == names
    # Four documents have a query's words. Codes tell little, as the model is untrained, but more
    # than chance, which is 1.6%.
    assert found["words (BM25)"] >= 20
    assert found["token-level codes and words"] >= 5


def test_hybrid_search(run):
    for name in ("numba", "bm25s", "Stemmer"):
        pytest.importorskip(name)
    out = run("hybrid_search")
    dogs, birds = out.split("birds in trees:")
    line = r"^    -?(\d\.\d\d)  (.+)$"
    codes, words, both = (re.findall(line, part, re.MULTILINE) for part in dogs.split("by ")[1:])
    assert len(codes) == len(words) == len(both) == 3
    # The model has untrained weights: only words, by their stems, find the dog.
    assert all(text.startswith("a dog") for _, text in words)
    assert all("bird" in text for _, text in re.findall(line, birds.split("by ")[2], re.MULTILINE))
    best = [float(rows[0][0]) for rows in (codes, words, both)]
    assert max(best[:2]) <= best[2] <= sum(best[:2]) + 0.015
    assert "the weight of words is 0.15" in out


def test_explain_matches(run, tmp_path):
    pytest.importorskip("numba")
    out = run("explain_matches")
    names = csr_st.LatentNames.load(tmp_path / "latents.json")
    assert repr(names) in out
    table = out.split("'the dog ran under a tree' and ")[1].split("\n\n")[0]
    *shares, score = (float(cell) for cell in re.findall(r"\| (\d\.\d{4}) \|", table))
    assert sum(shares) == pytest.approx(score, abs=5e-4)  # of rounded figures
    before, after = (
        re.findall(rf"^  {when} +(\S+)  ", out, re.MULTILINE) for when in ("before", "after")
    )
    assert float(before[0]) == pytest.approx(score, abs=0.0051)
    assert len(before) == len(after) == 3


def test_train_on_your_corpus(run, tmp_path):
    out = run("train_on_your_corpus", "--output", "mine")
    assert "Recall@1 of the dense neighbours" in out
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


LINE = r"^ +\S+  (a dog|a fish|the cat|the bird) "


def test_with_langchain(run, tmp_path):
    for name in ("numba", "bm25s", "Stemmer", "langchain_core"):
        pytest.importorskip(name)
    out = run("with_langchain")
    places = [int(place) for place in re.findall(r"^ +(\d+)  ", out, re.MULTILINE)]
    assert len(places) == 6
    assert all(place % 2 == 0 for place in places)
    # The model has untrained weights: words find the dogs.
    assert all("a dog" in line for line in out.split("the blue sea:")[0].splitlines()[1:])
    assert (tmp_path / "langchain-store" / "documents.json").exists()


def test_with_llama_index(run, tmp_path):
    for name in ("numba", "llama_index.core"):
        pytest.importorskip(name)
    out = run("with_llama_index")
    assert len(re.findall(LINE, out, re.MULTILINE)) == 6
    assert (tmp_path / "llama-storage" / "default__vector_store.json").exists()


def test_with_haystack(run):
    for name in ("numba", "haystack"):
        pytest.importorskip(name)
    out = run("with_haystack")
    assert len(re.findall(LINE, out, re.MULTILINE)) == 6
    assert run("with_haystack") == out  # over what the first run saved


def test_with_txtai(run, tmp_path):
    for name in ("numba", "txtai"):
        pytest.importorskip(name)
    out = run("with_txtai")
    assert 1 <= len(re.findall(LINE, out, re.MULTILINE)) <= 6
    assert (tmp_path / "txtai-index" / "scoring").exists()


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
    assert "| image to text, recall@1 | " in out
    rows = r"\d+, \d+, \d+"
    line = rf"^a photo of a \w+ square: images {rows}; rescored {rows}$"
    assert len(re.findall(line, out, re.MULTILINE)) == 3
    head = csr_st.find_head(SentenceTransformer(str(tmp_path / "both"), device="cpu"))
    assert head.modalities == ["image", "text"]


def test_serve_and_query(run):
    pytest.importorskip("numba")
    for name in ("fastapi", "uvicorn", "prometheus_client"):
        pytest.importorskip(name)
    code, *hits = run("serve_and_query").splitlines()
    assert re.fullmatch(r"'the dog ran under a tree': (\d+ \(0\.\d\d\)(, )?){4}", code)
    assert len(hits) == 3
    for hit in hits:
        score, *shares = re.findall(r"\d\.\d\d", hit)
        assert hit.endswith(")")
        assert 0 < sum(map(float, shares)) <= float(score) + 0.02  # two of the shares, rounded


@pytest.fixture
def pictures(rng):
    """Two splits of 8 x 8 pictures, bright above or below: (n, 8, 8) uint8 and (n,) classes."""
    splits = {}
    for split, n in (("train", 200), ("test", 30)):
        labels = rng.integers(0, 2, n)
        images = rng.integers(0, 100, (n, 8, 8))
        images[labels == 0, :4] += 100
        images[labels == 1, 4:] += 100
        splits[split] = images.astype(np.uint8), labels
    return splits


def percentages(out, method):
    row = next(line for line in out.splitlines() if line.startswith(f"| {method} |"))
    return [float(cell) for cell in row.strip("| ").split(" | ")[1:]]


def test_image_classification(run, tmp_path):
    pytest.importorskip("numba")
    out = run("image_classification", "--output", "m", model=False)
    for method in ("codes", "codes, rescored"):
        assert len(percentages(out, method)) == 4
        assert min(percentages(out, method)) > 50  # a third by chance
    assert "One image: 8 of 96 numbers are not zero" in out
    model = SentenceTransformer(str(tmp_path / "m"), device="cpu")
    codes = model.encode(np.random.default_rng(0).random((3, 144)), k=4)
    assert np.count_nonzero(codes, axis=1).max() <= 4


def test_image_classification_reads_debian_s_files_and_data_sets_alike(run, pictures, tmp_path):
    """Files in the IDX format, and a data set with a column of images."""
    pytest.importorskip("numba")
    columns = {}
    (tmp_path / "debian").mkdir()
    for split, (images, labels) in pictures.items():
        prefix = tmp_path / "debian" / {"train": "train", "test": "t10k"}[split]
        head = struct.pack(">HBBIII", 0, 8, 3, *images.shape)
        Path(f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + images.tobytes()))
        head = struct.pack(">HBBI", 0, 8, 1, len(labels))
        content = head + labels.astype(np.uint8).tobytes()
        Path(f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(content))
        columns[split] = Dataset.from_dict(
            {"image": [Image.fromarray(image) for image in images], "label": labels}
        )
    DatasetDict(columns).save_to_disk(tmp_path / "saved")
    first = run("image_classification", "debian", "--output", "a", model=False)
    assert "all 64 dimensions: 100.0" in first
    assert first == run("image_classification", "saved", "--output", "b", model=False)
    # Features instead of pixels: seven columns of noise, and two with the class.
    for split, (_, labels) in pictures.items():
        noise = np.random.default_rng(len(labels)).random((len(labels), 7)) / 100
        np.save(f"{split}.npy", np.column_stack([noise, labels, 1 - labels]).astype(np.float32))
    features = ("--features", "train.npy", "test.npy")
    out = run("image_classification", "debian", "--output", "c", *features, model=False)
    assert "all 9 dimensions: 100.0" in out


def test_every_example_is_run_here():
    here = Path(__file__).read_text()
    assert all(f"def test_{name}(" in here for name in NAMES)
    assert csr_st.__version__
