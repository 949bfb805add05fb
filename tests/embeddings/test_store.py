"""What a user of EmbeddingStore sees: rows, labels, pairs, views, batches, refusals."""

import json
import resource

import datasets
import numpy as np
import pytest
import torch
from embedding_stub import StubModel, vector_of

from csr_st.embeddings import EmbeddingStore

TEXTS = [f"text {i}" for i in range(50)]


@pytest.fixture
def dataset():
    labels = [["red", "blue", None][i % 3] for i in range(50)]
    return datasets.Dataset.from_dict({"text": TEXTS, "colour": labels, "other": TEXTS})


def expected(texts, dtype=np.float16):
    return np.stack([vector_of(text) for text in texts]).astype(dtype).astype(np.float32)


def test_embeds_rows_in_order_with_labels(tmp_path, dataset):
    store = EmbeddingStore.embed(
        StubModel(),
        dataset,
        tmp_path / "s",
        text_column="text",
        label_column="colour",
        shard_rows=7,
    )
    assert len(store) == 50
    assert store.dim == 8
    np.testing.assert_array_equal(store.vectors(), expected(TEXTS))
    asked = np.array([49, 0, 13, 13, 7, 6])
    np.testing.assert_array_equal(store.rows(asked), expected([TEXTS[i] for i in asked]))
    assert store.label_names == ["red", "blue"]
    assert store.labels[:4].tolist() == [0, 1, -1, 0]
    assert store.info.n == 50
    assert store.info.dtype == "float16"


def test_float32_store_keeps_every_bit(tmp_path):
    store = EmbeddingStore.embed(StubModel(), TEXTS, tmp_path / "s", dtype="float32", shard_rows=16)
    np.testing.assert_array_equal(store.vectors(), expected(TEXTS, np.float32))


def test_class_labels_keep_the_names_that_the_data_declares(tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "y": datasets.ClassLabel(names=["no", "yes"])}
    )
    data = datasets.Dataset.from_dict({"text": ["a", "b"], "y": [1, 0]}, features=features)
    store = EmbeddingStore.embed(StubModel(), data, tmp_path / "s", label_column="y")
    assert store.label_names == ["no", "yes"]
    assert store.labels.tolist() == [1, 0]


def test_string_labels_are_numbered_by_first_occurrence_across_shards(tmp_path):
    rows = [{"text": str(i), "y": name} for i, name in enumerate("bbacab")]
    store = EmbeddingStore.embed(
        StubModel(), rows, tmp_path / "s", text_column="text", label_column="y", shard_rows=2
    )
    assert store.label_names == ["b", "a", "c"]
    assert store.labels.tolist() == [0, 0, 1, 2, 1, 0]


def test_pairs_embed_equal_texts_once(tmp_path):
    data = datasets.Dataset.from_dict(
        {"anchor": ["q1", "q2", "q3"], "positive": ["d1", "d1", "q1"], "score": [1.0, 0.5, 0.25]}
    )
    model = StubModel()
    store = EmbeddingStore.embed(
        model,
        data,
        tmp_path / "s",
        pair_columns=("anchor", "positive"),
        score_column="score",
        shard_rows=2,
    )
    np.testing.assert_array_equal(store.vectors(), expected(["q1", "d1", "q2", "q3"]))
    assert store.pairs.tolist() == [[0, 1], [2, 1], [3, 0]]
    assert store.scores.tolist() == [1.0, 0.5, 0.25]
    assert model.embedded == 4


def test_role_and_prompt_reach_the_model_and_the_info(tmp_path):
    model = StubModel(prompts={"query": "ask: "})
    store = EmbeddingStore.embed(model, ["a"], tmp_path / "q", role="query")
    np.testing.assert_array_equal(store.vectors(), expected(["ask: a"]))
    assert (store.info.role, store.info.prompt) == ("query", "ask: ")
    store = EmbeddingStore.embed(model, ["a"], tmp_path / "p", prompt="p ")
    np.testing.assert_array_equal(store.vectors(), expected(["p a"]))


def test_embeds_with_a_sentence_transformer(tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "a": 1, "b": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    torch.manual_seed(0)
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=4)], device="cpu")
    store = EmbeddingStore.embed(model, ["a b", "b"], tmp_path / "s", dtype="float32")
    np.testing.assert_allclose(store.vectors(), model.encode(["a b", "b"]), rtol=1e-6)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    with pytest.raises(ValueError, match="weights"):
        EmbeddingStore.embed(model, ["a b", "b"], tmp_path / "s", dtype="float32")


def test_complete_store_is_opened_without_the_model(tmp_path, dataset):
    EmbeddingStore.embed(StubModel(), dataset, tmp_path / "s", text_column="text")
    again = StubModel()
    store = EmbeddingStore.embed(again, dataset, tmp_path / "s", text_column="text")
    assert again.embedded == 0
    assert len(store) == 50


