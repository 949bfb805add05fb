"""The compiled loops against torch, when they are used, and what is logged of compiling them."""

import logging
import sys
import threading
import types

import pytest
import torch

from csr_st.training import losses
from csr_st.training.compiled import autograd
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


def test_loops_take_only_float32_on_the_cpu(monkeypatch):
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
def test_loops_that_cannot_be_loaded_are_not_available(monkeypatch, problem):
    for name in [name for name in sys.modules if name.startswith("csr_st.training.compiled.")]:
        monkeypatch.delitem(sys.modules, name)

    def fail(*arguments, **options):
        raise problem("no locator available")

    numba = types.ModuleType("numba")
    numba.njit = fail
    monkeypatch.setitem(sys.modules, "numba", numba)
    assert not compiled.available.__wrapped__()


@pytest.mark.parametrize(("missed", "logged"), [({"a type": 1}, 1), ({}, 0)])
def test_compilation_is_logged_once(monkeypatch, caplog, missed, logged):
    monkeypatch.setattr(compiled, "_announced", threading.Event())

    def loop(first, last):
        pass

    loop.stats = types.SimpleNamespace(cache_misses=missed)  # as numba counts them
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            in_parts(loop, 4)
    expected = "compiling the loops of training; this happens once, the result is cached on disk"
    assert [record.message for record in caplog.records] == [expected] * logged


def gradients(tensors, *results):
    """Of a sum of all results, each entry with a weight of its own."""
    total = sum((x * torch.arange(1, x.numel() + 1).view(x.shape)).sum() for x in results)
    return torch.autograd.grad(total / 100, tensors)


@pytest.mark.parametrize("used", ["sums", "squares", "both"])
@pytest.mark.parametrize("ks", [(1, 2, 9), (3, 3), (7,)])
def test_prefix_sums_equal_those_of_torch(monkeypatch, torch_threads, used, ks):
    pytest.importorskip("numba")
    torch_threads(2)
    generator = torch.Generator().manual_seed(0)
    shapes = (6, 5), (6, ks[-1]), (20, 5)
    given = [torch.randn(s, generator=generator).requires_grad_() for s in shapes]
    start, values, table = given
    latents = torch.rand(6, 20, generator=generator).argsort(dim=1)[:, : ks[-1]]
    which = {"sums": slice(1), "squares": slice(1, 2), "both": slice(2)}[used]
    found, expected = [], []
    for results, available in ((found, True), (expected, False)):
        monkeypatch.setattr(compiled, "available", lambda available=available: available)
        both = losses.prefix_sums(start, values, latents, table, ks)
        results += [x.detach().clone() for x in both]
        results += gradients(given, *both[which])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("n", "k"), [(40, 5), (1536, 64), (3072, 2), (97, 97), (1, 1)])
def test_activations_equal_those_of_torch(torch_threads, n, k):
    pytest.importorskip("numba")
    torch_threads(2)
    generator = torch.Generator().manual_seed(n + k)
    x, *parameters = (torch.randn(s, generator=generator) for s in ((6, 3), (n, 3), (n,), (3,)))
    for parameter in parameters:
        parameter.requires_grad_()
    weight, bias, centre = parameters
    pre = torch.nn.functional.linear(x - centre, weight, bias)
    rows = torch.arange(6)
    noise = rows, rows, rows, torch.zeros(6)
    ((values, latents),) = autograd.activations(pre.detach(), tuple(parameters), (x, noise, k))
    expected = pre.topk(k)
    assert torch.equal(values, expected.values.relu())
    positive = values > 0
    assert torch.equal(latents[positive], expected.indices[positive])
    assert all(len(set(row)) == k for row in latents.tolist())
    found = gradients(parameters, values)
    for one, other in zip(found, gradients(parameters, expected.values.relu()), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
