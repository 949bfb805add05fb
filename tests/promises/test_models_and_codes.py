"""What is promised of models, heads and codes; each test has the name of its promise."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from killing import kill_at_random
from sentence_transformers import SentenceTransformer

import csr_st
from csr_st import CodeStore, Decoder, SparseCodes
from csr_st.evaluation.quality import Evaluation

COPIES = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
}
LAYERS = {
    "static": lambda backbone, _: backbone,
    "transformer": lambda _, folder: SentenceTransformer(folder, device="cpu"),
}


@pytest.fixture(params=LAYERS)
def any_model(request, backbone, head, transformer_folder):
    return csr_st.attach(LAYERS[request.param](backbone, transformer_folder), head)


def assert_are_codes(found: SparseCodes, expected: SparseCodes, tolerance: float) -> None:
    """At most k latents, by falling value, and nearly the expected ones."""
    assert (np.diff(found.values, axis=1) <= 0).all()
    assert ((found.values > 0).sum(axis=1) <= found.k).all()
    np.testing.assert_allclose(found.to_dense(), expected.to_dense(), atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_half_and_bfloat16_models_give_the_codes_of_float32(any_model, texts, dtype):
    any_model.float()
    expected = csr_st.encode(any_model, texts, k=4)
    dense = csr_st.encode_dense(any_model, texts)
    cast = copy.deepcopy(any_model).to(dtype)
    assert csr_st.find_head(cast).encoder_weight.dtype == torch.float32
    rounded = csr_st.encode_dense(cast, texts)
    # The head adds no error of its own: the codes are those of the vectors that the backbone gave.
    exact = csr_st.encode_vectors(csr_st.find_head(cast), rounded, 4)
    assert_are_codes(csr_st.encode(cast, texts, k=4), exact, 1e-6)
    assert np.count_nonzero(cast.encode(texts, k=4), axis=1).max() <= 4
    if np.abs(rounded - dense).max() < 1e-3:
        assert_are_codes(csr_st.encode(cast, texts, k=4), expected, 0.02)


@pytest.mark.parametrize(
    "context",
    [
        torch.no_grad,
        torch.inference_mode,
        torch.enable_grad,
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: torch.autocast("cpu", torch.float16),
    ],
)
def test_contexts_of_torch_do_not_change_codes(head, rng, context):
    vectors = torch.from_numpy(rng.normal(size=(50, 16)).astype(np.float32))
    head.eval()
    expected = csr_st.encode_vectors(head, vectors, 4)
    with torch.no_grad():
        plain = head({"sentence_embedding": vectors}, k=4)["sentence_embedding"]
    with context():
        found = csr_st.encode_vectors(head, vectors, 4)
        dense = head({"sentence_embedding": vectors}, k=4)["sentence_embedding"]
    assert_are_codes(found, expected, 0)
    torch.testing.assert_close(dense.detach(), plain, rtol=0, atol=0)


def test_autocast_around_a_model_keeps_the_head_in_its_type(any_model, texts):
    with torch.autocast("cpu", torch.bfloat16):
        dense = csr_st.encode_dense(any_model, texts)
        found = csr_st.encode(any_model, texts, k=4)
    exact = csr_st.encode_vectors(csr_st.find_head(any_model), dense, 4)
    assert_are_codes(found, exact, 1e-6)


def test_one_model_in_16_threads_gives_the_results_of_one(any_model):
    words = ["the cat sat", "a dog", "blue fish in the sea", "bird", "red house on the tree"]
    inputs = [[f"{words[i % 5]} {words[j % 5]}" for j in range(i + 1)] for i in range(32)]
    expected = [csr_st.encode(any_model, texts, k=1 + len(texts) % 8) for texts in inputs]
    dense = [any_model.encode(texts, k=4) for texts in inputs]
    with ThreadPoolExecutor(16) as pool:
        codes = pool.map(lambda t: csr_st.encode(any_model, t, k=1 + len(t) % 8), inputs)
        for found, alone in zip(codes, expected, strict=True):
            assert_are_codes(found, alone, 1e-6)
        for found, alone in zip(
            pool.map(lambda t: any_model.encode(t, k=4), inputs), dense, strict=True
        ):
            np.testing.assert_allclose(found, alone, atol=1e-6)


def test_one_head_and_one_decoder_in_16_threads_give_the_results_of_one(rng):
    torch.manual_seed(0)
    head = csr_st.SparseCSRHead(16, k=8, short_ks=[2, 4])
    vectors = rng.normal(size=(300, 16)).astype(np.float32)
    codes = [csr_st.encode_vectors(head, vectors, k) for k in (2, 3, 4, 8)] * 8
    expected = [Decoder.from_head(head).decode(each) for each in codes]
    decoder = Decoder.from_head(head)
    with ThreadPoolExecutor(16) as pool:
        for found, alone in zip(pool.map(decoder.decode, codes), expected, strict=True):
            np.testing.assert_allclose(found, alone, atol=1e-5)
        again = pool.map(lambda each: csr_st.encode_vectors(head, vectors, each.k), codes)
        for found, each in zip(again, codes, strict=True):
            assert_are_codes(found, each, 1e-6)


@pytest.mark.parametrize("how", COPIES)
def test_models_and_heads_can_be_copied_and_pickled(any_model, texts, how):
    expected = csr_st.encode(any_model, texts, k=4)
    copied = COPIES[how](any_model)
    assert_are_codes(csr_st.encode(copied, texts, k=4), expected, 0)
    assert copied.similarity_fn_name == any_model.similarity_fn_name
    head = COPIES[how](csr_st.find_head(any_model))
    vectors = csr_st.encode_dense(any_model, texts)
    assert_are_codes(csr_st.encode_vectors(head, vectors, 4), expected, 1e-6)
    if how != "copy":
        with torch.no_grad():
            csr_st.find_head(copied).encoder_weight.zero_()
        assert_are_codes(csr_st.encode(any_model, texts, k=4), expected, 0)


@pytest.mark.parametrize("how", COPIES)
def test_vector_models_can_be_copied_and_pickled(head, rng, how):
    from csr_st.vectors import VectorInput

    model = SentenceTransformer(modules=[VectorInput(16), head], device="cpu")
    vectors = rng.normal(size=(5, 16)).astype(np.float32)
    expected = csr_st.encode(model, vectors)
    copied = COPIES[how](model)
    assert_are_codes(csr_st.encode(copied, vectors), expected, 0)
    np.testing.assert_array_equal(copied.encode(vectors[0]), model.encode(vectors[0]))


@pytest.mark.parametrize("how", COPIES)
def test_codes_decoders_stores_and_figures_can_be_copied_and_pickled(model, tmp_path, rng, how):
    again = COPIES[how]
    texts = ["the cat", "sea", "a red bird"] * 40
    store = CodeStore.encode(model, texts, tmp_path / "codes", k=4, shard_rows=50)
    codes = store.codes()
    for found in (again(codes), again(store).codes(), *again([codes, codes[:120]])):
        assert_are_codes(found, codes, 0)
        np.testing.assert_array_equal(found.norms, codes.norms)
    for shard, copied in zip(store.shards(), map(again, store.shards()), strict=True):
        assert_are_codes(copied, shard, 0)
    again(store).verify()
    decoder = Decoder.from_head(csr_st.find_head(model))
    np.testing.assert_array_equal(again(decoder).decode(codes), decoder.decode(codes))
    vectors = rng.normal(size=(30, 16)).astype(np.float32)
    figures = csr_st.evaluate(csr_st.find_head(model), vectors, ks=(2,))
    assert again(figures) == figures


def _encode_in_child(model, texts, queue):
    torch.set_num_threads(1)
    queue.put(csr_st.encode(model, texts, k=4))


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_a_model_works_in_processes_that_are_forked_or_spawned(model, texts, start):
    expected = csr_st.encode(model, texts, k=4)  # used before the fork
    context = multiprocessing.get_context(start)
    queue = context.Queue()
    children = [
        context.Process(target=_encode_in_child, args=(model, texts, queue)) for _ in range(2)
    ]
    for child in children:
        child.start()
    for _ in children:
        assert_are_codes(queue.get(timeout=120), expected, 1e-6)
    for child in children:
        child.join(timeout=60)
        assert child.exitcode == 0
    assert_are_codes(csr_st.encode(model, texts, k=4), expected, 0)


@pytest.mark.parametrize("n", [0, 1])
def test_no_or_one_document_and_no_query(model, tmp_path, n):
    texts = ["blue fish"] * n
    codes = csr_st.encode(model, texts, k=4)
    assert codes.shape == (n, 64)
    assert csr_st.encode_dense(model, texts).shape == (n, 16)
    assert model.encode(texts, k=4).shape[0] == n
    for made in (codes.prefix(2), codes.raw(), codes.raw().normalize(), codes[:], codes[[]]):
        assert made.to_dense().shape == (len(made), 64)
        assert made.to_torch().shape == (len(made), 64)
    codes.save(tmp_path / "codes")
    assert len(SparseCodes.load(tmp_path / "codes")) == n
    assert SparseCodes.concatenate([codes, codes]).shape == (2 * n, 64)
    decoder = Decoder.from_head(csr_st.find_head(model))
    assert decoder.decode(codes).shape == (n, 16)
    with pytest.raises(ValueError, match=r"documents (are too few|have shape)"):
        csr_st.evaluate(csr_st.find_head(model), csr_st.encode_dense(model, texts))
    if n:
        assert len(CodeStore.encode(model, texts, tmp_path / "store", k=4).codes()) == 1
    else:
        with pytest.raises(ValueError, match="the data is empty"):
            CodeStore.encode(model, texts, tmp_path / "store", k=4)
        assert not (tmp_path / "store/manifest.json").exists()


NAMES = ["mit Leerzeichen", "übung", "模型", "C:\\Modelle\\neu", "a'b\"c", "emoji 🐟", "x" * 200]


@pytest.mark.parametrize("name", NAMES)
def test_folders_may_have_any_name(model, texts, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    expected = csr_st.encode(model, texts, k=4)
    model.save(name, create_model_card=False)
    csr_st.save(model, f"{name}/again")
    for place in (name, str(tmp_path / name), f"{name}/again"):
        loaded = SentenceTransformer(place, device="cpu")
        assert_are_codes(csr_st.encode(loaded, texts, k=4), expected, 0)
    CodeStore.encode(model, texts, f"{name}/codes", k=4)
    assert_are_codes(CodeStore.open(f"{name}/codes").codes(), expected, 0)
    expected.save(f"{name}/codes.safetensors")
    assert_are_codes(SparseCodes.load(f"{name}/codes.safetensors"), expected, 0)
    vectors = np.eye(16, dtype=np.float32)
    figures = csr_st.evaluate(csr_st.find_head(model), vectors, ks=(2,))
    figures.save(f"{name}/figures.json")
    assert Evaluation.load(f"{name}/figures.json") == figures


@pytest.mark.parametrize("k", [np.int8(4), np.uint64(4), np.array(4), torch.tensor(4)])
def test_k_may_be_an_integer_of_numpy(model, head, texts, rng, k):
    expected = csr_st.encode(model, texts, k=4)
    assert_are_codes(csr_st.encode(model, texts, k=k), expected, 0)
    np.testing.assert_array_equal(model.encode(texts, k=k), model.encode(texts, k=4))
    assert csr_st.encode(model, texts, k=8).prefix(k).k == 4
    vectors = rng.normal(size=(30, 16)).astype(np.float32)
    assert csr_st.encode_vectors(head, vectors, k).k == 4
    assert csr_st.evaluate(head, vectors, ks=(k,)).ks == (4,)
    assert csr_st.SparseCSRHead(16, k=k).k == 4


@pytest.mark.parametrize(
    ("k", "error", "message"),
    [
        (0, ValueError, "k=0 is below 1; pass 1 <= k <= 64"),
        (np.int64(0), ValueError, "k=0 is below 1"),
        (-1, ValueError, "k=-1 is below 1"),
        (65, ValueError, "k=65 exceeds hidden_dim=64; pass 1 <= k <= 64"),
        (True, TypeError, "k=True is not an integer"),
        (np.True_, TypeError, "is not an integer"),
        (4.0, TypeError, "k=4.0 is not an integer"),
        (np.float32(4), TypeError, "is not an integer"),
        ("4", TypeError, "k='4' is not an integer"),
        ([4], TypeError, r"k=\[4\] is not an integer"),
    ],
)
def test_another_k_is_refused_everywhere(model, head, texts, tmp_path, k, error, message):
    calls = [
        lambda: csr_st.encode(model, texts, k=k),
        lambda: model.encode(texts, k=k),
        lambda: model.encode_query(texts, k=k),
        lambda: csr_st.encode_vectors(head, np.eye(16), k),
        lambda: CodeStore.encode(model, texts, tmp_path / "codes", k=k),
        lambda: csr_st.SparseCSRHead(16, k=k),
    ]
    for call in calls:
        with pytest.raises(error, match=message):
            call()
    assert not (tmp_path / "codes").exists()
    store = CodeStore.encode(model, texts, tmp_path / "codes", k=4)
    for call in (lambda: store.codes().prefix(k), lambda: store.codes(k)):
        with pytest.raises(error, match=r"not an integer|is not within 1\.\.4"):
            call()


def test_a_failed_save_of_codes_leaves_what_was_there(model, texts, tmp_path):
    """On a full disk, for which a limit on the size of files stands here."""
    import resource

    codes = csr_st.encode(model, texts, k=4)
    path = tmp_path / "codes.safetensors"
    codes.save(path)
    before = path.read_bytes()
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, unlimited[1]))
        with pytest.raises(OSError, match="File too large"):
            csr_st.encode(model, texts, k=8).save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]
    assert_are_codes(SparseCodes.load(path), codes, 0)


@pytest.mark.slow
def test_codes_are_whole_after_a_kill_at_any_moment(tmp_path, rng):
    path = tmp_path / "codes"
    values = -np.sort(-rng.random((20_000, 16)).astype(np.float32), axis=1)
    codes = SparseCodes(np.tile(np.arange(16), (20_000, 1)), values, 64)

    def save_both():
        for _ in range(20):
            codes[:19_000].save(path)
            codes.save(path)

    def is_whole():
        return not path.exists() or len(SparseCodes.load(path)) in (19_000, 20_000)

    killed, intact = kill_at_random(save_both, save_both, kills=20, seed=0, after_kill=is_whole)
    assert killed == intact >= 10
