"""The command line, as a user types it: what it prints, writes, refuses, and its exit codes."""

from __future__ import annotations

import json
import logging
import re

import datasets
import numpy as np
import pytest
from conftest import WORDS
from huggingface_hub import constants
from sentence_transformers import SentenceTransformer

import csr_st
from csr_st import cli
from csr_st.head import find_head

COMMANDS = ["train", "evaluate", "encode", "index", "search", "explore", "push", "convert", "demo"]
COMMANDS += ["distill-queries", "export"]


@pytest.fixture
def fails(run):
    """Runs a command that must fail with one line on stderr; returns exit code and line."""

    def call(*arguments):
        code, out, err = run(*arguments)
        lines = [line for line in err.splitlines() if line.startswith("csr-st: ")]
        assert len(lines) == 1, err
        assert err.endswith(f"{lines[0]}\n")
        assert "Traceback" not in err
        assert not out
        return code, lines[0]

    return call


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    """The user's cache is not used, and relative paths are in the test's own folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def base(backbone, tmp_path):
    """The folder of a dense model."""
    backbone.save(str(tmp_path / "base"))
    return tmp_path / "base"


@pytest.fixture
def sparse(model, tmp_path):
    """The folder of a model with an untrained head."""
    csr_st.save(model, tmp_path / "sparse")
    return tmp_path / "sparse"


@pytest.fixture
def rows(tmp_path):
    """80 texts with classes, as a file."""
    rng = np.random.default_rng(0)
    items = [{"text": " ".join(rng.choice(WORDS, 5)), "label": i % 3} for i in range(80)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(item) for item in items))
    return path


def test_help_names_every_command(run):
    for arguments in (["--help"], []):
        code, out, _ = run(*arguments)
        assert code == 0
        assert out.startswith("Usage: csr-st ")
        assert all(f"\n  {command} " in out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert out.startswith(f"Usage: csr-st {command} ")
    options = [part for part in out.split("\n  ") if part.startswith("--")]
    assert options
    for option in options:  # each has a help text after its name and type
        assert len(option.split()) >= 3, option


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["train"], "(see 'csr-st train --help')"),
        (["train", "m", "d"], "Missing option '--output'"),
        (["encode", "m", "d", "--output", "o", "--k", "many"], "Invalid value for '--k'"),
        (["evaluate", "m", "d", "--limit", "3"], "Invalid value for '--limit'"),
        (
            ["train", "m", "d", "--output", "o", "--patience", "-1"],
            "Invalid value for '--patience'",
        ),
        (["push", "f", "r", "--publik"], "No such option: --publik"),
    ],
)
def test_misuse_is_one_line_and_exit_code_2(fails, arguments, words):
    code, line = fails(*arguments)
    assert code == 2
    assert words in line


def test_train_makes_a_model_with_card_that_loads(run, base, rows, tmp_path):
    out_folder = tmp_path / "my-csr"
    code, out, err = run(
        "train",
        base,
        rows,
        "--output",
        out_folder,
        "--steps",
        5,
        "--k",
        4,
        "--hidden-dim",
        64,
        "--base-model",
        "org/base",
    )
    assert code == 0, err
    assert "| rescored through the decoder |" in out
    assert f"Load it with SentenceTransformer('{out_folder}')" in out
    text = (out_folder / "README.md").read_text()
    assert "held-out rows of rows.jsonl" in text
    assert "[org/base](https://huggingface.co/org/base) with a sparse" in text
    loaded = SentenceTransformer(str(out_folder), device="cpu")
    assert find_head(loaded).k == 4
    codes = loaded.encode(["the cat sat"], k=2)
    assert codes.shape == (1, 64)
    assert np.count_nonzero(codes) <= 2


@pytest.fixture
def train_on_noise(run, rng, tmp_path):
    """Trains 300 steps on random vectors, which overfit; returns the last step and the output."""
    np.save("noise.npy", rng.normal(size=(130, 32)).astype(np.float32))

    def call(*options):
        code, out, err = run(
            "train", "noise.npy", "--output", "o", "--recipe", "csr", "--steps", 300, "--k", 4,
            "--hidden-dim", 64, "--learning-rate", 0.03, *options,
        )  # fmt: skip
        assert code == 0, err
        return json.loads((tmp_path / "o" / "history.json").read_text())[-1]["step"], out

    return call


def test_patience_ends_training_early_and_says_so(train_on_noise):
    last, out = train_on_noise("--patience", 2, "--evaluate-every", 25)
    message = re.search(r"Stopped early at step (\d+) of 300; kept the head of step (\d+), ", out)
    assert message is not None, out
    stopped, kept = map(int, message.groups())
    assert last == stopped < 300
    assert stopped - kept == 2 * 25  # two measurements in a row were no better


def test_patience_that_does_not_run_out_says_which_head_was_kept(train_on_noise):
    last, out = train_on_noise("--patience", 99, "--evaluate-every", 25)
    assert last == 300
    message = re.search(r"Ran all 300 steps; kept the head of step (\d+), ", out)
    assert message is not None, out
    assert int(message[1]) < 300


@pytest.mark.parametrize("options", [(), ("--patience", 0, "--evaluate-every", 25)])
def test_training_runs_to_its_end_without_patience(train_on_noise, options):
    last, out = train_on_noise(*options)
    assert last == 300
    assert "kept the head" not in out


def test_train_with_labels_and_the_paper_s_recipe(run, base, rows, tmp_path):
    code, out, err = run(
        "train", base, rows, "--output", tmp_path / "o", "--steps", 3, "--k", 4,
        "--recipe", "csrv2", "--labels", "label", "--learning-rate", 0.01, "--label-weight", 0.5,
    )  # fmt: skip
    assert code == 0, err
    assert "| supervised_weight | 0.5 |" in (tmp_path / "o" / "README.md").read_text()
    assert "5-NN accuracy" in out


def test_encode_index_and_search(run, sparse, model, tmp_path):
    (tmp_path / "documents.txt").write_text("the cat sat\na dog ran\nblue fish swam\n")
    (tmp_path / "names.txt").write_text("feline\nhound\nfish\n")
    code, out, err = run(
        "encode", sparse, "documents.txt", "--output", "codes.safetensors",
        "--k", 8, "--role", "document",
    )  # fmt: skip
    assert code == 0, err
    assert "SparseCodes(n=3, k=8, hidden_dim=64" in out
    codes = csr_st.SparseCodes.load(tmp_path / "codes.safetensors")
    expected = csr_st.encode(model, ["the cat sat", "a dog ran", "blue fish swam"], k=8)
    np.testing.assert_array_equal(codes.to_dense(), expected.to_dense())

    code, out, err = run(
        "index", "codes.safetensors", "--output", "index.csr",
        "--model", sparse, "--ids", "names.txt",
    )  # fmt: skip
    assert code == 0, err
    assert out == "SparseIndex(n=3, k=8, hidden_dim=64) with decoder in index.csr\n"

    code, out, err = run("search", "index.csr", "--model", sparse, "a dog ran")
    assert code == 0, err
    fields = [line.split("\t") for line in out.splitlines()]
    assert [rank for rank, _, _ in fields] == ["1", "2", "3"]
    assert {name for _, _, name in fields} == {"feline", "hound", "fish"}
    scores = csr_st.encode(model, ["a dog ran"], k=32, role="query").to_dense() @ (
        expected.to_dense().T
    )
    order = np.argsort(-scores[0])
    assert [name for _, _, name in fields] == [["feline", "hound", "fish"][i] for i in order]
    np.testing.assert_allclose([float(f[1]) for f in fields], scores[0][order], atol=6e-5)


def test_encode_to_a_folder_of_shards_and_index_it(run, sparse, rows, tmp_path):
    texts = [json.loads(line)["text"] for line in rows.read_text().splitlines()]
    code, out, err = run("encode", sparse, rows, "--output", "codes", "--k", 6, "--half")
    assert code == 0, err
    assert out == "CodeStore(n=80, k=6, hidden_dim=64, shards=1) in codes\n"
    model = SentenceTransformer(str(sparse), device="cpu")
    expected = csr_st.encode(model, texts, k=6, dtype="float16")
    codes = csr_st.CodeStore.open("codes").codes()
    np.testing.assert_array_equal(codes.indices, expected.indices)
    np.testing.assert_array_equal(codes.values, expected.values)
    shard = tmp_path / "codes" / "shard-000000.safetensors"
    before = shard.stat().st_mtime_ns
    assert run("encode", sparse, rows, "--output", "codes", "--k", 6, "--half")[0] == 0
    assert shard.stat().st_mtime_ns == before  # complete: nothing is encoded again

    code, out, err = run("index", "codes", "--output", "i.csr")
    assert code == 0, err
    assert out == "SparseIndex(n=80, k=6, hidden_dim=64) without decoder in i.csr\n"


def test_search_rescores_by_the_cosine_of_the_decoded_document(run, sparse, model, tmp_path):
    texts = ["the cat sat", "a dog ran", "blue fish swam", "red bird flew"]
    codes = csr_st.encode(model, texts, k=8)
    codes.save(tmp_path / "codes.safetensors")
    assert run("index", "codes.safetensors", "--output", "i.csr", "--model", sparse)[0] == 0
    ask = ("--model", sparse, "blue bird", "--top-k", 2, "--rescore", 9)
    code, out, err = run("search", "i.csr", *ask)
    assert code == 0, err
    head = find_head(model)
    raw = codes.raw().to_dense()
    decoded = raw @ head.decoder_weight.detach().numpy() + head.pre_bias.detach().numpy()
    query = csr_st.encode_dense(model, ["blue bird"], role="query")[0]
    cosine = decoded @ query / np.linalg.norm(decoded, axis=1) / np.linalg.norm(query)
    best = np.argsort(-cosine)[:2]
    fields = [line.split("\t") for line in out.splitlines()]
    assert [int(f[2]) for f in fields] == best.tolist()
    np.testing.assert_allclose([float(f[1]) for f in fields], cosine[best], atol=6e-5)

    run("index", "codes.safetensors", "--output", "plain.csr")
    again = run("search", "plain.csr", *ask)
    assert again[1] == out  # the model's decoder is used where the index stores none


@pytest.mark.parametrize("output", ["codes.safetensors", "codes"])
def test_residual_bits_reach_the_search(run, sparse, model, tmp_path, output):
    texts = ["the cat sat", "a dog ran", "blue fish swam", "red bird flew"]
    (tmp_path / "documents.txt").write_text("\n".join(texts))
    encode = ("encode", sparse, "documents.txt", "--output", output, "--k", 2)
    assert run(*encode, "--residual-bits", 0.5)[0] == 0
    assert run("index", output, "--output", "i.csr", "--model", sparse)[0] == 0
    ask = ("--model", sparse, "blue bird", "--top-k", 4, "--rescore", 9)
    code, out, err = run("search", "i.csr", *ask)
    assert code == 0, err
    codes = csr_st.encode(model, texts, k=2, residual_bits=0.5)
    decoded = csr_st.Decoder.from_head(find_head(model)).decode(codes)
    query = csr_st.encode_dense(model, ["blue bird"], role="query")[0]
    cosine = decoded @ query / np.linalg.norm(decoded, axis=1) / np.linalg.norm(query)
    fields = [line.split("\t") for line in out.splitlines()]
    assert [int(f[2]) for f in fields] == np.argsort(-cosine).tolist()
    np.testing.assert_allclose([float(f[1]) for f in fields], -np.sort(-cosine), atol=6e-5)


def test_search_of_several_queries_heads_each(run, sparse, model, tmp_path):
    csr_st.SparseIndex.build(csr_st.encode(model, ["cat", "dog"], k=4)).save(tmp_path / "i.csr")
    code, out, _ = run("search", "i.csr", "--model", sparse, "cat", "dog", "--top-k", 1,
                       "--k", 2, "--query-k", 2)  # fmt: skip
    assert code == 0
    lines = out.splitlines()
    assert [lines[0], lines[2]] == ["# cat", "# dog"]
    assert len(lines) == 4


def test_evaluate_fills_the_section_of_the_model_s_card(run, sparse, rows):
    readme = sparse / "README.md"
    readme.write_text(readme.read_text() + "\n## Story\n\nMine.\n")
    code, out, err = run("evaluate", sparse, rows, "--output", sparse, "--limit", 40)
    assert code == 0, err
    text = readme.read_text()
    table, caution = out.strip().split("\n\n")[-2:]
    assert table in text
    assert caution in text
    assert "Measured on rows.jsonl: 40 documents" in text
    assert "Not measured yet" not in text
    assert "## Story\n\nMine.\n" in text
    saved = json.loads((sparse / "evaluation.json").read_text())
    assert saved["n_documents"] == 40


def test_evaluate_on_judged_queries(run, sparse, tmp_path):
    folder = tmp_path / "beir"
    folder.mkdir()
    documents = [{"_id": f"d{i}", "text": f"the {word} sat"} for i, word in enumerate(WORDS)]
    queries = [{"_id": f"q{i}", "text": word} for i, word in enumerate(WORDS)]
    for name, items in (("corpus", documents), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(item) for item in items))
    lines = [f"q{i}\td{i}\t1" for i in range(len(WORDS))]
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(lines))
    code, out, err = run("evaluate", sparse, folder)
    assert code == 0, err
    assert "| nDCG@10 (dense: " in out
    assert "| Recall@1 of the dense neighbours" in out
    assert "Too few rows for a reliable figure: 19 documents and 19 queries" in out
    code, _, err = run("evaluate", sparse, folder, "--limit", 11)
    assert code == 1
    assert "--limit 11: " in err
    assert "always used in full" in err


@pytest.mark.parametrize("option", [("--pairs", "a,b"), ("--scores", "s"), ("--skip-bad",)])
def test_options_of_data_are_refused_for_vectors(fails, tmp_path, option):
    np.save(tmp_path / "v.npy", np.eye(12, dtype=np.float32))
    code, line = fails("train", "v.npy", "--output", "o", *option)
    assert code == 1
    assert f"{option[0]} needs a DATASET" in line


def test_ids_are_lines_and_nothing_but_lines(run, sparse, model, tmp_path):
    """A byte order mark is not part of an id; a Unicode line separator does not end one."""
    csr_st.encode(model, ["cat", "dog"], k=4).save("codes")
    for names in (["7", "8"], ["a\u2028b", "c\x0cd"]):
        content = "\ufeff" + "\r\n".join(names) + "\r\n"
        (tmp_path / "names.txt").write_text(content, encoding="utf-8", newline="")
        code, _, err = run("index", "codes", "--output", "i.csr", "--ids", "names.txt")
        assert code == 0, err
        code, out, err = run("search", "i.csr", "--model", sparse, "cat")
        assert code == 0, err
        found = [line.split("\t")[2] for line in out.removesuffix("\n").split("\n")]
        assert found
        assert set(found) <= set(names)


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the Hub, for commands in this process."""
    from hub_stand_in import WRITER, HubStandIn

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", WRITER)
    monkeypatch.setattr("warnings.filterwarnings", lambda *_, **__: None)
    with HubStandIn() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        yield found


