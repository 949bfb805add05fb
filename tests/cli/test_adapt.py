"""`csr-st adapt`: a published model and texts in, an adapted model with a card out."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import WORDS
from sentence_transformers import SentenceTransformer

import csr_st


@pytest.fixture
def published(backbone, tmp_path, monkeypatch, run):
    """The folder of a model trained on texts of some words, beside texts of others."""
    monkeypatch.chdir(tmp_path)
    backbone.save("base")
    rng = np.random.default_rng(0)
    for name, words in (("general.txt", WORDS[:10]), ("mine.txt", WORDS[10:])):
        lines = [" ".join(rng.choice(words, 5)) for _ in range(150)]
        (tmp_path / name).write_text("\n".join(lines))
    fast = ("--steps", 20, "--k", 4, "--hidden-dim", 64)
    code, _, err = run("train", "base", "general.txt", "--output", "general", *fast)
    assert code == 0, err
    return tmp_path


def test_an_adapted_model_loads_and_its_card_says_what_it_is(published, run):
    code, out, err = run("adapt", "general", "mine.txt", "--output", "mine")
    assert code == 0, err
    assert "Saved to mine" in out
    card = (published / "mine" / "README.md").read_text()
    assert "It was adapted from general: " in card
    assert "of the latents that were active on these data kept their meaning" in card
    model = SentenceTransformer("mine", device="cpu")
    head = csr_st.find_head(model)
    assert (head.k, head.hidden_dim) == (4, 64)
    before = csr_st.find_head(SentenceTransformer("general", device="cpu"))
    assert not np.allclose(head.pre_bias.detach(), before.pre_bias.detach())


def test_it_resumes(published, run):
    for more in ((), ("--resume",)):
        code, _, err = run("adapt", "general", "mine.txt", "--output", "mine", *more)
        assert code == 0, err


def test_a_model_without_a_head_is_refused(published, run):
    code, _, err = run("adapt", "base", "mine.txt", "--output", "mine")
    assert code == 1
    assert "0 SparseCSRHead modules where one is needed" in err
