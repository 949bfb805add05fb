"""Codes on the Hub, against a stand-in for it and with the real client and `datasets`."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import datasets
import numpy as np
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from encoding_runs import TEXTS
from hub_stand_in import CUT, READER, WRITER
from huggingface_hub import DatasetCard, close_session
from killing import in_child
from sentence_transformers import SentenceTransformer

import csr_st
from csr_st import CodeStore, SparseIndex
from csr_st.distributed_encoding.parts import PartWriter, finish, writing
from csr_st.distributed_encoding.spec import EncoderSpec

REPO = "someone/codes"
ON_HUB = f"datasets/{REPO}"
MANY = [f"the {text}" for text in TEXTS[:50]]
# huggingface_hub itself passes its uploads in a way that its HTTP client deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
KINDS = [
    {},
    {"dtype": "float16"},
    {"value_bits": 4},
    {"value_bits": 8, "residual_bits": 0.5, "pursuit": True},
    {"residual_bits": 1},
    {"residual_bits": 2, "dtype": "float16", "pursuit": True},
]


@pytest.fixture
def store(model, tmp_path):
    return CodeStore.encode(model, MANY, tmp_path / "codes", k=6, shard_rows=20)


PUSHED: dict[str, bytes] = {}


@pytest.fixture
def pushed(hub, store):
    """The store, and on the Hub what pushing it gave the first time: the same every time."""
    if not PUSHED:
        store.push_to_hub(REPO)
        PUSHED.update(hub.files(ON_HUB))
    hub.add(ON_HUB, dict(PUSHED))
    return store


def files_of(path):
    return {entry.name: entry.read_bytes() for entry in path.iterdir() if entry.name[0] != "."}


def table(hub, number=0, total=3):
    return pq.read_table(io.BytesIO(hub.files(ON_HUB)[data_name(number, total)]))


def data_name(number, total):
    return f"data/train-{number:05d}-of-{total:05d}.parquet"


def put(hub, **changes):
    """Another commit, with some files changed."""
    changed = {name.replace("__", "."): data for name, data in changes.items()}
    hub.repos[ON_HUB].commit("main", {**hub.files(ON_HUB), **changed})


def put_data(hub, content, number=1):
    hub.repos[ON_HUB].commit("main", {**hub.files(ON_HUB), data_name(number, 3): content})


def rewritten(hub, name, change):
    """Another commit, with a file of JSON changed."""
    content = json.loads(hub.files(ON_HUB)[name])
    change(content)
    hub.repos[ON_HUB].commit("main", {**hub.files(ON_HUB), name: json.dumps(content).encode()})


@pytest.mark.parametrize("options", KINDS)
def test_a_store_comes_back_bit_for_bit(hub, model, tmp_path, options):
    texts = [*MANY, ""]  # a row without latents
    store = CodeStore.encode(model, texts, tmp_path / "a", k=6, shard_rows=20, **options)
    url = store.push_to_hub(REPO)
    assert url.startswith(f"{hub.url}/{ON_HUB}/commit/")
    assert len(hub.repos[ON_HUB].branches["main"]) == 2  # the empty repository, the codes
    loaded = CodeStore.load_from_hub(REPO, tmp_path / "b")
    assert files_of(loaded.path) == files_of(store.path)
    loaded.verify()
    assert loaded.info == store.info
    assert (loaded.value_bits, loaded.residual_bits, loaded.pursuit) == (
        options.get("value_bits"),
        options.get("residual_bits", 0),
        options.get("pursuit", False),
    )


@pytest.mark.parametrize("value_bits", [None, 4])
@pytest.mark.parametrize("ids", [list(range(7, 57)), [f"dök-{i}" for i in range(50)]])
def test_ids_are_a_column(hub, saved, tmp_path, ids, value_bits):
    rows = pa.table({"text": MANY, "id": ids})
    with writing(tmp_path / "a") as begun:
        spec = EncoderSpec(saved, k=4, value_bits=value_bits)
        writer = PartWriter(spec, str(tmp_path / "a"), "text", "id", 20, begun)
        finish(tmp_path / "a", [writer.write(rows.slice(first, 20)) for first in (0, 20, 40)])
    store = CodeStore.open(tmp_path / "a")
    store.push_to_hub(REPO)
    assert table(hub, 1).column("id").to_pylist() == ids[20:40]
    loaded = CodeStore.load_from_hub(REPO, tmp_path / "b")
    assert loaded.ids().tolist() == ids
    assert files_of(loaded.path) == files_of(store.path)


def test_ids_that_a_dictionary_makes_long_are_refused(hub, saved, tmp_path):
    rows = pa.table({"text": MANY, "id": [f"a{i}" for i in range(50)]})
    with writing(tmp_path / "a") as begun:
        writer = PartWriter(EncoderSpec(saved, k=4), str(tmp_path / "a"), "text", "id", 50, begun)
        finish(tmp_path / "a", [writer.write(rows)])
    CodeStore.open(tmp_path / "a").push_to_hub(REPO)
    honest = table(hub, 0, 1)
    place = honest.column_names.index("id")
    content = io.BytesIO()
    kind = honest.schema.field("id").type
    long = honest.set_column(place, honest.field("id"), pa.array(["x" * 100_000] * 50, kind))
    pq.write_table(long, content, use_dictionary=["id"], compression="zstd")
    assert len(content.getvalue()) < 100_000  # of 5 MB
    changed = {**hub.files(ON_HUB), data_name(0, 1): content.getvalue()}
    hub.repos[ON_HUB].commit("main", changed)
    refused(tmp_path / "b", "'id' is encoded as")


def test_columns_are_the_codes(hub, pushed):
    codes = pushed.codes()
    found = table(hub, 1)
    assert found.schema.types == [pa.list_(pa.uint8()), pa.list_(pa.float32()), pa.float32()]
    assert found.column("indices").to_pylist() == codes.indices[20:40].tolist()
    assert found.column("values").to_pylist() == codes.values[20:40].tolist()
    assert found.column("norms").to_pylist() == codes.norms[20:40].tolist()


def test_residual_bits_are_columns(hub, model, tmp_path):
    options = {"k": 4, "residual_bits": 1, "dtype": "float16"}
    store = CodeStore.encode(model, MANY, tmp_path / "codes", **options)
    store.push_to_hub(REPO)
    found, residual = table(hub, 0, 1), store.codes().residual
    assert found.schema.field("values").type == pa.list_(pa.float16())
    assert found.column("residual_levels")[7].as_py() == residual.levels[7].tobytes()
    assert found.column("residual_scales").to_pylist() == residual.scales.tolist()


def test_datasets_and_polars_read_it_without_this_package(hub, store, tmp_path):
    store.push_to_hub(REPO)
    script = f"""
