"""Where other ways than torch's own are faster, as they are on one thread."""

from __future__ import annotations

import torch
from torch import Tensor

FEW = 2


def few_threads(x: Tensor) -> bool:
    """Whether to give a tensor to NumPy or SciPy: plain numbers, on a processor, on few threads.

    Both have better code for some steps than torch: sorts by vector instructions, and the order of
    a sparse matrix by columns. But it is on one thread, and knows no graph that is being compiled.
    """
    plain = x.dtype in (torch.float32, torch.float64) and not torch.compiler.is_compiling()
    return plain and x.device.type == "cpu" and torch.get_num_threads() <= FEW
