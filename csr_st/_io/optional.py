"""Steps that a result can do without: their errors become warnings."""

from __future__ import annotations

import contextlib
import warnings
from types import TracebackType


class OptionalStep(contextlib.AbstractContextManager[None]):
    """Turns an error of the block into a warning that says what failed and what is left.

    An interrupt is no error: it passes.

    Args:
        what: The step.
        without: What there is without it, and how to get it later.
    """

    def __init__(self, what: str, without: str) -> None:
        self._what = what
        self._without = without

    def __exit__(
        self, _: object, error: BaseException | None, trace: TracebackType | None
    ) -> bool:  # a bool, by which type checkers see that the block may end early
        if not isinstance(error, Exception):
            return False
        if is_interrupt(error):
            raise KeyboardInterrupt from None
        message = f"{self._what} failed ({type(error).__name__}: {error}); {self._without}"
        warnings.warn(message, stacklevel=2)
        return True


def is_interrupt(error: BaseException) -> bool:
    """Whether an error is an interrupt, or one while numba read its arguments: a SystemError."""
    cause: BaseException | None = error
    while isinstance(cause, SystemError):
        cause = cause.__cause__
    return isinstance(cause, KeyboardInterrupt)
