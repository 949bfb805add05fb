"""Mixtures: shares, bounds, order, streams, and what is refused."""

from __future__ import annotations

import logging
from collections import Counter
from itertools import pairwise

import datasets
import numpy as np
import pytest
from embedding_stub import StubModel
from PIL import Image

import csr_st
from csr_st.data.names import DataName


def texts(letter, n):
    return [f"{letter}{i}" for i in range(n)]


@pytest.fixture
def files(tmp_path):
    """100, 40 and 10 texts in files whose columns have different names."""
    (tmp_path / "a.txt").write_text("\n".join(texts("a", 100)))
    rows = "\n".join(f'{{"body": "{text}", "n": 1}}' for text in texts("b", 40))
    (tmp_path / "b.jsonl").write_text(rows)
    (tmp_path / "c.csv").write_text("\n".join(["title,body", *(f"t,{t}" for t in texts("c", 10))]))
    return [str(tmp_path / "a.txt"), str(tmp_path / "b.jsonl"), f"{tmp_path}/c.csv:column=body"]


@pytest.fixture
def hub(monkeypatch):
    """Stands in for the Hub: data sets of 50 rows by id and configuration; records what is read."""
    asked, read = [], []

    def rows(name):
        for i in range(50):
            read.append(i)
            yield {"abstract": f"{name[-1]}{i}", "id": i, "rated": i > 3}

    def load_dataset(name, config=None, *, split, streaming):
        asked.append((name, config, split))
        assert streaming
        if name == "org/absent":
            raise datasets.exceptions.DatasetNotFoundError("no such data set")
        return datasets.IterableDataset.from_generator(rows, gen_kwargs={"name": name})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    load_dataset.asked, load_dataset.read = asked, read
    return load_dataset


def read(mixture):
    """The texts of a mixture, in order."""
    return [row["text"] for row in mixture.rows]


def kinds(mixture):
    return Counter(text[0] for text in read(mixture))


def given(mixture):
    return [share.rows for share in mixture.shares]


def test_without_weights_each_gives_all_that_it_has(files):
    mixture = csr_st.mix(files)
    assert sorted(read(mixture)) == sorted(texts("a", 100) + texts("b", 40) + texts("c", 10))
    assert given(mixture) == [100, 40, 10]


def test_a_limit_without_weights_is_divided_in_proportion_to_the_sizes(files):
    mixture = csr_st.mix(files, limit=30)
    assert kinds(mixture) == {"a": 20, "b": 8, "c": 2}


def test_weights_are_shares_and_need_not_sum_to_one(files):
    assert kinds(csr_st.mix(files, [5, 3, 2], limit=50)) == {"a": 25, "b": 15, "c": 10}
    mixture = csr_st.mix(files, [0.5, 0.3, 0.2], limit=50)
    assert kinds(mixture) == {"a": 25, "b": 15, "c": 10}
    assert [share.weight for share in mixture.shares] == pytest.approx([0.5, 0.3, 0.2])


def test_shares_sum_to_the_limit_whatever_the_weights(files):
    assert sum(kinds(csr_st.mix(files[:2], [1, 2.3], limit=37)).values()) == 37


def test_weights_without_a_limit_take_as_much_as_the_shares_allow(files):
    """The second set, of 40 texts, is two thirds: the first can give 20."""
    assert kinds(csr_st.mix(files[:2], [1, 2])) == {"a": 20, "b": 40}


def test_a_set_too_short_for_its_share_gives_all_and_it_is_said(files, caplog):
    mixture = csr_st.mix(files, [1, 1, 1], limit=90)
    assert kinds(mixture) == {"a": 30, "b": 30, "c": 10}
    assert given(mixture) == [30, 30, 10]
    assert caplog.messages == ["c.csv has 10 texts, its share would be 30: all of them are taken"]


def test_a_part_of_a_set_is_a_random_one_without_repetition(files):
    found = read(csr_st.mix(files[:1], limit=50))
    assert len(set(found)) == 50
    assert found != texts("a", 50)
    assert max(int(text[1:]) for text in found) > 80


def test_the_order_is_a_mix_from_the_first_row_on(files):
    """No 20 rows in a row lack the set that is a half; the first tenth has all sets."""
    order = [text[0] for text in read(csr_st.mix(files, [5, 3, 2], limit=50))]
    assert set(order[:15]) == {"a", "b", "c"}
    places = [i for i, kind in enumerate(order) if kind == "a"]
    assert max(b - a for a, b in pairwise(places)) < 20


