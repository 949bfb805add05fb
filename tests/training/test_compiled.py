"""When compiled loops are used, over which parts, and what is said of compiling them."""

import logging
import sys
import threading
import types

import pytest
import torch

from csr_st.training.compiled import dispatch as compiled
from csr_st.training.compiled.dispatch import in_parts, takes


@pytest.fixture
def torch_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("n", [0, 1, 5, 100])
def test_parts_cover_everything_once(torch_threads, threads, n):
    torch_threads(threads)
    seen = []
    in_parts(lambda first, last, *given: seen.extend((i, given) for i in range(first, last)), n, 7)
    assert sorted(seen) == [(i, (7,)) for i in range(n)]


def test_loops_take_plain_float32_numbers_alone(monkeypatch):
    pytest.importorskip("numba")
    x = torch.zeros(3)
    assert takes(x, x)
    assert not takes(x, x.double())
    assert not takes(x.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not takes(x)
    monkeypatch.setattr(compiled, "available", lambda: False)
    assert not takes(x)


@pytest.mark.parametrize("problem", [ImportError, RuntimeError])
def test_loops_that_cannot_be_loaded_are_none(monkeypatch, problem):
    """numba raises RuntimeError where it has no place for its cache."""
    for name in [name for name in sys.modules if name.startswith("csr_st.training.compiled.")]:
        monkeypatch.delitem(sys.modules, name)

    def fail(*arguments, **options):
        raise problem("no locator available")

    numba = types.ModuleType("numba")
    numba.njit = fail
    monkeypatch.setitem(sys.modules, "numba", numba)
    assert not compiled.available.__wrapped__()


@pytest.mark.parametrize(("missed", "told"), [({"a type": 1}, 1), ({}, 0)])
def test_what_had_to_be_compiled_is_told_once(monkeypatch, caplog, missed, told):
    monkeypatch.setattr(compiled, "_told", threading.Event())

    def loop(first, last):
        pass

    loop.stats = types.SimpleNamespace(cache_misses=missed)  # as numba counts them
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            in_parts(loop, 4)
    said = "compiling the loops of training; this happens once, the result is cached on disk"
    assert [record.message for record in caplog.records] == [said] * told
