"""`csr-st train` on several data sets, and `csr-st evaluate` on several corpora."""

from __future__ import annotations

import json
import re

import datasets
import numpy as np
import pytest
from conftest import WORDS
from sentence_transformers import SentenceTransformer

import csr_st
from csr_st.cli.interrupted import interrupted
from csr_st.cli.training_data import with_joined_weights
from csr_st.publishing.facts import CardFacts

FAST = ("--steps", 5, "--k", 4, "--hidden-dim", 64)


def sentences(n, words, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(words, 5)) for _ in range(n)]


@pytest.fixture
def files(backbone, tmp_path, monkeypatch):
    """A dense model, and two files of 120 and 90 texts in columns of different names."""
    monkeypatch.chdir(tmp_path)
    backbone.save("base")
    (tmp_path / "a.txt").write_text("\n".join(sentences(120, WORDS[:10])))
    rows = [json.dumps({"body": text, "kind": "b"}) for text in sentences(90, WORDS[10:])]
    (tmp_path / "b.jsonl").write_text("\n".join(rows))
    return tmp_path


@pytest.fixture
def fails(run):
    def call(*arguments):
        code, out, err = run(*arguments)
        assert code == 1, out
        return err.splitlines()[-1]

    return call


@pytest.mark.parametrize("weights", [("--weights", 0.5, 0.5), ("--weights=1,1",)])
def test_several_data_sets_are_mixed_and_the_card_says_what_each_gave(run, files, weights):
    command = ("train", "base", "a.txt", "b.jsonl:column=body", *weights, "--limit", 100)
    code, _, err = run(*command, "--output", "my", *FAST)
    assert code == 0, err
    assert len(csr_st.EmbeddingStore.open("my/vectors")) == 100
    text = (files / "my" / "README.md").read_text()
    assert "| a.txt | text | 50 | 50.0% | 50.0% |" in text
    assert "| b.jsonl | body | 50 | 50.0% | 50.0% |" in text
    assert "Measured on held-out rows of a mixture of 2 data sets: 11 documents" in text
    assert "### On texts like its training data" in text
    assert SentenceTransformer("my", device="cpu").encode(["cat"], k=2).shape == (1, 64)

    embedded = (files / "my" / "vectors" / "manifest.json").stat().st_mtime_ns
    code, _, err = run(*command, "--output", "my", *FAST, "--resume")
    assert code == 0, err
    assert (files / "my" / "vectors" / "manifest.json").stat().st_mtime_ns == embedded


def test_without_weights_each_gives_what_it_has_in_its_only_column(run, files):
    (files / "c.csv").write_text("\n".join(["text,n", *(f"{t},1" for t in sentences(60, WORDS))]))
    code, _, err = run("train", "base", "a.txt", "c.csv", "--output", "my", *FAST)
    assert code == 0, err
    shares = CardFacts.load(files / "my").mixture
    assert [(share.name, share.rows) for share in shares] == [("a.txt", 120), ("c.csv", 60)]


def test_one_data_set_of_the_hub_with_a_limit_is_streamed(run, files, monkeypatch):
    def load_dataset(name, config, *, split, streaming):
        assert (name, config, split, streaming) == ("org/docs", "en", "train", True)
        return datasets.Dataset.from_dict({"text": sentences(150, WORDS)}).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    command = ("train", "base", "org/docs:config=en", "--limit", 130, "--output", "my", *FAST)
    code, _, err = run(*command)
    assert code == 0, err
    facts = CardFacts.load(files / "my")
    assert (facts.data, facts.datasets) == ("org/docs", ["org/docs"])
    text = (files / "my" / "README.md").read_text()
    assert (
        "| [org/docs](https://huggingface.co/datasets/org/docs) (en, train) | text | 130 | 100.0% |"
    ) in text


def test_a_stream_that_ends_early_is_on_the_card_with_what_it_gave(backbone, tmp_path, caplog):
    short = datasets.Dataset.from_dict({"text": sentences(60, WORDS)}).to_iterable_dataset()
    full = datasets.Dataset.from_dict({"text": sentences(90, WORDS, 1)})
    mixture = csr_st.mix([short, full], [1, 1], limit=160)
    done = csr_st.train_model(
        backbone, mixture, tmp_path / "m", csr_st.recipe(steps=3, k=4, hidden_dim=64)
    )
    assert done.evaluation.about == {"data": "held-out rows of a mixture of 2 data sets"}
    assert [share.rows for share in CardFacts.load(tmp_path / "m").mixture] == [60, 80]
    assert "data set 1 has 60 texts, its share would be 80: all of them are taken" in caplog.text


