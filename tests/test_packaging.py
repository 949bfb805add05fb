"""What a user gets from the wheel."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
import zipfile
from email.parser import Parser
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml

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


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    """The folder with the sdist and the wheel that `python -m build` makes of it."""
    pytest.importorskip("build")
    if not (ROOT / "pyproject.toml").is_file():
        pytest.skip("csr_st is installed without its sources")
    folder = tmp_path_factory.mktemp("built")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_twine_finds_no_fault_with_sdist_and_wheel(dist):
    pytest.importorskip("twine")
    files = sorted(map(str, dist.iterdir()))
    assert [Path(name).suffix for name in files] == [".whl", ".gz"]
    command = [sys.executable, "-m", "twine", "check", "--strict", *files]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_wheel_alone_imports_and_runs(dist, tmp_path):
    """In an empty environment beside its dependencies, which are those of this one, not installed.

    Away from the sources, so that what is imported is what the wheel has.
    """
    venv.create(tmp_path / "alone", with_pip=True)
    python = tmp_path / "alone" / ("Scripts" if os.name == "nt" else "bin") / "python"
    (wheel,) = dist.glob("*.whl")
    (site,) = {Path(torch.__file__).parents[1]}

    def run(*command: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(site)} if command[0] == "-c" else os.environ
        done = subprocess.run(
            [str(python), *command], cwd=tmp_path, capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel))
    # The wheel's own folder first: this environment may have the sources installed.
    own = "import sys, sysconfig; sys.path.insert(0, sysconfig.get_paths()['purelib']); "
    found = run("-c", f"{own}import csr_st; print(csr_st.__file__, csr_st.__version__)").split()
    assert Path(found[0]).is_relative_to(tmp_path / "alone")
    assert found[1] == csr_st.__version__
    helped = run("-c", f"{own}sys.argv = ['csr-st', '--help']; from csr_st.cli import main; main()")
    assert "distill-queries" in helped


def test_the_matrix_has_the_pythons_and_extras_of_the_package(metadata):
    path = ROOT / ".github" / "workflows" / "tests.yml"
    if not path.is_file():
        pytest.skip("csr_st is installed without its sources")
    jobs = yaml.safe_load(path.read_text())["jobs"]
    matrix = jobs["fast"]["strategy"]["matrix"]
    least = metadata["Requires-Python"].removeprefix(">=")
    assert matrix["python"] == [f"3.{minor}" for minor in range(int(least.split(".")[1]), 15)]
    assert {name.split("-")[0] for name in matrix["os"]} == {"ubuntu", "macos", "windows"}
    usual = re.search(r"'([\w,]+)'", jobs["fast"]["env"]["EXTRAS"])
    named = {extra for one in matrix["include"] for extra in one.get("extras", "").split(",")}
    named |= set(usual[1].split(","))
    assert named - {""} <= set(metadata.get_all("Provides-Extra"))
    for job in jobs.values():
        for step in job["steps"]:
            for script in re.findall(r"\.ci/[\w.]+|tests/[\w/]+\.py", step.get("run", "")):
                assert script == ".ci/none.txt" or (ROOT / script).exists()
