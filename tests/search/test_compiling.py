"""numba's cache: used where it can be, and never a reason to fail."""

import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import csr_st
from csr_st._io import compiling

numba = pytest.importorskip("numba")

SOURCE = """
from csr_st._io.compiling import njit

@njit(nogil=True, cache=True)
def double(number):
    return 2 * number
"""


@pytest.fixture
def compile_loop(tmp_path, monkeypatch, caplog):
    """Imports a file with one loop, as a new process would; returns the loop."""
    monkeypatch.setattr(compiling, "_uncached", threading.Event())
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("HOME", "/proc/none")  # not even root can make a folder there
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    caplog.set_level(logging.WARNING)
    file = tmp_path / "loops.py"
    file.write_text(SOURCE)

    def load():
        spec = importlib.util.spec_from_file_location("loops", file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.double

    return load


def cached_files(tmp_path, suffix):
    return sorted((tmp_path / "__pycache__").glob(f"*.{suffix}"))


def test_the_second_process_takes_loops_from_the_cache(compile_loop, tmp_path, caplog):
    assert compile_loop()(3) == 6
    again = compile_loop()
    assert again(3) == 6
    assert sum(again.stats.cache_hits.values()) == 1
    assert cached_files(tmp_path, "nbc")
    assert not caplog.records
    assert compiling.lasting() == "this happens once, the result is cached on disk"


def test_without_a_folder_for_the_cache_loops_run_and_it_is_said_once(
    compile_loop, tmp_path, caplog
):
    (tmp_path / "__pycache__").touch()
    assert compile_loop()(3) == 6
    assert compile_loop()(4) == 8
    (record,) = caplog.records
    assert "set NUMBA_CACHE_DIR to a writable folder" in record.message
    assert "in each process" in compiling.lasting()


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize("content", [b"", b"\x80\x04half", b"not a pickle"])
def test_a_damaged_cache_is_written_again(compile_loop, tmp_path, suffix, content):
    compile_loop()(3)
    for file in cached_files(tmp_path, suffix):
        file.write_bytes(content)
    assert compile_loop()(3) == 6
    again = compile_loop()
    assert again(3) == 6
    assert sum(again.stats.cache_hits.values()) == 1


def test_a_full_disk_costs_only_the_cache(compile_loop, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile._save_index", full)
    assert compile_loop()(3) == 6
    (record,) = caplog.records
    assert "No space left" in record.message


@pytest.mark.slow
@pytest.mark.parametrize("home", ["/proc/none", None])
def test_search_and_training_run_without_home_and_from_a_read_only_install(tmp_path, home):
    package = shutil.copytree(
        Path(csr_st.__file__).parent,
        tmp_path / "csr_st",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    for folder in ("search/kernels", "training/compiled"):
        (package / folder / "__pycache__").touch()  # a file where a folder is needed
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR")
    }
    environment["HF_HOME"] = str(tmp_path / "hub")
    if home is None:
        # Without HOME the password database names one, which can be written to here.
        environment["NUMBA_CACHE_LOCATOR_CLASSES"] = "InTreeCacheLocator"
    else:
        environment["HOME"] = home
    script = """
import numpy as np
import csr_st
from csr_st.training.compiled import dispatch
codes = csr_st.SparseCodes(np.array([[0, 1], [2, 3]]), np.array([[4, 3], [4, 3]], np.float32), 5)
print(csr_st.SparseIndex.build(codes).search(codes, top_k=1).ids.tolist(), dispatch.available())
"""
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env={**environment, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.split("\n")[0] == "[[0], [1]] True"
    assert ended.stderr.count("set NUMBA_CACHE_DIR to a writable folder (") == 1


def test_a_changed_neighbour_of_the_same_date_and_size_is_compiled_anew(compile_loop, tmp_path):
    # Constants and loops of other files are compiled in, and installed files may all have one date.
    neighbour = tmp_path / "neighbour.py"
    source = SOURCE.replace(
        "def double(number):\n    return 2", "def double(number):\n    return FACTOR"
    )
    (tmp_path / "loops.py").write_text("from neighbour import FACTOR\n" + source)
    sys.path.insert(0, str(tmp_path))
    results = []
    try:
        for factor in (2, 3):
            neighbour.write_text(f"FACTOR = {factor}\n")
            os.utime(neighbour, (1_580_601_600, 1_580_601_600))
            importlib.invalidate_caches()
            sys.modules.pop("neighbour", None)
            for stale in (tmp_path / "__pycache__").glob("neighbour.*.pyc"):
                stale.unlink()
            compiling._digest_of_sources.cache_clear()  # as in a new process
            spec = importlib.util.spec_from_file_location("loops", tmp_path / "loops.py")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            results.append(module.double(5))
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("neighbour", None)
    assert results == [10, 15]
