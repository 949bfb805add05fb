"""The cards in hub_cards/ are what their JSON renders to, and name the command that made them."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
from conftest import WORDS
from huggingface_hub import ModelCard
from huggingface_hub.utils import validate_repo_id

from csr_st.data.names import DataName
from csr_st.evaluation.quality import Evaluation
from csr_st.insight.names import LatentNames
from csr_st.publishing.model_card import EVALUATION_NAME, NAMES_NAME, CardFacts, render

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
    named = folder / NAMES_NAME
    names = LatentNames.load(named) if named.exists() else None
    assert text == render(CardFacts.load(folder), evaluation, names=names)
    assert ModelCard(text).data.library_name == "sentence-transformers"
    assert (folder / "quality.png").read_bytes().startswith(b"\x89PNG")
    assert f"`{folder.name}/`" in (CARDS / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def make():
    spec = importlib.util.spec_from_file_location("make", CARDS / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_sources_of_a_general_head_are_names_on_the_hub_with_a_column(make):
    parsed = [DataName.parse(source.name) for source in make.GENERAL]
    assert len(set(parsed)) == len(parsed)
    for name in parsed:
        validate_repo_id(name.name)
        assert name.name.count("/") == 1
        assert name.column
    assert sum(source.weight for source in make.GENERAL) == pytest.approx(1)


def test_a_general_head_is_made_of_a_mixture_and_its_card_names_all_of_it(
    make, backbone, monkeypatch, tmp_path
):
    """The Hub's data sets, replaced by streams of the same columns, one of them with a gap."""

    def load_dataset(name, config, *, split, streaming):
        assert (split, streaming) == ("train", True)
        columns = {DataName.parse(s.name).column for s in make.GENERAL if name in s.name}
        rng = np.random.default_rng(len(name))
        texts = [" ".join(rng.choice(WORDS, 5)) for _ in range(200)]
        rows = datasets.Dataset.from_dict(
            {column: [None, *texts] for column in columns} | {"id": list(range(201))}
        )
        return rows.to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(make, "load_backbone", lambda: backbone)
    monkeypatch.setattr(make, "recipe", _short_recipe)
    monkeypatch.setattr(
        "csr_st.evaluation.plots.draw", lambda _, path: path.write_bytes(b"picture")
    )
    done = make.general(tmp_path, limit=400, hidden_dim=64)
    text = (done.path / "README.md").read_text()
    for source in make.GENERAL:
        name = DataName.parse(source.name)
        line = re.search(rf"\| \[{name.name}\].*\| {name.column} \| (\d+) \|", text)
        assert int(line[1]) == round(400 * source.weight)
        assert f"{source.kind} ({source.license})" in " ".join(text.split())
    ids = dict.fromkeys(DataName.parse(source.name).name for source in make.GENERAL)
    assert ModelCard(text).data.datasets == list(ids)
    manifest = done.path / "vectors" / "manifest.json"
    assert sum(json.loads(manifest.read_text())["sizes"]) == 400

    written = manifest.stat().st_mtime_ns
    make.general(tmp_path, limit=400, hidden_dim=64)
    assert manifest.stat().st_mtime_ns == written  # nothing is embedded again


def _short_recipe(*name, **given):
    from csr_st import recipe

    return recipe(*name, steps=4, k=8, **given)