import json, datasets
rows = datasets.load_dataset({REPO!r}, split="train")
streamed = next(iter(datasets.load_dataset({REPO!r}, split="train", streaming=True)))
print(json.dumps([rows[:], streamed, str(rows.features["indices"])]))
"""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": WRITER,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
    }
    run = [sys.executable, "-c", script]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows, first, kind = json.loads(done.stdout.splitlines()[-1])
    assert kind == "List(Value('uint8'))"
    codes = store.codes()
    np.testing.assert_array_equal(np.array(rows["indices"]), codes.indices)
    np.testing.assert_array_equal(np.array(rows["values"], np.float32), codes.values)
    assert first["indices"] == codes.indices[0].tolist()
    content = hub.files(ON_HUB)[data_name(0, 3)]
    read = polars.read_parquet(io.BytesIO(content))
    assert read["indices"].to_list() == codes.indices[:20].tolist()


def test_a_folder_that_was_fetched_is_a_data_set(hub, pushed, tmp_path):
    folder = tmp_path / "fetched"
    for name, content in hub.files(ON_HUB).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    rows = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows.column_names == ["indices", "values", "norms"]
    assert rows[49]["indices"] == pushed.codes().indices[49].tolist()


def test_the_model_and_its_revision_are_in_it(hub, store):
    store.push_to_hub(REPO, model="org/my-csr", model_revision="abc123")
    about = json.loads(hub.files(ON_HUB)["csr_codes.json"])
    recipe = json.loads((store.path / "manifest.json").read_text())["plan"]["recipe"]
    expected = {"id": "org/my-csr", "revision": "abc123", "weights": recipe["weights"]}
    assert about["model"] == expected
    assert [about[name] for name in ("n", "k", "hidden_dim")] == [50, 6, 64]
    text = hub.files(ON_HUB)["README.md"].decode()
    assert "[org/my-csr](https://huggingface.co/org/my-csr), revision abc123" in text
    assert f'CodeStore.load_from_hub("{REPO}", "codes")' in text


def test_a_model_of_the_hub_is_named_without_being_told(hub, transformer_folder, head, tmp_path):
    backbone = SentenceTransformer(transformer_folder, device="cpu")
    csr_st.push_to_hub(csr_st.attach(backbone, head), "someone/tiny-csr")
    loaded = SentenceTransformer("someone/tiny-csr", device="cpu")
    CodeStore.encode(loaded, MANY, tmp_path / "codes").push_to_hub(REPO)
    found = json.loads(hub.files(ON_HUB)["csr_codes.json"])["model"]
    commit, _ = hub.repos["someone/tiny-csr"].at("main")
    assert (found["id"], found["revision"]) == ("someone/tiny-csr", commit)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"model": ""}, ValueError, "model='' is empty"),
        ({"model": 3}, TypeError, "model=3 must be a Hub id"),
        ({"model_revision": ["x"]}, TypeError, "model_revision="),
        ({"token": "two words"}, ValueError, "the token has spaces"),
    ],
)
def test_what_cannot_be_right_is_refused_before_anything_is_sent(hub, store, options, error, words):
    with pytest.raises(error, match=words):
        store.push_to_hub(REPO, **options)
    with pytest.raises(ValueError, match="must be a name such as"):
        store.push_to_hub("../up")
    with pytest.raises(ValueError, match="must be a name such as"):
        CodeStore.load_from_hub("org/na me", store.path)
    assert not hub.requests


def test_a_private_repository_and_a_branch(hub, store, tmp_path, monkeypatch):
    store.push_to_hub(REPO, private=True, revision="try/one")
    assert hub.repos[ON_HUB].private
    assert set(hub.files(ON_HUB)) == {".gitattributes"}
    loaded = CodeStore.load_from_hub(REPO, tmp_path / "b", revision="try/one", token=READER)
    assert files_of(loaded.path) == files_of(store.path)
    with pytest.raises(ConnectionError, match=f"nothing was loaded: {REPO} has no such revision"):
        CodeStore.load_from_hub(REPO, tmp_path / "c", revision="absent")
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(ConnectionError, match=r"nothing was loaded: someone/codes was not found"):
        CodeStore.load_from_hub(REPO, tmp_path / "c", revision="try/one")
    with pytest.raises(ConnectionError, match="the token is missing or refused"):
        store.push_to_hub("someone/other")


def test_private_is_not_ignored_where_a_public_repository_exists(hub, store):
    hub.add(ON_HUB, {".gitattributes": b""})
    with pytest.raises(ValueError, match=f"{REPO} is a public repository; nothing was published"):
        store.push_to_hub(REPO, private=True)
    assert set(hub.files(ON_HUB)) == {".gitattributes"}


def test_a_card_of_someone_else_is_kept(hub, store):
    hub.add(ON_HUB, {"README.md": b"# Mine\n"})
    with pytest.raises(ValueError, match=r"has a card that this push.*replace_card=True"):
        store.push_to_hub(REPO)
    assert not hub.blobs
    store.push_to_hub(REPO, replace_card=True)
    assert b"# codes" in hub.files(ON_HUB)["README.md"]


def test_what_an_author_adds_to_the_card_stays(hub, pushed, model, tmp_path):
    text = hub.files(ON_HUB)["README.md"].decode()
    words = text.replace("tags:\n", "license: mit\ntags:\n- mine\n") + "\n## Story\n\nMy words.\n"
    put(hub, README__md=words.encode())
    CodeStore.encode(model, MANY[:30], tmp_path / "other", k=4).push_to_hub(REPO)
    new = hub.files(ON_HUB)["README.md"].decode()
    assert new.endswith("## Story\n\nMy words.\n")
    assert "| items | 30 |" in new
    assert "| items | 50 |" not in new
    data = DatasetCard(new).data
    assert data.license == "mit"
    assert set(data.tags) == {"mine", "csr-st", "sparse-embeddings"}
    assert data.dataset_info["splits"][0]["num_examples"] == 30


def test_files_of_an_earlier_push_go(hub, store, model, tmp_path):
    store.push_to_hub(REPO)
    put(hub, LICENSE=b"mine")
    smaller = CodeStore.encode(model, MANY[:5], tmp_path / "other", k=4)
    smaller.push_to_hub(REPO)
    files = set(hub.files(ON_HUB))
    assert {name for name in files if name.startswith("data/")} == {data_name(0, 1)}
    assert "LICENSE" in files
    with pytest.raises(ValueError, match=r"another store of codes than someone/codes"):
        CodeStore.load_from_hub(REPO, store.path)
    assert len(CodeStore.load_from_hub(REPO, tmp_path / "b")) == 5


def test_a_damaged_shard_is_not_published(hub, store):
    shard = store.path / "shard-000001.safetensors"
    content = shard.read_bytes()
    shard.write_bytes(content[:-4] + b"\0\0\0\0")
    with pytest.raises(ValueError, match=r"shard-000001\.safetensors was altered"):
        store.push_to_hub(REPO)
    assert set(hub.files(ON_HUB)) == {".gitattributes"}


def test_a_push_that_broke_off_sends_only_what_is_missing(hub, store):
    hub.fail(r"POST /api/datasets/.*/commit/", CUT, times=1)
    with pytest.raises(ConnectionError, match=r"nothing is on the Hub, or all of it"):
        store.push_to_hub(REPO)
    assert set(hub.files(ON_HUB)) == {".gitattributes"}
    before = len(hub.requests)
    store.push_to_hub(REPO)
    assert not [one for one in hub.requests[before:] if one.startswith("PUT /lfs/")]
    assert len([one for one in hub.requests if one.startswith("PUT /lfs/")]) == 3


def test_a_load_that_broke_off_goes_on(hub, pushed, tmp_path):
    path = tmp_path / "b"
    hub.fail("GET .*train-00002-of", 500, times=100)
    with pytest.raises(ConnectionError, match="status 500: load again later"):
        CodeStore.load_from_hub(REPO, path)
    with pytest.raises(ValueError, match="is not complete: 2 of 3 shards"):
        CodeStore.open(path)
    (path / "shard-000001.safetensors").write_bytes(b"cut short")
    hub._faults.clear()
    before = len(hub.requests)
    loaded = CodeStore.load_from_hub(REPO, path)
    assert files_of(loaded.path) == files_of(pushed.path)
    fetched = {one.split("-")[1] for one in hub.requests[before:] if "train-" in one}
    assert fetched == {"00001", "00002"}
    before = len(hub.requests)
    CodeStore.load_from_hub(REPO, path)
    assert not [one for one in hub.requests[before:] if "train-" in one]
    assert not list(path.glob(".hub*"))


def test_a_loaded_store_can_be_pushed_again_and_gone_on_with(hub, pushed, model, tmp_path):
    loaded = CodeStore.load_from_hub(REPO, tmp_path / "b")
    loaded.push_to_hub("someone/copy")
    first, copy = hub.files(ON_HUB), hub.files("datasets/someone/copy")
    assert {name: data for name, data in first.items() if name != "README.md"} == {
        name: data for name, data in copy.items() if name != "README.md"
    }
    (loaded.path / "manifest.json").unlink()
    again = CodeStore.encode(model, MANY, loaded.path, k=6, shard_rows=20)
    assert files_of(again.path) == files_of(pushed.path)


def test_an_index_of_loaded_codes_finds_the_same(hub, pushed, model, tmp_path):
    loaded = CodeStore.load_from_hub(REPO, tmp_path / "b")
    queries = csr_st.encode(model, MANY[:5], k=16)
    one, other = (SparseIndex.build(each.codes()).search(queries) for each in (pushed, loaded))
    np.testing.assert_array_equal(one.ids, other.ids)


def test_another_directory_is_refused(hub, pushed, model, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"contains other files \(notes\.txt\)"):
        CodeStore.load_from_hub(REPO, tmp_path / "full")
    with pytest.raises(ValueError, match="is a file; a store is a directory"):
        CodeStore.load_from_hub(REPO, tmp_path / "full" / "notes.txt")
    CodeStore.encode(model, MANY, tmp_path / "others", k=3)
    with pytest.raises(ValueError, match="another store of codes"):
        CodeStore.load_from_hub(REPO, tmp_path / "others")


# A repository that means harm -------------------------------------------------------------------


def refused(path, words):
    with pytest.raises(ValueError, match=words):
        CodeStore.load_from_hub(REPO, path)
    with pytest.raises((ValueError, FileNotFoundError)):
        CodeStore.open(path)


def test_repositories_of_something_else_are_named(hub, tmp_path):
    hub.add(ON_HUB, {"train.jsonl": b"{}"})
    refused(tmp_path / "b", r"has no csr_codes\.json; CodeStore\.push_to_hub writes it")
    put(hub, csr_codes__json=b'{"format": "other"}')
    refused(tmp_path / "b", "is of 'other', not of 'csr_st.codes_on_hub'")
    put(hub, csr_codes__json=b"[" * 100_000)
    refused(tmp_path / "b", r"csr_codes\.json of someone/codes is not valid JSON")
    put(hub, csr_codes__json=b'{"format": "csr_st.codes_on_hub", "version": 99}')
    refused(tmp_path / "b", "has format version 99, this csr_st reads up to 1")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(dim=10**9), "k=1000000000; k must be in 1..hidden_dim=64"),
        (lambda m: m.update(sizes=[10**12, 20, 10]), r"bytes of codes, and a file on the Hub"),
        (lambda m: m.update(sizes=[-1, 20, 10]), "sizes is"),
        (lambda m: m.update(checksums=["x"]), "checksums is"),
        (lambda m: m.update(arrays={"labels": "../../x"}), "codes have no labels"),
        (lambda m: m.update(path="../../outside"), "unexpected keyword argument 'path'"),
        (lambda m: m["plan"]["recipe"].update(hidden_dim=2**40), "hidden_dim=1099511627776"),
        (lambda m: m["plan"]["recipe"].update(value_bits=5), "'value_bits': 5"),
        (lambda m: m["plan"]["recipe"].update(residual={"bits": 99}), "'residual'"),
        (lambda m: m["plan"]["recipe"].update(ids="pickle"), "'ids': 'pickle'"),
        (lambda m: m.pop("plan"), "KeyError"),
    ],
)
def test_manifests_that_lie_are_refused_before_anything_is_fetched(
    hub, pushed, tmp_path, change, words
):
    rewritten(hub, "manifest.json", change)
    before = len(hub.requests)
    refused(tmp_path / "b", words)
    assert not [one for one in hub.requests[before:] if "train-" in one]
    assert not (tmp_path / "b").exists()


def test_items_of_another_number_are_refused(hub, pushed, tmp_path):
    rewritten(hub, "csr_codes.json", lambda about: about["items"].append("x"))
    refused(tmp_path / "b", "items and shards are not of one number")


def parquet(table):
    content = io.BytesIO()
    pq.write_table(table, content)
    return content.getvalue()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda _: b"", "train-00001-of-00003.parquet"),
        (lambda _: b"import os; os.abort()", "train-00001-of-00003.parquet"),
        (lambda t: parquet(t)[:-200], "train-00001-of-00003.parquet"),
        (lambda t: parquet(t.slice(0, 5)), "it has 5 rows, not 20"),
        (lambda t: parquet(t.drop_columns(["norms"])), "its columns are indices"),
        (lambda t: parquet(t.append_column("more", t.column("norms"))), "its columns are"),
        (lambda t: parquet(swapped(t)), "checksums differ"),
        (
            lambda t: parquet(with_column(t, "indices", [[1, 2]] * 20)),
            "'indices' has 40 entries in 20 rows, not 6",
        ),
        (
            lambda t: parquet(with_column(t, "indices", [None] * 20)),
            "'indices' has 20 entries in 20",
        ),
        (
            lambda t: parquet(with_column(t, "indices", [[1] * 5, [1] * 7] * 10)),
            "5 entries in a row, not k=6",
        ),
        (lambda t: parquet(with_column(t, "norms", [None] * 20)), "'norms' has empty rows"),
        (lambda t: parquet(with_column(t, "values", [[None] * 6] * 20)), "has empty entries"),
        (
            lambda t: parquet(with_column(t, "values", [[float("nan")] * 6] * 20)),
            "row 0 has the values .nan",
        ),
        (lambda t: parquet(with_column(t, "indices", [[200] * 6] * 20)), "200"),
    ],
)
def test_files_that_lie_are_refused(hub, pushed, tmp_path, damage, words):
    put_data(hub, damage(table(hub, 1)))
    refused(tmp_path / "b", words)
    assert (tmp_path / "b" / "shard-000000.safetensors").exists()
    assert not (tmp_path / "b" / "shard-000001.safetensors").exists()


def swapped(t):
    return pa.concat_tables([t.slice(1, 1), t.slice(0, 1), t.slice(2)])


def with_column(t, name, rows):
    place = t.column_names.index(name)
    return t.set_column(place, name, pa.array(rows, t.schema.field(name).type))


def test_a_missing_file_is_named(hub, pushed, tmp_path):
    files = hub.files(ON_HUB)
    hub.repos[ON_HUB].commit("main", {n: d for n, d in files.items() if n != data_name(2, 3)})
    refused(tmp_path / "b", r"has no data/train-00002-of-00003\.parquet")


def test_a_file_that_is_far_too_large_is_not_fetched(hub, pushed, tmp_path, monkeypatch):
    monkeypatch.setattr("csr_st.hub_data.codes.MOST_SHARD_BYTES", 100)
    before = len(hub.requests)
    refused(tmp_path / "b", r"train-00000-of-00003\.parquet of someone/codes has [\d,]+ bytes")
    assert not [one for one in hub.requests[before:] if "train-" in one]


def test_code_beside_the_data_does_not_run(hub, pushed, tmp_path):
    trace = tmp_path / "trace"
    code = f"open({str(trace)!r}, 'w').close()".encode()
    put(hub, codes__py=code, csr_st__py=code, setup__py=code)
    CodeStore.load_from_hub(REPO, tmp_path / "b").verify()
    assert not trace.exists()
    assert not list((tmp_path / "b").glob("*.py"))


@pytest.mark.parametrize("change", range(1, 18, 2))
def test_a_kill_at_any_change_of_loading_leaves_what_can_be_gone_on_with(
    hub, pushed, tmp_path, change
):
    """The process is ended before one of its changes to files; the same call goes on."""
    path = tmp_path / "b"

    def child():
        close_session()  # its connections are the parent's
        count = 0

        def watch(event, arguments):
            nonlocal count
            count += event in ("os.rename", "os.remove", "os.mkdir", "shutil.rmtree")
            if count == change:
                os._exit(77)

        sys.addaudithook(watch)
        CodeStore.load_from_hub(REPO, path)

    status = os.waitstatus_to_exitcode(os.waitpid(in_child(child), 0)[1])
    assert status == 77
    loaded = CodeStore.load_from_hub(REPO, path)
    assert files_of(loaded.path) == files_of(pushed.path)
    assert not list(path.glob(".hub*"))