@pytest.fixture
def push(run, hub):
    """Pushes to org/my-csr; what it printed, and the files that are there."""

    def call(*arguments):
        with pytest.warns(DeprecationWarning, match="Use 'content="):  # huggingface_hub's own
            code, out, err = run("push", *arguments)
        assert code == 0, err
        return out, err, hub.repos["org/my-csr"].at("main")[1]

    return call


def test_push_prints_where_the_model_is(push, hub, sparse):
    from hub_stand_in import WRITER

    out, err, _ = push(sparse, "org/my-csr", "--private")
    assert out.startswith(f"Published: {hub.url}/org/my-csr/commit/")
    assert hub.repos["org/my-csr"].private
    assert WRITER not in out + err


@pytest.fixture
def names(tmp_path):
    """Names of a latent, in words.json."""
    found = [csr_st.LatentName(5, ("wing", "lift"), 0.9, 0.25)]
    names = csr_st.LatentNames(found, hidden_dim=64, k=8, n_texts=80)
    names.save(tmp_path / "words.json")
    return names


@pytest.mark.parametrize("option", [True, False])
def test_push_publishes_names_given_or_in_the_folder(push, sparse, names, tmp_path, option):
    if option:
        _, _, files = push(sparse, "org/my-csr", "--names", "words.json")
    else:
        (tmp_path / "words.json").rename(sparse / "latents.json")
        _, _, files = push(sparse, "org/my-csr")
    assert files["latents.json"].decode() == names.to_json()
    assert "| 5 | wing, lift | 0.90 | 25.0% |" in files["README.md"].decode()


