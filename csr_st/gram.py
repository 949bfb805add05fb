"""All dot products among the rows of one matrix."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def gram(rows: Tensor) -> Tensor:
    """``rows @ rows.T`` without gradient; on a processor at half of its price.

    The product is symmetric, and NumPy has BLAS compute one triangle of it (syrk), which torch does
    not.

    Args:
        rows: (b, d).

    Returns:
        (b, b).
    """
    rows = rows.detach()
    plain = rows.dtype in (torch.float32, torch.float64) and not torch.compiler.is_compiling()
    if rows.device.type != "cpu" or not plain or torch.get_num_threads() > 2:
        return rows @ rows.T
    numbers = rows.numpy()
    return torch.from_numpy(np.dot(numbers, numbers.T))
