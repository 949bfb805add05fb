"""When a training step uses the compiled loops, and how they are spread over threads.

numba is optional: without it, and for tensors that the loops do not take, a step uses torch.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import pairwise

import torch
from torch import Tensor

from csr_st._io.compiling import lasting
from csr_st._io.threads import run_all

logger = logging.getLogger(__name__)

PARTS = 4  # per thread, as parts of one size can take unequal time

_announced = threading.Event()


@lru_cache
def available() -> bool:
    """Whether the loops can be used.

    They cannot without numba, or with a numba that does not support this NumPy or machine.
    """
    try:
        importlib.import_module("csr_st.training.compiled.loops")
    except (ImportError, RuntimeError):
        return False
    return True


def takes(*tensors: Tensor) -> bool:
    """Whether the loops take these: float32 on the CPU, without autocast or torch.compile."""
    plain = all(x.dtype == torch.float32 and x.device.type == "cpu" for x in tensors)
    lowered = torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()
    return plain and not lowered and available()


def in_parts(loop: Callable[..., None], n: int, *arguments: object) -> None:
    """``loop(first, last, *arguments)`` over parts of 0..n, on as many threads as torch uses."""
    threads = torch.get_num_threads()
    parts = 1 if threads == 1 else max(1, min(n, PARTS * threads))
    ends = [n * part // parts for part in range(parts + 1)]
    run_all([partial(loop, first, last, *arguments) for first, last in pairwise(ends)], threads)
    stats = getattr(loop, "stats", None)
    if not _announced.is_set() and stats and stats.cache_misses:
        _announced.set()
        logger.warning("compiling the loops of training; %s", lasting())