@pytest.mark.parametrize("streamed", [False, True])
def test_the_same_seed_gives_the_same_texts_in_the_same_order(files, hub, streamed):
    names = [*files[:2], "org/d"] if streamed else files
    once, again, other = (
        read(csr_st.mix(names, [2, 2, 1], limit=40, seed=seed)) for seed in (1, 1, 2)
    )
    assert once == again
    assert sorted(once) != sorted(other)


def test_data_sets_of_the_hub_are_streamed_by_configuration_split_and_column(files, hub):
    name = "org/d:config=20231101.en,split=test,column=abstract"
    mixture = csr_st.mix([files[0], name], [3, 1], limit=40)
    assert hub.asked == [("org/d", "20231101.en", "test")]
    assert kinds(mixture) == {"a": 30, "d": 10}
    share = mixture.shares[1]
    assert (share.name, share.rows, share.on_hub) == ("org/d", 10, True)
    assert (share.config, share.split, share.column) == ("20231101.en", "test", "abstract")


def test_a_stream_that_ends_early_gives_what_it_has_and_the_others_their_share(files, hub):
    mixture = csr_st.mix([files[0], "org/d"], [1, 1], limit=160)
    assert kinds(mixture) == {"a": 80, "d": 50}
    assert given(mixture) == [80, 50]
    assert kinds(mixture) == {"a": 80, "d": 50}  # what was given is counted anew
    assert given(mixture) == [80, 50]


def test_no_more_of_a_stream_is_read_than_the_buffer_and_its_share(hub, monkeypatch):
    monkeypatch.setattr("csr_st.data.parts.BUFFER", 5)
    mixture = csr_st.mix(["org/d:column=abstract"], limit=10)
    hub.read.clear()
    assert len(read(mixture)) == 10
    assert len(hub.read) <= 10 + 5 + 1


def test_streams_without_limit_give_all_they_have(files, hub):
    assert kinds(csr_st.mix([files[1], "org/d", "org/e"])) == {"b": 40, "d": 50, "e": 50}


def test_missing_entries_are_left_out_on_request(tmp_path, hub):
    holes = datasets.Dataset.from_dict({"text": ["a0", None, "a2"]})
    stream = datasets.Dataset.from_dict({"text": ["s0", None, "s2"]}).to_iterable_dataset()
    assert sorted(read(csr_st.mix([holes, stream], skip_bad=True))) == ["a0", "a2", "s0", "s2"]
    assert sorted(read(csr_st.mix([holes], skip_bad=True))) == ["a0", "a2"]


def test_a_stream_whose_first_entry_is_missing_is_taken_by_the_name_of_its_column():
    rows = [{"body": None, "n": 1}, {"body": "x1", "n": 2}]
    stream = datasets.IterableDataset.from_generator(lambda: iter(rows))
    assert read(csr_st.mix([stream], text_column="body", skip_bad=True)) == ["x1"]


def test_types_of_text_columns_are_made_alike(tmp_path):
    large = datasets.Dataset.from_dict(
        {"body": ["x0"]}, features=datasets.Features({"body": datasets.Value("large_string")})
    )
    assert sorted(read(csr_st.mix([large, datasets.Dataset.from_dict({"text": ["y0"]})]))) == [
        "x0",
        "y0",
    ]


def test_images_are_mixed_with_images_only(tmp_path, files):
    def pictures(column, colours):
        images = [Image.new("RGB", (4, 4), colour) for colour in colours]
        features = datasets.Features({column: datasets.Image()})
        return datasets.Dataset.from_dict({column: images}, features=features)

    mixture = csr_st.mix([pictures("image", ["red", "green"]), pictures("photo", ["blue"])])
    assert len(mixture.rows) == 3
    assert all(row["image"]["bytes"] for row in mixture.rows)
    with pytest.raises(ValueError, match=r"texts and images cannot be mixed .*a\.txt: text"):
        csr_st.mix([files[0], pictures("image", ["red"])])