def test_push_refuses_names_of_another_head_before_anything_is_sent(fails, hub, sparse, tmp_path):
    csr_st.LatentNames([], hidden_dim=65, k=8, n_texts=80).save(tmp_path / "other.json")
    (tmp_path / "junk.json").write_text("[]")
    words = "hidden_dim=65, and this head has 64"
    assert words in fails("push", sparse, "org/my-csr", "--names", "other.json")[1]
    (tmp_path / "other.json").rename(sparse / "latents.json")
    assert words in fails("push", sparse, "org/my-csr")[1]
    (tmp_path / "junk.json").rename(sparse / "latents.json")
    assert "has no names of latents" in fails("push", sparse, "org/my-csr")[1]
    assert hub.requests == []


def test_convert_to_native_and_back(run, sparse, model, texts, tmp_path):
    code, out, err = run("convert", sparse, "--to", "native", "--output", "native")
    assert code == 0, err
    assert out.endswith("Converted to native\n")
    native = SentenceTransformer(str(tmp_path / "native"), device="cpu")
    expected = model.encode(texts, k=4)
    np.testing.assert_allclose(native.encode(texts, max_active_dims=4), expected, atol=1e-6)
    code, _, err = run("convert", "native", "--to", "csr", "--output", "back")
    assert code == 0, err
    back = SentenceTransformer(str(tmp_path / "back"), device="cpu")
    np.testing.assert_allclose(back.encode(texts, k=4), expected, atol=1e-6)


