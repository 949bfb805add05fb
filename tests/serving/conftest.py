"""An index of the texts, and a client of the app that serves it; no process, no socket."""

from __future__ import annotations

import pytest

import csr_st
from csr_st import SparseIndex


@pytest.fixture
def index(model, texts):
    codes = csr_st.encode(model, texts, role="document")
    decoder = csr_st.Decoder.from_head(csr_st.find_head(model))
    return SparseIndex.build(codes, decoder=decoder)


@pytest.fixture
def client(model, index, texts):
    from fastapi.testclient import TestClient

    from csr_st.serving import Limits, create_app

    bounds = {"hits": 18, "rescore": 50, "explained": 6}
    limits = Limits(inputs=4, characters=100, body=2000, top_k=5, queue=8, **bounds)
    with TestClient(create_app(model, index, texts, limits=limits, name="tiny")) as opened:
        yield opened