@pytest.mark.parametrize("kind", ["dataset", "list", "stream"])
def test_interrupted_run_goes_on_where_it_stopped(tmp_path, kind):
    def data():
        if kind == "list":
            return TEXTS
        whole = datasets.Dataset.from_dict({"text": TEXTS})
        return whole if kind == "dataset" else whole.to_iterable_dataset()

    options = {"shard_rows": 8, "text_column": None if kind == "list" else "text"}
    with pytest.raises(KeyboardInterrupt):
        EmbeddingStore.embed(StubModel(stop_after=3), data(), tmp_path / "s", **options)
    with pytest.raises(ValueError, match=r"not complete: 3 of"):
        EmbeddingStore.open(tmp_path / "s")
    rest = StubModel()
    store = EmbeddingStore.embed(rest, data(), tmp_path / "s", **options)
    assert rest.embedded == 50 - 3 * 8
    np.testing.assert_array_equal(store.vectors(), expected(TEXTS))
    store.verify()


def test_refuses_another_model_prompt_or_dtype_naming_both(tmp_path):
    EmbeddingStore.embed(StubModel(name="org/one"), TEXTS, tmp_path / "s")
    with pytest.raises(ValueError, match=r"org/one.*org/two"):
        EmbeddingStore.embed(StubModel(name="org/two"), TEXTS, tmp_path / "s")
    with pytest.raises(ValueError, match=r"prompt None there, 'x' now"):
        EmbeddingStore.embed(StubModel(name="org/one"), TEXTS, tmp_path / "s", prompt="x")
    with pytest.raises(ValueError, match=r"dtype 'float16' there, 'float32' now"):
        EmbeddingStore.embed(StubModel(name="org/one"), TEXTS, tmp_path / "s", dtype="float32")


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("kind", ["list", "dataset", "stream"])
def test_refuses_changed_data(tmp_path, complete, kind):
    def data(texts):
        if kind == "list":
            return texts
        whole = datasets.Dataset.from_dict({"text": texts})
        return whole if kind == "dataset" else whole.to_iterable_dataset()

    options = {"shard_rows": 8, "text_column": None if kind == "list" else "text"}
    if complete:
        EmbeddingStore.embed(StubModel(), data(TEXTS), tmp_path / "s", **options)
    else:
        with pytest.raises(KeyboardInterrupt):
            EmbeddingStore.embed(StubModel(stop_after=3), data(TEXTS), tmp_path / "s", **options)
    changed = [*TEXTS[:5], "other", *TEXTS[6:]]
    with pytest.raises(ValueError, match=r"other data: rows 0\.\.7 "):
        EmbeddingStore.embed(StubModel(), data(changed), tmp_path / "s", **options)


def test_the_same_content_under_another_fingerprint_is_accepted(tmp_path):
    first = datasets.Dataset.from_dict({"text": TEXTS})
    EmbeddingStore.embed(StubModel(), first, tmp_path / "s")
    longer = datasets.Dataset.from_dict({"text": [*TEXTS, "more"]})
    again = StubModel()
    EmbeddingStore.embed(again, longer.select(range(50)), tmp_path / "s")
    assert again.embedded == 0


def test_nan_rows_are_named_with_their_text_and_finished_shards_stay(tmp_path):
    model = StubModel(nan_at={"text 20", "text 22"})
    with pytest.raises(ValueError, match=r"row 20, 22 is NaN or Inf(.|\n)*'text 20'"):
        EmbeddingStore.embed(model, TEXTS, tmp_path / "s", shard_rows=8)
    assert len(list((tmp_path / "s").glob("shard-*"))) == 2
    rest = StubModel()
    EmbeddingStore.embed(rest, TEXTS, tmp_path / "s", shard_rows=8)
    assert rest.embedded == 50 - 16