@pytest.fixture
def broken(sparse, rows, model, tmp_path):
    """Files that commands cannot use."""
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "junk").write_bytes(b"\x00" * 100)
    (tmp_path / "one.txt").write_text("one\n")
    (tmp_path / "d.safetensors").mkdir()
    codes = csr_st.encode(model, ["cat", "dog"], k=4)
    codes.save(tmp_path / "codes")
    csr_st.SparseIndex.build(codes).save(tmp_path / "i.csr")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("train base-absent rows.jsonl --output o", "base-absent"),
        ("train a/b/c rows.jsonl --output o", "a/b/c is neither a folder nor a Hub id"),
        ("train org/absent rows.jsonl --output o", "org/absent"),
        ("train base absent.csv --output o", "absent.csv does not exist"),
        ("train base rows.jsonl --output rows.jsonl", "rows.jsonl is a file; name a folder"),
        ("train base rows.jsonl --output o --recipe best", "'best' is not one of"),
        ("train base rows.jsonl --output o --pairs text", "must name two columns"),
        ("train base rows.jsonl --output o --labels kind", "kind"),
        ("train base rows.jsonl --output o --k 99 --hidden-dim 64", "64"),
        ("train base empty.jsonl --output o", "empty.jsonl"),
        ("encode base rows.jsonl --output c", "SparseCSRHead"),
        ("encode sparse rows.jsonl --output c --k 65", "k=65 exceeds hidden_dim=64"),
        ("encode sparse rows.jsonl --output c --role judge", "role='judge'"),
        ("encode sparse rows.jsonl --output sparse", "sparse contains other files"),
        ("encode sparse rows.jsonl --output d.safetensors", "is a folder; name a file in it"),
        ("encode sparse rows.jsonl --output junk", "junk is a file; name a folder"),
        ("encode sparse rows.jsonl --output c.safetensors --text-column body", "not among"),
        ("encode sparse rows.jsonl --output c --text-column body", "'body' is not in the data"),
        ("evaluate sparse one.txt", "1 documents are too few"),
        ("index absent --output i", "absent"),
        ("index junk --output i", "junk"),
        ("index codes --output i --ids one.txt", "1 ids for 2 documents"),
        ("index codes --output i --model base", "SparseCSRHead"),
        ("search absent cat --model sparse", "absent"),
        ("search junk cat --model sparse", "junk"),
        ("search i.csr cat --model sparse --k 5", "k=5 is not within 1..4"),
        ("search i.csr cat --model sparse --query-k 65", "k=65 exceeds hidden_dim=64"),
        ("convert sparse --to onnx --output o", "--to 'onnx' is not one of native"),
        ("convert sparse --to native --output sparse", "sparse is not empty; name a new folder"),
        ("convert base --to native --output o", "there is no head to convert"),
        ("convert junk --to csr --backbone base --output o", "junk"),
        ("push base org/name", "has no SparseCSRHead"),
        ("push absent org/name", "no modules.json"),
        ("push sparse org/name --names absent", "--names absent is no file; explore"),
        ("push sparse org/name --names rows.jsonl", "rows.jsonl has no names of latents"),
        ("push sparse org/my/name", "must be a name such as 'org/my-model'"),
        ("push sparse org/name", "HF_HUB_OFFLINE is set"),
    ],
)
def test_what_the_user_can_fix_is_one_line_and_exit_code_1(fails, base, broken, arguments, words):
    code, line = fails(*arguments.split())
    assert code == 1
    assert words in line
    assert "unexpected" not in line


