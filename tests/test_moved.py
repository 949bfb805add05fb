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


@pytest.mark.parametrize("name", ["SideReport", "evaluate_pairs", "shift_of", "train_pairs"])
@pytest.mark.filterwarnings("ignore:csr_st.two_sided has moved")
def test_names_of_an_old_path_that_are_in_two_modules_now(name):
    assert hasattr(importlib.import_module("csr_st.two_sided"), name)


@pytest.mark.filterwarnings("ignore:csr_st.hub has moved")
def test_an_old_path_is_an_attribute_of_the_package():
    import csr_st

    sys.modules.pop("csr_st.hub", None)
    vars(csr_st).pop("hub", None)
    assert csr_st.hub.push_to_hub is csr_st.push_to_hub
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        csr_st.nothing  # noqa: B018 - the access is what fails


def test_names_that_version_0_1_had_in_evaluation():
    from csr_st.evaluation import METHODS, METRICS, encode_vectors

    assert "symmetric" in METHODS
    assert "ndcg@10" in METRICS
    assert callable(encode_vectors)
