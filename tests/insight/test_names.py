"""Names of latents as a user reads, searches, saves and loads them."""

import json
import math

import pytest

import csr_st
from csr_st import LatentName, LatentNames


@pytest.fixture
def names():
    found = [
        LatentName(4, ("wing", "lift", "flap", "aileron"), 0.75, 0.25, (3, 1), (9, 2)),
        LatentName(2, ("swing",), 0.5, 0.5, (0,), (4,)),
        LatentName(9, (), 0.4, 0.125, (7,)),
        LatentName(1, ("Lift", "crane"), 1.0, 0.0625, (8,)),
        LatentName(5, (), math.nan, 0.03125, (9,)),
    ]
    return LatentNames(found, hidden_dim=12, k=4, n_texts=32)


def test_each_latent_of_the_head_has_a_label(names):
    assert names.label(4) == "wing, lift, flap"
    assert names.label(9) == "latent 9"
    assert names.label(11) == "latent 11"
    assert names[11].frequency == 0
    assert names[4].words == ("wing", "lift", "flap", "aileron")


def test_iteration_goes_by_falling_use(names):
    assert [name.latent for name in names] == [2, 4, 9, 1, 5]
    assert len(names) == 5
    assert [name.latent for name in names.most_used(2)] == [2, 4]
    assert [name.latent for name in names.best_named(2, min_texts=2)] == [1, 4]
    assert [name.latent for name in names.best_named(2, min_texts=3)] == [4, 2]
    assert names.best_named() == [names[2]]
    assert names.median_auc == 0.75


def test_find_gives_whole_words_first_then_earlier_ones(names):
    assert [name.latent for name in names.find(" WING ")] == [4, 2]
    assert [name.latent for name in names.find("lift")] == [1, 4]
    assert names.find("ship") == names.find("") == []
    with pytest.raises(TypeError, match="text=4 must be a str"):
        names.find(4)


def test_tables_show_words_and_figures_and_escape_them():
    words = ("a|b", "<script>alert(1)</script>")
    names = LatentNames([LatentName(0, words, 0.9, 0.5)], hidden_dim=1, k=1, n_texts=2)
    assert names.table().splitlines()[2] == (
        "| 0 | a\\|b, <script>alert(1)</script> | 0.90 | 50.0% |"
    )
    html = names._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert "1 of 1 live latents named, median AUC 0.90" in repr(names)


def test_a_file_has_the_names_and_no_rows_of_texts(names, tmp_path):
    names.save(tmp_path / "latents.json")
    assert set(json.loads((tmp_path / "latents.json").read_text())["latents"][0]) == {
        "latent",
        "words",
        "auc",
        "frequency",
        "neighbours",
    }
    found = LatentNames.load(tmp_path / "latents.json")
    assert (found.hidden_dim, found.k, found.n_texts) == (12, 4, 32)
    for one, other in zip(names, found, strict=True):
        assert one.words == other.words
        assert one.auc == pytest.approx(other.auc, nan_ok=True)
        assert (one.latent, one.frequency, one.neighbours, ()) == (
            other.latent,
            other.frequency,
            other.neighbours,
            other.texts,
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found.pop("format"), '"format" is not'),
        (lambda found: found.update(format_version=2), "newer than 1; update csr-st"),
        (lambda found: found.update(hidden_dim="12"), "hidden_dim='12' is not an integer"),
        (lambda found: found["latents"][0].update(latent=99), "latent=99 is outside 0..11"),
        (lambda found: found["latents"][0].update(words="wing"), "are no list of str"),
        (lambda found: found["latents"][0].update(auc=7), "must be within 0..1"),
        (lambda found: found["latents"][0].update(latent=4), "two names"),
        (lambda found: found["latents"].append([]), "no names of latents"),
        (lambda found: found.pop("latents"), "no names of latents"),
    ],
)
def test_a_damaged_file_is_named(names, tmp_path, change, message):
    found = json.loads(names.to_json())
    change(found)
    path = tmp_path / "latents.json"
    path.write_text(json.dumps(found))
    with pytest.raises(ValueError, match=message) as error:
        LatentNames.load(path)
    assert str(path) in str(error.value)


def test_a_file_that_is_missing_or_no_json_is_named(tmp_path):
    with pytest.raises(FileNotFoundError):
        LatentNames.load(tmp_path / "none.json")
    (tmp_path / "x.json").write_bytes(b"\xff\x00{")
    with pytest.raises(ValueError, match="json has no names of latents"):
        LatentNames.load(tmp_path / "x.json")


def test_a_latent_that_the_head_lacks_is_refused(names):
    with pytest.raises(ValueError, match=r"latent=12 is outside 0\.\.11"):
        names[12]
    with pytest.raises(TypeError, match="latent='4' is not an integer"):
        names.label("4")
    assert csr_st.LatentNames is LatentNames
