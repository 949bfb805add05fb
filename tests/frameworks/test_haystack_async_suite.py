"""Haystack's own tests of the asynchronous calls of a document store."""

from __future__ import annotations

import pytest

pytest.importorskip("numba")
pytest.importorskip("haystack")
pytest.importorskip("pytest_asyncio")  # its marker stands in the suite
from haystack.dataclasses import Document
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.testing import document_store_async as suite

from csr_st.frameworks.haystack import CSRDocumentStore


class TestAsynchronousCalls(
    suite.CountDocumentsAsyncTest,
    suite.WriteDocumentsAsyncTest,
    suite.DeleteDocumentsAsyncTest,
    suite.FilterDocumentsAsyncTest,
    suite.DeleteAllAsyncTest,
    suite.DeleteByFilterAsyncTest,
    suite.UpdateByFilterAsyncTest,
    suite.CountDocumentsByFilterAsyncTest,
    suite.CountUniqueMetadataByFilterAsyncTest,
    suite.GetMetadataFieldsInfoAsyncTest,
    suite.GetMetadataFieldMinMaxAsyncTest,
    suite.GetMetadataFieldUniqueValuesAsyncTest,
):
    """All of them."""

    @pytest.fixture
    def document_store(self):
        return CSRDocumentStore(hidden_dim=64)

    @pytest.mark.asyncio
    async def test_write_documents_async(self, document_store):
        """The suite leaves open what no policy means: here it means FAIL."""
        document = Document(content="test doc")
        assert await document_store.write_documents_async([document]) == 1
        with pytest.raises(DuplicateDocumentError):
            await document_store.write_documents_async([document])