def test_numbers_too_large_for_float16_name_the_fix(tmp_path):
    with pytest.raises(ValueError, match="dtype='float32'"):
        EmbeddingStore.embed(StubModel(scale=1e6), TEXTS, tmp_path / "s")


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ([], {}, "empty"),
        (iter([]), {}, "empty"),
        (["a", None], {}, "entry 1 is None"),
        (["a", 3], {}, "entry 1 is 3"),
        ([1.5], {}, r"entry 0 is 1\.5"),
        ({"a": ["x"], "b": ["y", "z"]}, {"pair_columns": ("a", "b")}, "different lengths"),
        ([{"a": "x", "b": None}], {"pair_columns": ("a", "b")}, "column 'b' is None"),
        ([{"a": "x"}], {"text_column": "b"}, r"'b' is not in the data.*\['a'\]"),
        ([{"a": "x"}, {"c": "x"}], {"text_column": "a"}, "entry 1 has not"),
        ([{"a": "x", "y": 0.5}], {"text_column": "a", "label_column": "y"}, "label 0 is 0.5"),
        (["a"], {"text_column": "t"}, "without columns"),
        ("a", {}, "data is str"),
    ],
)
def test_bad_data_is_refused(tmp_path, data, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        EmbeddingStore.embed(StubModel(), data, tmp_path / "s", **options)


def test_missing_column_lists_those_there(tmp_path, dataset):
    with pytest.raises(ValueError, match=r"'nope'.*\['text', 'colour', 'other'\]"):
        EmbeddingStore.embed(StubModel(), dataset, tmp_path / "s", text_column="nope")
    with pytest.raises(ValueError, match=r"one|must be named") as caught:
        EmbeddingStore.embed(StubModel(), dataset.remove_columns("text"), tmp_path / "s")
    assert "colour" in str(caught.value)


def test_stream_without_declared_features(tmp_path):
    def generate():
        yield from ({"text": text, "y": i % 2} for i, text in enumerate(TEXTS))

    stream = datasets.IterableDataset.from_generator(generate)
    store = EmbeddingStore.embed(
        StubModel(), stream, tmp_path / "s", text_column="text", label_column="y", shard_rows=9
    )
    np.testing.assert_array_equal(store.vectors(), expected(TEXTS))
    assert store.labels.tolist() == [i % 2 for i in range(50)]


def test_cut_shard_is_noticed_on_reading_and_embedded_again(tmp_path):
    EmbeddingStore.embed(StubModel(), TEXTS, tmp_path / "s", shard_rows=8)
    shard = tmp_path / "s" / "shard-000002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-4])
    store = EmbeddingStore.open(tmp_path / "s")
    store.rows(np.arange(16))
    with pytest.raises(ValueError, match=r"shard-000002.* cut short"):
        store.rows(np.array([17]))
    (tmp_path / "s" / "manifest.json").unlink()
    fixed = StubModel()
    store = EmbeddingStore.embed(fixed, TEXTS, tmp_path / "s")
    assert fixed.embedded == 8
    np.testing.assert_array_equal(store.vectors(), expected(TEXTS))


def test_altered_shard_fails_verification(tmp_path):
    store = EmbeddingStore.embed(StubModel(), TEXTS, tmp_path / "s", shard_rows=8)
    store.verify()
    shard = tmp_path / "s" / "shard-000003.safetensors"
    content = bytearray(shard.read_bytes())
    content[-20] ^= 1
    shard.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"shard-000003.* altered"):
        EmbeddingStore.open(tmp_path / "s").verify()


def test_newer_format_is_refused(tmp_path):
    EmbeddingStore.embed(StubModel(), TEXTS, tmp_path / "s")
    manifest = tmp_path / "s" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "version": 99}))
    with pytest.raises(ValueError, match=r"version 99.*pip install -U"):
        EmbeddingStore.open(tmp_path / "s")