def test_labels_with_a_limit_train_on_a_sample(run, files):
    rows = [{"text": text, "label": i % 2} for i, text in enumerate(sentences(120, WORDS))]
    (files / "l.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = ("train", "base", "l.jsonl", "--labels", "label", "--limit", 100, "--output", "my")
    code, _, err = run(*command, *FAST)
    assert code == 0, err
    store = csr_st.EmbeddingStore.open("my/vectors")
    assert len(store) == 100
    assert set(store.labels) == {0, 1}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            "a.txt b.jsonl --labels kind",
            "--labels needs one DATASET, here are 2: several are mixed",
        ),
        ("a.txt b.jsonl --pairs body,kind", "--pairs needs one DATASET, here are 2"),
        ("a.txt b.jsonl --weights 1 2 3", "3 weights for 2 data sets"),
        ("a.txt b.jsonl --weights x,1", "--weights 'x,1' must be a number for each DATASET"),
        ("a.txt b.jsonl", "b.jsonl: columns ['body', 'kind'] hold text; name the one"),
        ("a.txt --weights 1", "--weights 1 are for several DATASETs, here is one"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_any_work(fails, files, options, words):
    assert words in fails("train", "base", *options.split(), "--output", "o")
    assert not (files / "o").exists()


def test_weights_need_a_data_set(fails, files):
    np.save("v.npy", np.eye(30, dtype=np.float32))
    assert "--limit needs a DATASET" in fails("train", "v.npy", "--limit", 9, "--output", "o")


def test_weights_may_be_separated_by_spaces_or_commas(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "7").write_text("a text\n")
    for line, joined in (
        ("train m a b --weights .5 3e-1 2 -- o", "train m a b --weights .5,3e-1,2 -- o"),
        ("train m a --weights 1 2 7 b", "train m a --weights 1,2 7 b"),
    ):
        assert with_joined_weights(line.split()) == joined.split()
    for same in ("train m a --weights 1,2", "train m a --weights", "train m --steps 3 4"):
        assert with_joined_weights(same.split()) == same.split()


@pytest.fixture
def trained(run, files):
    """A model trained on ``a.txt``, beside texts like those and texts of other words."""
    (files / "a.txt").write_text("\n".join(sentences(600, WORDS[:10])))
    code, _, err = run("train", "base", "a.txt", "--output", "my", "--steps", 60, *FAST[2:])
    assert code == 0, err
    (files / "far.txt").write_text("\n".join(sentences(50, WORDS[10:], 3)))
    (files / "near.txt").write_text("\n".join(sentences(50, WORDS[:10], 3)))
    return files / "my"


@pytest.fixture
def measured(files, model, rng):
    """A model with the facts and figures of one that was trained on ``a.txt``."""
    vectors = rng.normal(size=(30, 16)).astype(np.float32)
    about = {"data": "held-out rows of a.txt"}
    evaluation = csr_st.evaluate(csr_st.find_head(model), vectors, about=about)
    facts = {"data": "a.txt", "fvu": {8: 1e-3}}
    csr_st.save(model, "my", evaluation=evaluation, config=csr_st.recipe(k=8), **facts)
    (files / "far.txt").write_text("\n".join(sentences(50, WORDS[10:], 3)))
    (files / "near.txt").write_text("\n".join(sentences(50, WORDS[:10], 3)))
    return files / "my"


def test_each_further_corpus_gets_a_line_of_the_card(run, measured):
    before = (measured / "evaluation.json").read_text()
    code, out, err = run("evaluate", "my", "far.txt", "near.txt", "--output", "my")
    assert code == 0, err
    assert (measured / "evaluation.json").read_text() == before
    text = (measured / "README.md").read_text()
    assert "### On texts like its training data\n\nMeasured on held-out rows of a.txt" in text
    assert text.index("### On other texts") > text.index("### On texts like its training data")
    lines = re.findall(r"^\| (?:far|near)\.txt \|.*", text, re.MULTILINE)
    assert [line.split(" | ")[0] for line in lines] == ["| far.txt", "| near.txt"]
    printed = re.search(r"# far\.txt.*?(\| sparse, query at 4k.*?)\n", out, re.DOTALL)[1]
    figures = printed.split("|")[2:-1]
    assert lines[0].split("|")[5:-2] == figures

    (measured.parent / "far.txt").write_text("\n".join(sentences(30, WORDS[10:], 4)))
    assert run("evaluate", "my", "far.txt", "--output", "my")[0] == 0
    others = CardFacts.load(measured).others
    assert [(other.data, other.n_documents) for other in others] == [
        ("far.txt", 30),
        ("near.txt", 50),
    ]


def test_data_far_from_the_training_data_is_warned_of_with_both_numbers(run, trained):
    code, out, err = run("evaluate", "my", "far.txt", "near.txt")
    assert code == 0, err
    message = re.search(
        r"(\S+) lies far from what the head was trained on: at k=4 it leaves ([\d.]+)% of the "
        r"variance unexplained, held-out rows of the training data ([\d.]+)%",
        out,
    )
    assert message is not None, out
    assert message[1] == "far.txt"
    assert out.count("lies far") == 1
    known = CardFacts.load(trained).fvu[4]
    assert float(message[3]) == pytest.approx(100 * known, abs=0.06)
    assert float(message[2]) > 1.5 * float(message[3])
    assert "csr-st adapt my far.txt --output mine" in out


def test_unexplained_variance_on_the_card_is_that_of_rows_not_trained_on(trained):
    """Against the definition: squared error about the mean, by the head's own decoder."""
    store = csr_st.EmbeddingStore.open(trained / "vectors")
    held_out = store.split(60)[1].vectors()
    head = csr_st.find_head(SentenceTransformer(str(trained), device="cpu"))
    codes = csr_st.encode_vectors(head, held_out, k=4)
    missed = held_out - csr_st.Decoder.from_head(head).decode(codes)
    expected = (missed**2).sum() / ((held_out - held_out.mean(axis=0)) ** 2).sum()
    assert CardFacts.load(trained).fvu[4] == pytest.approx(expected, rel=1e-5)


def test_a_head_trained_anew_has_none_of_the_earlier_figures(run, measured):
    assert run("evaluate", "my", "far.txt", "--output", "my")[0] == 0
    before = CardFacts.load(measured)
    model = SentenceTransformer(str(measured), device="cpu")
    csr_st.save(model, measured, config=csr_st.recipe(k=4))
    after = CardFacts.load(measured)
    assert before.others
    assert before.fvu
    assert (after.others, after.fvu, after.mixture) == ([], {}, [])


def test_training_data_is_no_other_text(run, measured):
    with pytest.warns(UserWarning, match=r"trained on data of the name a\.txt: the card keeps"):
        assert run("evaluate", "my", "a.txt", "--output", "my")[0] == 0
    assert CardFacts.load(measured).others == []
    assert "held-out rows of a.txt" in (measured / "evaluation.json").read_text()


def test_several_corpora_need_the_model_s_folder(fails, measured):
    words = "--output figures has no csr_card.json"
    assert words in fails("evaluate", "my", "far.txt", "near.txt", "--output", "figures")


def test_corpora_are_read_before_any_is_measured(run, measured):
    code, out, err = run("evaluate", "my", "far.txt", "absent.txt", "--output", "my")
    assert code == 1
    assert "absent.txt does not exist" in err
    assert not out
    assert CardFacts.load(measured).others == []


def test_an_interrupt_says_that_finished_corpora_are_kept():
    kept = "the figures of each finished corpus are kept in my; run it again with"
    assert kept in interrupted(["evaluate", "my", "a.txt", "b.txt", "--output", "my"])
    assert "nothing was written" in interrupted(["evaluate", "my", "a.txt", "b.txt"])


def test_a_corpus_may_name_its_column(run, measured):
    code, _, err = run("evaluate", "my", "b.jsonl:column=body", "--output", "my")
    assert code == 0, err
    assert [other.data for other in CardFacts.load(measured).others] == ["b.jsonl"]
    command = ("encode", "my", "b.jsonl:column=body", "--output", "codes.safetensors")
    assert run(*command)[0] == 0
    lines = (measured.parent / "b.jsonl").read_text().splitlines()
    texts = [json.loads(line)["body"] for line in lines]
    expected = csr_st.encode(SentenceTransformer("my", device="cpu"), texts)
    found = csr_st.SparseCodes.load("codes.safetensors")
    np.testing.assert_array_equal(found.indices, expected.indices)


def test_corpora_of_one_name_are_told_apart_by_their_folders(run, measured):
    for folder in ("x", "y"):
        (measured.parent / folder).mkdir()
        text = "\n".join(sentences(30, WORDS))
        (measured.parent / folder / "test.txt").write_text(text)
    assert run("evaluate", "my", "x/test.txt", "y/test.txt", "--output", "my")[0] == 0
    assert [other.data for other in CardFacts.load(measured).others] == ["x/test.txt", "y/test.txt"]


def test_a_model_without_a_known_variance_is_evaluated_without_a_warning(run, measured):
    facts = json.loads((measured / "csr_card.json").read_text())
    del facts["fvu"]  # as an earlier version wrote it
    (measured / "csr_card.json").write_text(json.dumps(facts))
    code, out, err = run("evaluate", "my", "far.txt", "--output", "my")
    assert code == 0, err
    assert "lies far" not in out
    assert "| far.txt |" in (measured / "README.md").read_text()