def test_duplicates_between_sets_stay(files):
    assert kinds(csr_st.mix([files[1], files[1]])) == {"b": 80}


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"weights": [1, 2]}, ValueError, "2 weights for 3 data sets; pass one for each"),
        ({"weights": [1, 0, 1]}, ValueError, "weight 0 is not a positive number"),
        ({"weights": [1, float("nan"), 1]}, ValueError, "weight nan is not a positive number"),
        ({"limit": 0}, ValueError, "limit=0; pass 1 or more"),
        ({"limit": 3}, ValueError, r"c\.csv would give no text: its share of 3 is below one"),
        ({"text_column": "body"}, ValueError, r"a\.txt: column 'body' is not among \['text'\]"),
        ({"data": "a.txt"}, TypeError, "pass a list of names or data sets"),
        ({"data": []}, TypeError, "pass a list of names or data sets"),
        ({"data": [["a", "b"]]}, TypeError, "data set 1 is a list; pass the name of a file or"),
        ({"data": ["-", "-.csv"]}, ValueError, "standard input .* can be read only once"),
        ({"data": ["absent.csv"]}, FileNotFoundError, "absent.csv does not exist"),
        ({"data": ["org/absent"]}, FileNotFoundError, "org/absent is neither a file here nor"),
        ({"data": ["a/b.txt:config=en"]}, ValueError, "only those have configurations: leave"),
        ({"data": ["org/d:split=a,split=b"]}, ValueError, "sets split twice"),
        ({"data": ["org/d", "org/e"], "limit": 9}, ValueError, "of org/d is unknown.*--weights"),
        ({"data": ["org/d", "org/e"], "weights": [1, 1]}, ValueError, "of org/d is unknown.*--lim"),
        ({"data": ["org/d:column=id"]}, ValueError, "org/d: column 'id' holds int, not text"),
        ({"data": ["org/d:column=x"], "limit": 1}, ValueError, "org/d: column 'x' is not among"),
    ],
)
def test_what_does_not_fit_is_refused(files, hub, options, error, words):
    with pytest.raises(error, match=words):
        csr_st.mix(**{"data": files, **options})


def test_a_column_that_may_be_several_names_the_data_set(files):
    with pytest.raises(ValueError, match=r"c\.csv: columns \['title', 'body'\] hold text; name"):
        csr_st.mix([files[0], files[2].removesuffix(":column=body")])


def test_a_path_that_exists_is_a_name_whatever_it_looks_like(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "a.txt:column=b"
    (tmp_path / name).write_text("one\n")
    assert DataName.parse(name) == DataName(name)
    assert DataName.parse("b.txt:column=b") == DataName("b.txt", column="b")
    assert DataName.parse("C:\\rows.csv").name == "C:\\rows.csv"
    assert DataName.parse("s:a=b").name == "s:a=b"
    assert str(DataName.parse("org/d:config=en,split=test")) == "org/d:config=en"


class Embedder(StubModel):
    """Stops after some texts, as a killed process does."""

    most = 10**9

    def encode(self, items, **options):
        if self.embedded + len(items) > self.most:
            raise KeyboardInterrupt
        return super().encode(items, **options)


@pytest.mark.parametrize("streamed", [False, True])
def test_an_embedding_that_was_stopped_goes_on_and_had_all_kinds(
    files, hub, tmp_path, streamed, caplog
):
    def embed(path, most=10**9):
        model = Embedder()
        model.most = most
        mixture = csr_st.mix([*files[:2], *(["org/d"] if streamed else [])], limit=None)
        store = csr_st.EmbeddingStore.embed(model, mixture, path, shard_rows=10)
        return store, model.embedded, mixture

    whole, n, mixture = embed(tmp_path / "whole")
    assert n == len(whole) == sum(given(mixture)) == (190 if streamed else 140)
    with pytest.raises(KeyboardInterrupt):
        embed(tmp_path / "stopped", most=60)
    resumed, rest, _ = embed(tmp_path / "stopped")
    assert rest < n
    np.testing.assert_array_equal(resumed.vectors(), whole.vectors())
    _, none, mixture = embed(tmp_path / "stopped")
    assert none == 0
    assert given(mixture)[:2] == [100, 40]
    other = csr_st.mix(files[:2], limit=130)
    with pytest.raises(ValueError, match="made from other data"):
        csr_st.EmbeddingStore.embed(Embedder(), other, tmp_path / "stopped", shard_rows=10)


def test_labels_of_a_mixture_are_refused(files, tmp_path):
    mixture = csr_st.mix(files)
    with pytest.raises(ValueError, match="'label' is named, but a mixture has texts only"):
        csr_st.EmbeddingStore.embed(StubModel(), mixture, tmp_path / "s", label_column="label")


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.WARNING, "csr_st")