def test_foreign_directories_and_files_are_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(ValueError, match=r"mine\.txt"):
        EmbeddingStore.embed(StubModel(), TEXTS, tmp_path)
    with pytest.raises(ValueError, match="no embedding store"):
        EmbeddingStore.open(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        EmbeddingStore.open(tmp_path / "nowhere")


def test_full_disk_is_a_clear_error_and_leaves_complete_shards(tmp_path):
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(model):
        if model.calls == 3:  # from now on no file may grow beyond 10 bytes
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, unlimited[1]))

    try:
        with pytest.raises(OSError, match=r"cannot write .*shard-000002.* make room"):
            EmbeddingStore.embed(StubModel(before=fill), TEXTS, tmp_path / "s", shard_rows=8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    names = {entry.name for entry in (tmp_path / "s").iterdir() if entry.name != ".lock"}
    assert names == {"plan.json", "shard-000000.safetensors", "shard-000001.safetensors"}
    store = EmbeddingStore.embed(StubModel(), TEXTS, tmp_path / "s")
    np.testing.assert_array_equal(store.vectors(), expected(TEXTS))


def test_from_array_takes_numpy_and_torch():
    array = np.arange(12, dtype=np.float32).reshape(4, 3)
    for vectors in (array, torch.from_numpy(array), torch.from_numpy(array).bfloat16()):
        store = EmbeddingStore.from_array(vectors, labels=["x", "y", "x", None], pairs=[[0, 3]])
        np.testing.assert_array_equal(store.vectors(), array)
        assert store.labels.tolist() == [0, 1, 0, -1]
        assert store.label_names == ["x", "y"]
        assert store.pairs.tolist() == [[0, 3]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": [1]}, "1 labels for 4 rows"),
        ({"labels": np.array([0, 1, 2, 0]), "label_names": ["a", "b"]}, "label 2 has no name"),
        ({"labels": ["a", 1, "b", 2]}, "mix strings"),
        ({"pairs": [[0, 4]]}, r"pair 0 is \[0, 4\], outside the rows 0\.\.3"),
        ({"pairs": [[0, 1, 2]]}, "shape"),
        ({"pairs": [[0, 1]], "scores": [1.0, 2.0]}, "for 1 pairs"),
    ],
)
def test_from_array_refuses_what_does_not_fit(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        EmbeddingStore.from_array(np.ones((4, 3), np.float32), **options)


def test_from_array_refuses_wrong_arrays():
    bad = np.ones((4, 3), np.float32)
    bad[2, 1] = np.inf
    with pytest.raises(ValueError, match="NaN or Inf in row 2"):
        EmbeddingStore.from_array(bad)
    with pytest.raises(ValueError, match=r"shape \(4,\)"):
        EmbeddingStore.from_array(np.ones(4, np.float32))
    with pytest.raises(TypeError, match="int64"):
        EmbeddingStore.from_array(np.ones((4, 3), np.int64))


def test_rows_refuses_numbers_outside():
    store = EmbeddingStore.from_array(np.ones((4, 3), np.float32))
    with pytest.raises(IndexError, match=r"row 4 is outside 0\.\.3"):
        store.rows(np.array([0, 4]))
    with pytest.raises(IndexError, match="row -1"):
        store.rows(np.array([-1]))
    with pytest.raises(ValueError, match="whole numbers"):
        store.rows(np.array([0.5]))
    assert store.rows(np.array([], np.int64)).shape == (0, 3)


def test_subset_renumbers_labels_and_pairs():
    array = np.arange(10, dtype=np.float32).reshape(5, 2)
    store = EmbeddingStore.from_array(
        array, labels=[0, 1, 2, 3, 4], pairs=[[0, 1], [4, 2], [2, 3]], scores=[1, 2, 3]
    )
    view = store.subset([4, 2, 0])
    np.testing.assert_array_equal(view.vectors(), array[[4, 2, 0]])
    assert view.labels.tolist() == [4, 2, 0]
    assert view.pairs.tolist() == [[0, 1]]
    assert view.scores.tolist() == [2.0]
    inner = view.subset([1])
    np.testing.assert_array_equal(inner.rows(np.array([0])), array[[2]])
    with pytest.raises(ValueError, match="twice"):
        store.subset([1, 1])


def test_split_parts_are_disjoint_and_pairs_stay_together():
    rng = np.random.default_rng(0)
    array = np.arange(1000, dtype=np.float32)[:, None]
    pairs = np.stack([np.arange(0, 800, 2), np.arange(1, 800, 2)], axis=1)
    extra = rng.integers(0, 1000, (50, 2))
    store = EmbeddingStore.from_array(array, pairs=np.concatenate([pairs, extra]))
    train, held = store.split(0.1, seed=3)
    assert (len(train), len(held)) == (900, 100)
    own, others = train.vectors()[:, 0], held.vectors()[:, 0]
    assert sorted([*own, *others]) == list(range(1000))
    assert len(held.pairs) >= 25  # pairs are held out together, not torn apart
    every = {tuple(pair) for pair in store.pairs.tolist()}
    for side in (train, held):
        numbers = side.vectors()[:, 0].astype(int)
        assert {tuple(pair) for pair in numbers[side.pairs].tolist()} <= every
    again = store.split(100, seed=3)[1]
    np.testing.assert_array_equal(again.vectors(), held.vectors())
    assert held.fingerprint() != store.split(100, seed=4)[1].fingerprint()
    for wrong in (0, 1000, 1.5, 0.0):
        with pytest.raises(ValueError, match="held_out"):
            store.split(wrong)


def test_sample_is_distinct_and_repeatable():
    store = EmbeddingStore.from_array(np.arange(100, dtype=np.float32)[:, None])
    drawn = store.sample(30, seed=5)
    assert len(np.unique(drawn)) == 30
    np.testing.assert_array_equal(drawn, store.sample(30, seed=5))
    assert not np.array_equal(drawn, store.sample(30, seed=6))
    assert len(store.sample(1000)) == 100


def test_fingerprint_follows_content(tmp_path):
    array = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
    store = EmbeddingStore.from_array(array)
    assert store.fingerprint() == EmbeddingStore.from_array(array.copy()).fingerprint()
    other = array.copy()
    other[7, 1] += 1
    assert store.fingerprint() != EmbeddingStore.from_array(other).fingerprint()
    assert store.fingerprint() != EmbeddingStore.from_array(array, labels=[0] * 20).fingerprint()
    one = EmbeddingStore.embed(StubModel(), TEXTS, tmp_path / "a").fingerprint()
    assert one == EmbeddingStore.embed(StubModel(), TEXTS, tmp_path / "b").fingerprint()
    assert one != EmbeddingStore.embed(StubModel(), TEXTS[1:], tmp_path / "c").fingerprint()
