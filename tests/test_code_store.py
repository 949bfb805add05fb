"""Codes of a corpus in shards: equal to encoding at once, whatever happened on the way."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from encoding_runs import TEXTS, encode, tiny_model
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize

import csr_st
from csr_st import CodeStore, PackedCodes, SparseCodes, SparseIndex
from csr_st.head import find_head
from csr_st.vectors import VectorInput

RUNS = str(Path(__file__).with_name("encoding_runs.py"))
MANY = [f"the {text}" for text in TEXTS[:50]]


def assert_equal(found, expected):
    for name in ("indices", "values", "norms"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert getattr(found, name).dtype == getattr(expected, name).dtype
    assert found.hidden_dim == expected.hidden_dim


def assert_close(found, expected):
    """Codes of rows that went through the model in other batches, which may round otherwise."""
    tolerance = 1e-3 if expected.values.dtype == np.float16 else 1e-5
    np.testing.assert_array_equal(found.indices, expected.indices)
    for name in ("values", "norms"):
        one, other = getattr(found, name), getattr(expected, name)
        np.testing.assert_allclose(one, other, rtol=tolerance)
        assert one.dtype == other.dtype
    assert found.hidden_dim == expected.hidden_dim


def assert_complete(path):
    store = CodeStore.open(path)
    store.verify()
    expected = csr_st.encode(tiny_model(), TEXTS, k=6, role="query")
    np.testing.assert_allclose(store.codes().to_dense(), expected.to_dense(), atol=1e-6)


def files_of(path):
    return {entry.name: entry.read_bytes() for entry in path.iterdir() if entry.name != ".lock"}


def stop_after(monkeypatch, model, calls, error=KeyboardInterrupt):
    """The model fails at its next call but ``calls``."""
    encode, left = model.encode, iter(range(calls))

    def failing(*arguments, **options):
        if next(left, None) is None:
            raise error
        return encode(*arguments, **options)

    monkeypatch.setattr(model, "encode", failing)


@pytest.mark.parametrize("role", [None, "query", "document"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_equals_encoding_at_once(model, tmp_path, role, dtype):
    find_head(model).query_k = 12
    data = datasets.Dataset.from_dict({"text": MANY, "other": range(50)})
    store = CodeStore.encode(model, data, tmp_path / "c", role=role, dtype=dtype, shard_rows=8)
    expected = csr_st.encode(model, MANY, role=role, dtype=dtype, batch_size=64)
    assert store.k == expected.k == (12 if role == "query" else 8)
    assert len(store) == 50
    assert_close(store.codes(), expected)
    assert_close(store.codes(3), expected.prefix(3))
    assert store.info.prompt == ("the red " if role == "query" else None)
    store.verify()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("bits", [0.5, 2])
def test_a_residual_equals_that_of_encoding_at_once(model, tmp_path, bits, dtype):
    path, options = tmp_path / "c", {"k": 4, "residual_bits": bits, "dtype": dtype}
    store = CodeStore.encode(model, MANY, path, shard_rows=8, **options)
    expected = csr_st.encode(model, MANY, batch_size=64, **options)
    assert store.residual_bits == bits
    codes = store.codes()
    assert_close(codes, expected)
    assert codes.residual.kind == expected.residual.kind
    decoded = codes.residual.decode()  # a sign of nearly 0 may differ: other batches round
    np.testing.assert_allclose(decoded.sum(axis=0), expected.residual.decode().sum(axis=0), atol=1)
    assert (codes.residual.levels == expected.residual.levels).mean() > 0.98
    assert store.codes(3).residual is None
    shard = SparseCodes.load(path / "shard-000001.safetensors")
    np.testing.assert_array_equal(shard.residual.scales, codes.residual.scales[8:16])
    store.verify()
    with pytest.raises(ValueError, match=rf"another plan: .*residual\.bits {bits} there, None now"):
        CodeStore.encode(model, MANY, path, k=4, dtype=dtype)


def test_a_manifest_of_another_residual_is_damaged(model, tmp_path):
    path = tmp_path / "c"
    CodeStore.encode(model, MANY, path, residual_bits=1)
    manifest = path / "manifest.json"
    content = manifest.read_text()
    for damage in ('"bits": 7', '"bits": "1"', '"other": 1'):
        manifest.write_text(content.replace('"bits": 1', damage))
        with pytest.raises(ValueError, match=r"manifest\.json is damaged: it has .*'residual'"):
            CodeStore.open(path)
    manifest.write_text(content.replace('"bits": 1', '"bits": 2'))
    with pytest.raises(ValueError, match="shard-000000"):
        CodeStore.open(path).codes()


@pytest.mark.parametrize("kind", ["list", "stream", "generator"])
def test_data_of_any_kind(model, tmp_path, kind):
    data = {
        "list": MANY,
        "stream": datasets.Dataset.from_dict({"text": MANY}).to_iterable_dataset(),
        "generator": iter(MANY),
    }[kind]
    store = CodeStore.encode(model, data, tmp_path / "c", k=4, shard_rows=8)
    assert_close(store.codes(), csr_st.encode(model, MANY, k=4))


def test_shards_are_mapped_and_files_of_codes_each(model, tmp_path):
    store = CodeStore.encode(model, MANY, tmp_path / "c", k=4, shard_rows=20)
    shards = list(store.shards())
    assert [len(shard) for shard in shards] == [20, 20, 10]
    assert not any(shard.values.flags.owndata for shard in shards)
    for number, shard in enumerate(shards):
        assert_equal(SparseCodes.load(tmp_path / "c" / f"shard-{number:06d}.safetensors"), shard)
    assert_equal(SparseCodes.concatenate(shards), store.codes())


@pytest.mark.parametrize("hidden_dim", [64, 300, 70_000])
def test_indices_of_every_width(backbone, tmp_path, hidden_dim):
    model = csr_st.attach(backbone, csr_st.SparseCSRHead(16, hidden_dim, k=3))
    store = CodeStore.encode(model, MANY, tmp_path / "c", shard_rows=20)
    assert_close(store.codes(), csr_st.encode(model, MANY))
    store.verify()


def test_raw_codes_of_a_head_that_does_not_normalise(backbone, tmp_path):
    model = csr_st.attach(backbone, csr_st.SparseCSRHead(16, k=4, normalize=False))
    store = CodeStore.encode(model, MANY, tmp_path / "c", shard_rows=20)
    codes = store.codes()
    assert codes.norms is None
    np.testing.assert_allclose(codes.values, csr_st.encode(model, MANY).values, rtol=1e-5)
    assert store.codes(2).norms is None


def test_an_index_of_shards_is_the_index_of_the_codes(model, tmp_path):
    store = CodeStore.encode(model, MANY, tmp_path / "c", k=8, shard_rows=8)
    whole = csr_st.encode(model, MANY, k=8)
    queries = csr_st.encode(model, MANY[:5], k=16)
    found, expected = (
        SparseIndex.build(codes).search(queries, top_k=5) for codes in (store.codes(), whole)
    )
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)


@pytest.mark.parametrize("k", [0, 5, -1])
def test_only_what_is_stored_can_be_had(model, tmp_path, k):
    store = CodeStore.encode(model, MANY, tmp_path / "c", k=4)
    with pytest.raises(ValueError, match=f"k={k} is not within 1..4"):
        store.codes(k)


def test_complete_stores_are_opened_without_the_model(model, tmp_path, monkeypatch):
    CodeStore.encode(model, MANY, tmp_path / "c", shard_rows=8)
    stop_after(monkeypatch, model, 0)
    assert len(CodeStore.encode(model, MANY, tmp_path / "c")) == 50


def test_interrupted_runs_go_on(model, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, model, 3)
        with pytest.raises(KeyboardInterrupt):
            CodeStore.encode(model, MANY, tmp_path / "c", shard_rows=8)
    with pytest.raises(ValueError, match=r"not complete: 3 of 7 shards; run the same CodeStore"):
        CodeStore.open(tmp_path / "c")
    stop_after(monkeypatch, model, 4)  # 7 shards in all, and no more
    store = CodeStore.encode(model, MANY, tmp_path / "c", shard_rows=8)
    monkeypatch.undo()
    assert_close(store.codes(), csr_st.encode(model, MANY))


def test_other_models_data_and_settings_are_refused(model, tmp_path):
    path = tmp_path / "c"
    CodeStore.encode(model, MANY, path, k=4, shard_rows=8)
    with pytest.raises(ValueError, match="another plan: k 4 there, 5 now"):
        CodeStore.encode(model, MANY, path, k=5)
    with pytest.raises(ValueError, match="role None there, 'query' now"):
        CodeStore.encode(model, MANY, path, k=4, role="query")
    with pytest.raises(ValueError, match="data of 50 rows there, 49 rows now"):
        CodeStore.encode(model, MANY[:-1], path, k=4)
    with pytest.raises(ValueError, match=r"other data: rows 8\.\.15 there"):
        CodeStore.encode(model, [*MANY[:9], "other", *MANY[10:]], path, k=4)
    with torch.no_grad():
        find_head(model).latent_bias.add_(1)
    with pytest.raises(ValueError, match=r"weights .* there, .* now"):
        CodeStore.encode(model, MANY, path, k=4)


def test_stores_of_another_kind_are_refused(model, backbone, tmp_path):
    csr_st.EmbeddingStore.embed(backbone, MANY, tmp_path / "vectors")
    CodeStore.encode(model, MANY, tmp_path / "codes")
    with pytest.raises(ValueError, match=r"of 'csr_st\.embeddings', not of 'csr_st\.code_store'"):
        CodeStore.open(tmp_path / "vectors")
    with pytest.raises(ValueError, match=r"of 'csr_st\.embeddings', not of 'csr_st\.code_store'"):
        CodeStore.encode(model, MANY, tmp_path / "vectors")
    with pytest.raises(ValueError, match=r"of 'csr_st\.code_store', not of 'csr_st\.embeddings'"):
        csr_st.EmbeddingStore.open(tmp_path / "codes")
    with pytest.raises(FileNotFoundError, match=r"no store of codes at .*nowhere"):
        CodeStore.open(tmp_path / "nowhere")


def test_rows_that_embed_to_nan_are_named_and_finished_shards_stay(model, tmp_path):
    weights = next(model[0].parameters())
    texts = [*MANY[:20], "sea", *MANY[20:30], "a fish in the sea", *MANY[30:]]
    texts = [text if i in (20, 31) else text.replace("sea", "cat") for i, text in enumerate(texts)]
    row = model[0].tokenizer.token_to_id("sea")
    with torch.no_grad():
        kept = weights[row].clone()
        weights[row] = float("nan")
    with pytest.raises(ValueError, match=r"row 20, 31 is NaN or Inf(.|\n)*20: 'sea'\n"):
        CodeStore.encode(model, texts, tmp_path / "c", shard_rows=16)
    assert len(list((tmp_path / "c").glob("shard-*"))) == 1
    with torch.no_grad():
        weights[row] = kept


def test_values_too_large_for_float16_name_the_fix(backbone, tmp_path):
    model = csr_st.attach(backbone, csr_st.SparseCSRHead(16, k=4, normalize=False))
    with torch.no_grad():
        find_head(model).latent_bias.add_(1e6)
    with pytest.raises(ValueError, match="float16's largest number; pass dtype='float32'"):
        CodeStore.encode(model, MANY, tmp_path / "c", dtype="float16")


@pytest.mark.parametrize("data", [[], iter([])])
def test_empty_data_is_refused(model, tmp_path, data):
    with pytest.raises(ValueError, match="the data is empty"):
        CodeStore.encode(model, data, tmp_path / "c")


def test_models_without_a_head_and_bad_arguments_are_refused(model, backbone, tmp_path):
    with pytest.raises(ValueError, match="0 SparseCSRHead modules"):
        CodeStore.encode(backbone, MANY, tmp_path / "c")
    with pytest.raises(ValueError, match="k=65 exceeds hidden_dim=64"):
        CodeStore.encode(model, MANY, tmp_path / "c", k=65)
    with pytest.raises(ValueError, match="role='judge'"):
        CodeStore.encode(model, MANY, tmp_path / "c", role="judge")
    with pytest.raises(ValueError, match="dtype='int8'; pass one of float16, float32"):
        CodeStore.encode(model, MANY, tmp_path / "c", dtype="int8")
    assert not (tmp_path / "c").exists()


def test_cut_and_altered_shards_are_noticed_and_rebuilt(model, tmp_path):
    path = tmp_path / "c"
    before = CodeStore.encode(model, MANY, path, shard_rows=8)
    whole = before.codes()
    shard = path / "shard-000002.safetensors"
    content = shard.read_bytes()
    shard.write_bytes(content[:-30] + bytes([content[-30] ^ 1]) + content[-29:])
    with pytest.raises(ValueError, match=r"shard-000002.* altered .*run CodeStore.encode again"):
        before.verify()
    shard.write_bytes(content[:-4])
    with pytest.raises(ValueError, match=r"shard-000002.* cut short"):
        CodeStore.open(path).codes()
    shard.unlink()
    with pytest.raises(ValueError, match=r"shard-000002.* is missing"):
        CodeStore.open(path).codes()
    shard.write_bytes(content[:-4])
    (path / "manifest.json").unlink()
    assert_equal(CodeStore.encode(model, MANY, path).codes(), whole)


def test_a_full_disk_is_reported_and_leaves_complete_shards(model, tmp_path, monkeypatch):
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    encode, calls = model.encode, []

    def filling(*arguments, **options):
        calls.append(None)
        if len(calls) == 3:  # from now on no file may grow beyond 10 bytes
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, unlimited[1]))
        return encode(*arguments, **options)

    monkeypatch.setattr(model, "encode", filling)
    try:
        with pytest.raises(OSError, match=r"cannot write .*shard-000002.* make room"):
            CodeStore.encode(model, MANY, tmp_path / "c", shard_rows=8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    names = {entry.name for entry in (tmp_path / "c").iterdir() if entry.name != ".lock"}
    assert names == {"plan.json", "shard-000000.safetensors", "shard-000001.safetensors"}
    monkeypatch.undo()
    assert_close(CodeStore.encode(model, MANY, tmp_path / "c").codes(), csr_st.encode(model, MANY))


def test_a_second_writer_is_refused(model, tmp_path, monkeypatch):
    encode, refused = model.encode, []

    def writing_too(*arguments, **options):
        with pytest.raises(BlockingIOError, match="another process is writing"):
            CodeStore.encode(model, MANY, tmp_path / "c")
        refused.append(None)
        return encode(*arguments, **options)

    monkeypatch.setattr(model, "encode", writing_too)
    CodeStore.encode(model, MANY, tmp_path / "c", shard_rows=25)
    assert len(refused) == 2


def test_killed_runs_end_equal_to_an_uninterrupted_one(tmp_path):
    path = tmp_path / "killed"
    command = [sys.executable, RUNS, "kill", str(path), "8", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) >= 4  # the rest ended before they were killed
    assert_complete(path)
    assert files_of(path) == files_of(tmp_path / "killed.whole")  # and no other files


@pytest.mark.slow
def test_two_processes_write_the_store_of_one(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [RUNS, "once", str(tmp_path / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert run.returncode == 0, run.stderr
    encode(tmp_path / "one")
    one, two = files_of(tmp_path / "one"), files_of(tmp_path / "two")
    assert len(one) == 42
    assert one == two
    assert json.loads(one["manifest.json"])["sizes"] == [10] * 40


def test_codes_of_another_power_or_backbone_are_refused(model, backbone, tmp_path):
    CodeStore.encode(model, MANY, tmp_path / "c", k=4)
    weights = find_head(model).state_dict()

    def headed(backbone, **settings):
        head = csr_st.SparseCSRHead(16, k=8, **settings)
        head.load_state_dict(weights)
        return csr_st.attach(backbone, head)

    with pytest.raises(ValueError, match=r"modules\.1\.power 1\.0 there, 0\.5 now"):
        CodeStore.encode(headed(backbone, power=0.5), MANY, tmp_path / "c", k=4)
    longer = SentenceTransformer(modules=[*backbone, Normalize()], device="cpu")
    with pytest.raises(ValueError, match=r"modules\.1\.class 'SparseCSRHead' there, 'Normalize'"):
        CodeStore.encode(headed(longer), MANY, tmp_path / "c", k=4)


def test_the_models_class_is_noted_as_earlier_versions_did(model, tmp_path):
    """A store that one of them began goes on."""
    CodeStore.encode(model, MANY, tmp_path / "c")
    plan = json.loads((tmp_path / "c/plan.json").read_text())
    kind = "sentence_transformers.sentence_transformer.model.SentenceTransformer"
    assert plan["recipe"]["model"] == kind


def test_the_heads_default_k_does_not_decide_codes_of_a_given_k(model, tmp_path, monkeypatch):
    CodeStore.encode(model, MANY, tmp_path / "c", k=4)
    find_head(model).k, find_head(model).query_k = 16, 32
    stop_after(monkeypatch, model, 0)
    assert CodeStore.encode(model, MANY, tmp_path / "c", k=4).k == 4


def test_vectors_that_were_appended_or_changed_are_noticed(tmp_path, rng):
    model = SentenceTransformer(modules=[VectorInput(16)], device="cpu")
    model = csr_st.attach(model, csr_st.SparseCSRHead(16, k=4))
    vectors = rng.normal(size=(1500, 16)).astype(np.float32)
    CodeStore.encode(model, vectors, tmp_path / "c")
    with pytest.raises(ValueError, match=r"other data: data of 1500 rows there, 1600 rows now"):
        CodeStore.encode(model, np.concatenate([vectors, vectors[:100]]), tmp_path / "c")
    vectors[1200:] *= -1
    with pytest.raises(ValueError, match=r"other data: rows 1024\.\.1499 there are not"):
        CodeStore.encode(model, vectors, tmp_path / "c")


def test_codes_of_an_earlier_version_are_opened_and_not_reused(model, tmp_path):
    path = tmp_path / "c"
    whole = CodeStore.encode(model, MANY, path).codes()
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["plan"]["recipe"]["modules"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert_equal(CodeStore.open(path).codes(), whole)
    with pytest.raises(ValueError, match=r"written by an earlier csr_st.*Embed again"):
        CodeStore.encode(model, MANY, path)


@pytest.mark.parametrize("value_bits", [4, 8])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("batch_size", [64, 33])  # of 33, parts of a shard end within a byte
def test_packed_shards_are_the_codes_packed(backbone, tmp_path, value_bits, normalize, batch_size):
    model = csr_st.attach(backbone, csr_st.SparseCSRHead(16, k=7, normalize=normalize))
    options = {"batch_size": batch_size, "shard_rows": 21}
    plain = CodeStore.encode(model, MANY, tmp_path / "plain", **options).codes()
    store = CodeStore.encode(model, MANY, tmp_path / "c", value_bits=value_bits, **options)
    packed = plain.pack(value_bits)
    assert store.value_bits == CodeStore.open(tmp_path / "c").value_bits == value_bits
    np.testing.assert_array_equal(store.packed().bits, packed.bits)
    assert store.packed()._about() == packed._about()
    for found, expected in (
        (store.codes(), packed.unpack()),
        (store.codes(3), packed.unpack().prefix(3)),
        (SparseCodes.concatenate(store.shards()), packed.unpack()),
    ):
        np.testing.assert_array_equal(found.indices, expected.indices)
        np.testing.assert_array_equal(found.values, expected.values)
        assert found.normalized == normalize
    store.verify()
    shard = PackedCodes.load(tmp_path / "c" / "shard-000001.safetensors")
    np.testing.assert_array_equal(shard.bits, packed[21:42].bits)
    with pytest.raises(ValueError, match=r"has PackedCodes, .*open it with PackedCodes\.load"):
        SparseCodes.load(tmp_path / "c" / "shard-000001.safetensors")


def test_packed_shards_take_the_bytes_of_packed_codes(model, tmp_path):
    store = CodeStore.encode(model, MANY, tmp_path / "c", k=8, value_bits=4)
    assert repr(store) == "CodeStore(n=50, k=8, hidden_dim=64, value_bits=4, shards=1)"
    shard = tmp_path / "c" / "shard-000000.safetensors"
    header = 8 + int.from_bytes(shard.read_bytes()[:8], "little")
    # 15 bits of scale, 8 of 4 for values, 8 of 2 and 8 + 15 for latents
    assert shard.stat().st_size - header == -(-50 * (15 + 32 + 16 + 23) // 8)


def test_a_store_is_packed_or_not(model, tmp_path, monkeypatch):
    CodeStore.encode(model, MANY, tmp_path / "plain", k=4)
    CodeStore.encode(model, MANY, tmp_path / "packed", k=4, value_bits=4)
    with pytest.raises(ValueError, match="another plan: value_bits None there, 8 now"):
        CodeStore.encode(model, MANY, tmp_path / "plain", k=4, value_bits=8)
    with pytest.raises(ValueError, match="another plan: value_bits 4 there, None now"):
        CodeStore.encode(model, MANY, tmp_path / "packed", k=4)
    with pytest.raises(ValueError, match=r"not packed; call codes\(\)\.pack\(\)"):
        CodeStore.open(tmp_path / "plain").packed()
    stop_after(monkeypatch, model, 0)
    CodeStore.encode(model, MANY, tmp_path / "packed", k=4, value_bits=4)  # complete


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"value_bits": 5}, ValueError, "value_bits=5 is neither 4 nor 8"),
        ({"value_bits": 16}, ValueError, "value_bits=16 exceeds 8"),
        ({"value_bits": "4"}, TypeError, "value_bits='4' is not an integer"),
        (
            {"value_bits": 4, "dtype": "float16"},
            ValueError,
            "dtype='float16' is for values that are not packed; leave it out, or value_bits=4",
        ),
    ],
)
def test_options_of_packed_stores_are_checked_before_work(model, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        CodeStore.encode(model, MANY, tmp_path / "c", **options)
    assert not (tmp_path / "c").exists()


def test_an_interrupted_packed_store_goes_on(model, tmp_path, monkeypatch):
    whole = CodeStore.encode(model, MANY, tmp_path / "whole", shard_rows=9, value_bits=8)
    with monkeypatch.context() as patch:
        stop_after(patch, model, 3)
        with pytest.raises(KeyboardInterrupt):
            CodeStore.encode(model, MANY, tmp_path / "c", shard_rows=9, value_bits=8)
    store = CodeStore.encode(model, MANY, tmp_path / "c", shard_rows=9, value_bits=8)
    np.testing.assert_array_equal(store.packed().bits, whole.packed().bits)
    assert files_of(tmp_path / "c") == files_of(tmp_path / "whole")


def test_damaged_packed_shards_are_named(model, tmp_path):
    store = CodeStore.encode(model, MANY, tmp_path / "c", shard_rows=8, value_bits=4)
    shard = tmp_path / "c" / "shard-000002.safetensors"
    content = shard.read_bytes()
    shard.write_bytes(content[:-8] + bytes(8))
    with pytest.raises(ValueError, match=r"shard-000002.* altered .*run CodeStore.encode again"):
        store.verify()
    for read in (store.codes, lambda: list(store.shards())):
        with pytest.raises(ValueError, match=r"shard-000002.*row \d of the packed .* is damaged"):
            read()
    shard.write_bytes(content[:-4])
    with pytest.raises(ValueError, match=r"shard-000002.* cut short"):
        store.packed()


def test_an_index_of_packed_shards_has_their_codes(model, tmp_path):
    store = CodeStore.encode(model, MANY, tmp_path / "c", k=8, shard_rows=8, value_bits=4)
    queries = csr_st.encode(model, MANY[:5], k=16)
    found = SparseIndex.build(store.packed()).search(queries, top_k=50)
    scores = queries.to_dense() @ store.codes().to_dense().T
    expected = np.take_along_axis(scores, found.ids, axis=1)
    np.testing.assert_allclose(found.scores, expected, atol=1e-6)