def test_an_unexpected_error_is_one_line_too_and_shows_its_traceback_on_request(
    fails, run, base, rows, monkeypatch
):
    def fail(*_, **__):
        raise KeyError("inner")

    monkeypatch.setattr("csr_st.workflow.train_model", fail)
    code, line = fails("train", base, rows, "--output", "o")
    assert code == 1
    assert "KeyError: 'inner' (unexpected: run again with CSR_ST_TRACEBACK=1" in line
    monkeypatch.setenv("CSR_ST_TRACEBACK", "1")
    monkeypatch.setattr("sys.argv", ["csr-st", "train", str(base), str(rows), "--output", "o"])
    with pytest.raises(KeyError):
        cli.main()


def test_tokens_in_messages_are_masked(fails):
    secret = "hf_" + "planted" * 5
    code, line = fails("push", f"https://user:{secret}@hub.example/x", "org/name")
    assert code == 1
    assert secret not in line
    assert "hf_..." in line


def test_an_interrupt_ends_quietly(run, base, rows, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("csr_st.workflow.train_model", interrupt)
    code, _, err = run("train", base, rows, "--output", "o")
    assert code == 130
    *_, kept, again = err.splitlines()
    assert kept == "csr-st: interrupted; vectors and checkpoints so far are kept in o; go on with"
    assert again == f"    csr-st train {base} {rows} --output o --resume"


def test_hostile_model_folders_end_in_one_line(fails, sparse, rows, tmp_path):
    trace = tmp_path / "trace"
    (sparse / "csr_st.py").write_text(f"open({str(trace)!r}, 'w')")
    modules = sparse / "modules.json"
    whole = json.loads(modules.read_text())
    for change in ({"path": "../base"}, {"type": "csr_st.SparseCSRHead"}, {"type": 3}):
        modules.write_text(json.dumps([whole[0], {**whole[1], **change}]))
        code, _ = fails("encode", sparse, rows, "--output", "c")
        assert code == 1
    for content in ("[]", "{}", "[1]", "not json"):
        modules.write_text(content)
        assert fails("encode", sparse, rows, "--output", "c")[0] == 1
    assert not trace.exists()


@pytest.mark.parametrize("output", ["codes.safetensors", "codes"])
def test_packed_codes_from_encode_to_search(run, sparse, model, tmp_path, output):
    (tmp_path / "documents.txt").write_text("the cat sat\na dog ran\nblue fish swam\n")
    command = ["encode", sparse, "documents.txt", "--output", output, "--k", 8, "--value-bits", 8]
    code, out, err = run(*command)
    assert code == 0, err
    assert "value_bits=8" in out
    plain = csr_st.encode(model, ["the cat sat", "a dog ran", "blue fish swam"], k=8)
    expected = plain.pack(8).unpack()
    code, out, err = run("index", output, "--output", "index.csr")
    assert code == 0, err
    assert out == (
        "SparseIndex(n=3, k=8, hidden_dim=64, value_bits=8) without decoder in index.csr\n"
    )
    code, out, err = run("search", "index.csr", "--model", sparse, "a dog ran", "--query-k", 8)
    assert code == 0, err
    query = csr_st.encode(model, ["a dog ran"], k=8, role="query").to_dense()
    scores = np.sort(query @ expected.to_dense().T)[0, ::-1]
    found = [float(line.split("\t")[1]) for line in out.splitlines()]
    np.testing.assert_allclose(found, scores, atol=6e-5)


@pytest.mark.parametrize(
    ("stored", "asked", "bits"), [([], 4, 4), ([], 8, 8), ([8], 4, 4), ([4], None, 4)]
)
def test_index_packs_the_codes_that_it_is_given(run, sparse, tmp_path, stored, asked, bits):
    (tmp_path / "documents.txt").write_text("the cat sat\na dog ran\n")
    options = [part for number in stored for part in ("--value-bits", number)]
    assert run("encode", sparse, "documents.txt", "--output", "c.safetensors", *options)[0] == 0
    options = [] if asked is None else ["--value-bits", asked]
    code, out, err = run("index", "c.safetensors", "--output", "index.csr", *options)
    assert code == 0, err
    assert f"value_bits={bits})" in out
    assert csr_st.SparseIndex.load("index.csr").value_bits == bits


def test_other_value_bits_are_refused_before_any_work(fails, sparse, rows):
    message = "value_bits=5 is neither 4 nor 8; pass one of them"
    encode = ["encode", "no-model", rows, "--output", "o"]
    code, line = fails(*encode, "--value-bits", 5)
    assert (code, message in line) == (1, True)
    code, line = fails(*encode, "--value-bits", 4, "--half")
    assert (code, "--half is for values that are not packed" in line) == (1, True)
    assert not (rows.parent / "o").exists()
