"""Module paths of version 0.1 that still import for one release, each with a DeprecationWarning."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "csr_st.hub": "csr_st.publishing.hub",
    "csr_st.images": "csr_st.data.images",
    "csr_st.losses": "csr_st.training.losses",
    "csr_st.metrics": "csr_st.evaluation.metrics",
    "csr_st.model_card": "csr_st.publishing.model_card",
    "csr_st.objective": "csr_st.training.objective",
    "csr_st.plots": "csr_st.evaluation.plots",
    "csr_st.ranking": "csr_st.evaluation.brute_force",
    "csr_st.registration": "csr_st.attaching",
    "csr_st.search.engine": "csr_st.search.engines.base",
    "csr_st.search.milvus": "csr_st.search.engines.milvus",
    "csr_st.search.pgvector": "csr_st.search.engines.pgvector",
    "csr_st.search.qdrant": "csr_st.search.engines.qdrant",
    "csr_st.search.seismic": "csr_st.search.engines.seismic",
    "csr_st.search_time": "csr_st.evaluation.latency",
    "csr_st.two_sided": "csr_st.training.modalities",
}


class _MovedModules(MetaPathFinder, Loader):
    """Finds a module under its old path and gives the one at its new path."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002 - the protocol names it
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__
        warnings.warn(
            f"{old} has moved to {MOVED[old]}; the old path goes with the next release",
            DeprecationWarning,
            stacklevel=2,
        )
        sys.modules[old] = importlib.import_module(MOVED[old])


def module(name: str) -> ModuleType:
    """The module of an old path, as an attribute of `csr_st`."""
    if name not in MOVED:
        raise AttributeError(f"module 'csr_st' has no attribute {name.split('.')[-1]!r}")
    return importlib.import_module(name)


sys.meta_path.append(_MovedModules())
