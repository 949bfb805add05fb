"""Names of latents with a saved and published model: on the card, and in latents.json."""

from __future__ import annotations

import re

import numpy as np
import pytest

import csr_st
from csr_st import LatentName, LatentNames
from csr_st.publishing import update_card
from csr_st.publishing.model_card import END, NAMES_NAME


@pytest.fixture
def names():
    """20 latents of `head`, in 40 texts: latent 0 in 39 of them, latent 19 in 1."""
    aucs = [0.5 + latent / 100 for latent in range(20)]
    found = [
        LatentName(
            latent, (f"word{latent}", "more"), aucs[latent], (39 - 2 * latent) / 40, (latent,)
        )
        for latent in range(20)
    ]
    found[3] = LatentName(3, (), 0.51, 33 / 40)
    return LatentNames(found, hidden_dim=64, k=8, n_texts=40)


def section(text):
    return text.split("## What its latents stand for")[1].split("\n## ")[0]


def latents(table):
    return [int(latent) for latent in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)]


def test_a_card_shows_the_most_used_and_the_best_named(model, names, tmp_path):
    csr_st.save(model, tmp_path / "m", names=names)
    shown = section((tmp_path / "m" / "README.md").read_text())
    used, best = shown.split("Best named")
    assert latents(used) == list(range(10))
    # Latents 15 to 19 are in fewer than 10 of the 40 texts.
    assert latents(best) == [14, 13, 12, 11, 10, 9, 8, 7, 6, 5]
    assert "| 0 | word0, more | 0.50 | 97.5% |" in used
    assert "| 3 | (unnamed) |  | 82.5% |" in used
    median = np.median([0.5 + latent / 100 for latent in range(20) if latent != 3])
    assert f"the median of the 19 named latents is {median:.2f}" in shown
    assert "at k=8\non 40 texts" in shown
    stored = LatentNames.load(tmp_path / "m" / NAMES_NAME)
    assert [stored.label(latent) for latent in range(64)] == [
        names.label(latent) for latent in range(64)
    ]


def test_names_stay_with_the_model_until_another_head_is_saved(model, names, tmp_path):
    csr_st.save(model, tmp_path / "m", names=names)
    csr_st.save(model, tmp_path / "copy")
    for folder in ("m", "copy"):
        assert (tmp_path / folder / NAMES_NAME).is_file()
        assert latents(section((tmp_path / folder / "README.md").read_text()))[:2] == [0, 1]
    csr_st.save(model, tmp_path / "m", config=csr_st.recipe(k=8))
    assert not (tmp_path / "m" / NAMES_NAME).exists()
    assert "What its latents" not in (tmp_path / "m" / "README.md").read_text()


def test_update_card_puts_names_beside_an_author_s_words(model, names, tmp_path):
    csr_st.save(model, tmp_path)
    assert "What its latents" not in (tmp_path / "README.md").read_text()
    path = tmp_path / "README.md"
    path.write_text(path.read_text() + "\nMine.\n")
    update_card(tmp_path, None, names=names)
    text = path.read_text()
    assert text.endswith("\nMine.\n")
    assert latents(section(text))[0] == 0


def test_words_of_a_name_cannot_end_the_generated_part_or_add_html(model, tmp_path):
    words = (END, "<script>x</script>", "a|b")
    names = LatentNames([LatentName(0, words, 0.9, 1.0)], hidden_dim=64, k=8, n_texts=20)
    csr_st.save(model, tmp_path, names=names)
    text = (tmp_path / "README.md").read_text()
    assert text.count(END) == 1
    assert "<script>" not in text
    assert "a\\|b" in text
    csr_st.save(model, tmp_path, license="mit")
    assert (tmp_path / "README.md").read_text().count(END) == 1


def test_other_names_are_refused_before_anything_is_written(model, names, tmp_path):
    other = LatentNames(list(names), hidden_dim=65, k=8, n_texts=40)
    with pytest.raises(ValueError, match="hidden_dim=65, and this head has 64"):
        csr_st.save(model, tmp_path / "m", names=other)
    with pytest.raises(TypeError, match=r"names='latents\.json' must be csr_st"):
        csr_st.save(model, tmp_path / "m", names="latents.json")
    assert not (tmp_path / "m").exists()
    csr_st.save(model, tmp_path / "m")
    with pytest.raises(ValueError, match="hidden_dim=65, and this head has 64"):
        csr_st.push_to_hub(tmp_path / "m", "someone/tiny", names=other)
    assert not (tmp_path / "m" / NAMES_NAME).exists()
