"""Haystack's own tests of a document store."""

from __future__ import annotations

import pytest

pytest.importorskip("numba")
pytest.importorskip("haystack")
from haystack.dataclasses import Document
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.testing import document_store as suite

from csr_st.frameworks.haystack import CSRDocumentStore


class TestDocumentStore(
    suite.DocumentStoreBaseExtendedTests,
    suite.CountDocumentsByFilterTest,
    suite.CountUniqueMetadataByFilterTest,
    suite.GetMetadataFieldsInfoTest,
    suite.GetMetadataFieldMinMaxTest,
    suite.GetMetadataFieldUniqueValuesTest,
):
    """All of them."""

    @pytest.fixture
    def document_store(self):
        return CSRDocumentStore(hidden_dim=64)

    def test_write_documents(self, document_store):
        """The suite leaves open what no policy means: here it means FAIL."""
        document = Document(content="test doc")
        assert document_store.write_documents([document]) == 1
        with pytest.raises(DuplicateDocumentError):
            document_store.write_documents([document])
        self.assert_documents_are_equal(document_store.filter_documents(), [document])
