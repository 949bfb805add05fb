"""What the loops have in common. Needs numba, as they do."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

FAST = {"reassoc", "contract"}  # what a sum needs to be vectorised; NaN and infinity stay
ZERO, ONE = np.float32(0), np.float32(1)
