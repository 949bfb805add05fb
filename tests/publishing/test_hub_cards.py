"""The cards in hub_cards/ are what their JSON renders to, and name the command that made them."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from csr_st.evaluation.quality import Evaluation
from csr_st.publishing.model_card import EVALUATION_NAME, CardFacts, render

CARDS = Path(__file__).parents[2] / "hub_cards"
FOLDERS = sorted(path.parent for path in CARDS.glob("*/csr_card.json"))


def test_there_is_a_card_of_a_text_an_image_and_a_supervised_model():
    names = {folder.name for folder in FOLDERS}
    assert {
        "all-MiniLM-L6-v2-csr", "fashion-mnist-csr", "all-MiniLM-L6-v2-intents-csr"
    } <= names  # fmt: skip
    supervised = Evaluation.load(CARDS / "all-MiniLM-L6-v2-intents-csr" / EVALUATION_NAME)
    assert supervised.main_metric == "accuracy"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_card_is_rendered_from_its_json(folder):
    text = (folder / "README.md").read_text(encoding="utf-8")
    evaluation = Evaluation.load(folder / EVALUATION_NAME)
    assert text == render(CardFacts.load(folder), evaluation)
    assert ModelCard(text).data.library_name == "sentence-transformers"
    assert (folder / "quality.png").read_bytes().startswith(b"\x89PNG")
    assert f"`{folder.name}/`" in (CARDS / "README.md").read_text(encoding="utf-8")
