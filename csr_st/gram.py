"""All dot products among the rows of one matrix."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from csr_st.threads import few_threads


def gram(rows: Tensor) -> Tensor:
    """``rows @ rows.T`` without gradient; where torch has one thread, at about half of its price.

    The product is symmetric, and NumPy has its BLAS compute one triangle of it (syrk), which torch
    does not. That BLAS has threads of its own, which would wait for torch's if these were several.

    Args:
        rows: (b, d).

    Returns:
        (b, b).
    """
    rows = rows.detach()
    if not few_threads(rows) or torch.get_num_threads() > 1:
        return rows @ rows.T
    numbers = rows.numpy()
    return torch.from_numpy(np.dot(numbers, numbers.T))
