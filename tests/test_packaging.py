"""What a user gets from the wheel."""

from __future__ import annotations

import zipfile
from email.parser import Parser
from importlib import import_module
from pathlib import Path

import pytest

import csr_st
from csr_st.attaching import CLASS_REFERENCE

ROOT = Path(csr_st.__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """The wheel that hatchling builds from this folder."""
    build = pytest.importorskip("hatchling.build")
    if not (ROOT / "pyproject.toml").is_file():
        pytest.skip("csr_st is installed without its sources")
    folder = tmp_path_factory.mktemp("dist")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        name = build.build_wheel(str(folder))
    with zipfile.ZipFile(folder / name) as opened:
        yield opened


@pytest.fixture(scope="module")
def metadata(wheel):
    (path,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return Parser().parsestr(wheel.read(path).decode())


def test_wheel_holds_the_package_and_nothing_else(wheel):
    files = {name for name in wheel.namelist() if ".dist-info/" not in name}
    sources = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "csr_st").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files == sources
    template = "csr_st/publishing/model_card_template.md"
    assert {"csr_st/py.typed", template, "csr_st/head.py"} <= files


def test_wheel_carries_licence_and_command(wheel):
    names = wheel.namelist()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    (entry_points,) = [name for name in names if name.endswith("entry_points.txt")]
    assert "csr-st = csr_st.cli:main" in wheel.read(entry_points).decode()
    assert callable(import_module("csr_st.cli").main)


def test_version_and_name_are_those_that_models_ask_for(metadata):
    from csr_st.model.files import REQUIREMENTS

    assert metadata["Version"] == csr_st.__version__
    assert [metadata["Name"]] == list(REQUIREMENTS)


def test_search_and_plots_are_optional(metadata):
    needed = [one for one in metadata.get_all("Requires-Dist") if "extra ==" not in one]
    assert any(one.startswith("sentence-transformers<7,>=6.2") for one in needed)
    assert not [one for one in needed if one.startswith(("numba", "matplotlib"))]
    assert set(metadata.get_all("Provides-Extra")) >= {"search", "plots", "demo"}


def test_the_pinned_path_exists_and_is_what_a_saved_model_holds(saved):
    module, _, name = CLASS_REFERENCE.rpartition(".")
    assert getattr(import_module(module), name) is csr_st.SparseCSRHead
    assert f'"{CLASS_REFERENCE}"' in (Path(saved) / "modules.json").read_text()
