"""The demonstration takes as many documents as its own speed allows, and says so."""

from __future__ import annotations

import time

import pytest

from csr_st import recipe
from csr_st.demo import run as demo
from csr_st.demo.corpus import Entry
from csr_st.demo.speed import affordable, begun, seconds_per_entry

ENTRIES = [Entry(f"m.f{i}", f"Summary of {i}.", f"Document of {i}. " * 9) for i in range(8000)]


class SlowBackbone:
    """Takes ``seconds`` for each text, on a clock that only it moves, and long to start."""

    def __init__(self, monkeypatch, seconds):
        self.seconds, self.now, self.started = seconds, 1000.0, False
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def encode(self, texts, **_):
        self.now += len(texts) * self.seconds + (0 if self.started else 20)
        self.started = True


def test_speed_is_measured_without_the_start(monkeypatch):
    backbone = SlowBackbone(monkeypatch, 0.01)
    assert seconds_per_entry(backbone, ENTRIES) == pytest.approx(0.02)
    assert seconds_per_entry(backbone, ENTRIES[:5]) == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("seconds", "expected", "told"),
    [
        (0.001, 8000, "embeds 1,000 texts a second: about 1 minutes in all"),
        (0.03, 2700, "embeds 33 texts a second: taking 2,700 documents, so as to end in about 5"),
        (0.2, 2000, "embeds 5 texts a second: 2,000 documents, the least, will take about 22 min"),
    ],
)
def test_a_slow_machine_takes_fewer_documents(monkeypatch, seconds, expected, told):
    backbone, lines = SlowBackbone(monkeypatch, seconds), []
    n = demo._choose(backbone, ENTRIES, backbone.now + 300, lines.append)
    assert n == pytest.approx(expected, abs=100)
    assert len(lines) == 1
    assert told.replace("2,700", f"{n:,}") in lines[0]


def test_documents_stay_within_their_bounds():
    assert affordable(1e-12, 300, 8000) == 8000
    assert affordable(0.06, 300, 8000) == 3000
    assert affordable(1000, 300, 8000) == 2000
    assert affordable(1, -5, 2000) == 2000


def test_a_second_run_goes_on_with_the_vectors_of_the_first(tmp_path):
    assert begun(tmp_path / "new", 8000) is None
    for name in ("vectors-3000", "vectors-2400", "vectors-9000", "vectors-old", "vectors"):
        (tmp_path / name).mkdir()
    assert begun(tmp_path, 8000) == 3000


@pytest.mark.slow
def test_the_whole_demo_with_a_tiny_model(monkeypatch, backbone, tmp_path):
    monkeypatch.setattr(demo, "load_backbone", lambda: backbone)
    monkeypatch.setattr(demo, "seconds_per_entry", lambda *_: 1.0)
    monkeypatch.setattr(demo, "recipe", lambda: recipe(steps=5))
    told = []
    evaluation = demo.run(tmp_path, told.append, documents=2100)
    assert evaluation.n_documents == 2000
    assert "2,000 documents, the least, will take about 56 minutes" in "\n".join(told)
    assert "2,000 docstrings of installed Python packages" in (tmp_path / "README.md").read_text()
    assert "What its latents stand for" in (tmp_path / "README.md").read_text()
    page = (tmp_path / "explorer.html").read_text()
    assert "csr-st explore" in page
    assert (tmp_path / "explorer.html").as_uri() in "\n".join(told)
    again = []
    monkeypatch.setattr(demo, "write_page", lambda *_, **__: [][1])
    with pytest.warns(UserWarning, match=r"Naming its latents failed .* the model is saved"):
        demo.run(tmp_path, again.append, documents=2100)
    assert (tmp_path / "vectors-2000").is_dir()
    assert "texts a second" not in "\n".join(again)
