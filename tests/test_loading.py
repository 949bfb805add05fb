"""Loading a published model with the package imported, only installed, or absent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.model import BaseModel

import csr_st
from csr_st.attaching import CLASS_REFERENCE, VECTOR_REFERENCE, register
from csr_st.vectors import VectorInput

# Tries to load a model in a new process and prints the results as one line of JSON.
PROBE = """
import json, os, sys
import importlib.metadata, importlib.util
from sentence_transformers import SentenceTransformer

def attempt(**arguments):
    try:
        model = SentenceTransformer(sys.argv[1], device="cpu", **arguments)
    except Exception as error:
        return {"error": type(error).__name__, "message": str(error)}
    return {"row": model.encode("the cat sat", k=4).tolist(), "type": type(model[-1]).__module__}

print(json.dumps({
    "imported": "csr_st" in sys.modules,
    "importable": importlib.util.find_spec("csr_st") is not None,
    "installed": any(d.name.lower().replace("_", "-") == "csr-st"
                     for d in importlib.metadata.distributions()),
    "plain": attempt(),
    "trusted": attempt(trust_remote_code=True),
    "trusted twice": attempt(),
}))
"""


def probe(saved: str, *options: str, prelude: str = "") -> dict:
    """The answers of `PROBE` in a fresh interpreter, outside this folder and its environment."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(prelude) + PROBE, saved],
        capture_output=True,
        text=True,
        env={**environment, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        cwd=saved,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def row(model) -> list[float]:
    return model.encode("the cat sat", k=4).tolist()


def test_importing_the_package_is_enough(saved, texts, model):
    loaded = SentenceTransformer(saved, device="cpu")
    assert type(loaded[-1]) is csr_st.SparseCSRHead
    np.testing.assert_array_equal(loaded.encode(texts, k=16), model.encode(texts, k=16))


@pytest.mark.slow
def test_installed_but_not_imported_needs_the_flag(saved, row):
    root = str(Path(csr_st.__file__).parents[1])  # as an installation would put it on the path
    found = probe(saved, "-I", prelude=f"import sys; sys.path.append({root!r})")
    assert found["importable"]
    assert not found["imported"]
    assert found["plain"]["error"] == "ValueError"
    assert "'csr_st.head.SparseCSRHead'" in found["plain"]["message"]
    assert "`trust_remote_code=True`" in found["plain"]["message"]
    assert found["trusted"]["type"] == "csr_st.head"
    # Another process may round otherwise in the last digit.
    assert found["trusted"]["row"] == pytest.approx(row, abs=1e-6)
    # The flag brought the package in, which has registered itself since.
    assert found["trusted twice"] == found["trusted"]


@pytest.fixture
def packages_without_ours(tmp_path) -> Path:
    """A folder of every installed package but this one; links, and no .pth file is followed."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    for site in sys.path:
        if Path(site).name not in ("site-packages", "dist-packages"):
            continue
        for package in Path(site).iterdir():
            link = folder / package.name
            if "csr_st" not in package.name and not link.exists():
                link.symlink_to(package)
    return folder


@pytest.mark.slow
def test_absent_package_is_named_with_the_command_that_installs_it(saved, packages_without_ours):
    prelude = f"import sys; sys.path.append({str(packages_without_ours)!r})"
    found = probe(saved, "-I", "-S", prelude=prelude)
    assert not found["importable"]
    assert not found["installed"]
    for way in ("plain", "trusted"):
        assert found[way]["error"] == "ImportError"
        assert "csr-st>=0.1, but it is not installed" in found[way]["message"]
        assert 'pip install -U "csr-st>=0.1"' in found[way]["message"]


def test_the_path_in_published_models_is_pinned(saved):
    assert CLASS_REFERENCE == "csr_st.head.SparseCSRHead"
    modules = json.loads((Path(saved) / "modules.json").read_text())
    assert modules[-1]["type"] == "csr_st.head.SparseCSRHead"
    assert modules[-1]["path"] == "1_SparseCSRHead"
    head = csr_st.head.SparseCSRHead
    assert f"{head.__module__}.{head.__qualname__}" == "csr_st.head.SparseCSRHead"


def test_the_requirement_is_in_the_models_config(saved):
    config = json.loads((Path(saved) / "config_sentence_transformers.json").read_text())
    assert config["requirements"] == {"csr-st": ">=0.1"}
    assert config["model_type"] == "SentenceTransformer"


def test_a_package_too_old_for_the_model_is_named(saved, monkeypatch):
    monkeypatch.setattr(csr_st, "__version__", "0.0.9")
    with pytest.raises(ImportError, match=r"csr-st>=0.1, but csr-st==0.0.9 is installed"):
        SentenceTransformer(saved, device="cpu")


@pytest.mark.parametrize(
    "reference", ["csr_st.codes.SparseCodes", "csr_st.SparseCSRHead", "os.system", "evil.Head"]
)
def test_other_classes_still_need_trust_remote_code(saved, reference):
    path = Path(saved) / "modules.json"
    path.write_text(path.read_text().replace(CLASS_REFERENCE, reference))
    with pytest.raises(ValueError, match=r"Please pass the argument `trust_remote_code=True`"):
        SentenceTransformer(saved, device="cpu")


def test_code_in_a_models_folder_is_not_run(saved, texts, model):
    for name in ("csr_st.py", "head.py", "1_SparseCSRHead/head.py"):
        (Path(saved) / name).write_text("raise SystemExit('code from the model ran')")
    loaded = SentenceTransformer(saved, device="cpu")
    np.testing.assert_array_equal(loaded.encode(texts), model.encode(texts))


def test_registering_again_keeps_what_others_registered(monkeypatch):
    theirs = {"somebody.Else": object}
    monkeypatch.setattr(BaseModel, "_module_classes", theirs)
    assert register()
    ours = {CLASS_REFERENCE: csr_st.SparseCSRHead, VECTOR_REFERENCE: VectorInput}
    assert BaseModel._module_classes == {**theirs, **ours}
    assert theirs == {"somebody.Else": object}  # never edited in place


def test_without_the_hook_nothing_is_touched(monkeypatch):
    monkeypatch.delattr(BaseModel, "_module_classes")
    assert register() is False
    assert not hasattr(BaseModel, "_module_classes")
