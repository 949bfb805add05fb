"""Module paths of version 0.1: each imports for one release, with a warning."""

import importlib
import re
import sys

import pytest

from csr_st._moved import MOVED


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_an_old_path_warns_and_gives_the_module_at_the_new_path(old, new):
    sys.modules.pop(old, None)  # another test may have imported it
    with pytest.warns(DeprecationWarning, match=re.escape(f"{old} has moved to {new};")):
        module = importlib.import_module(old)
    assert module is importlib.import_module(new)
