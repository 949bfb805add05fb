"""What `CSRDocumentStore` tells about the metadata of its documents, in calls of Haystack.

Names of fields may begin with ``meta.``, which is dropped. Values that are None do not count.
"""

from __future__ import annotations

import asyncio
import copy
import json
from abc import ABC, abstractmethod
from typing import Any

try:
    from haystack.dataclasses import Document
except ModuleNotFoundError as error:
    raise ImportError('haystack is missing: pip install "csr-st[haystack]"') from error

Filters = dict[str, Any]


class MetadataQueries(ABC):
    """Counts, types, extremes and values of fields of ``meta``."""

    @abstractmethod
    def _matching(self, filters: Filters | None = None) -> list[Document]:
        """The documents that match, as they are stored; all of them without filters."""

    def count_documents_by_filter(self, filters: Filters) -> int:
        """Number of documents that match."""
        return len(self._matching(filters))

    def count_unique_metadata_by_filter(
        self, filters: Filters, metadata_fields: list[str]
    ) -> dict[str, int]:
        """Number of different values of each field, among the documents that match."""
        documents = self._matching(filters)
        names = [_name(field) for field in metadata_fields]
        return {name: len(_different(documents, name)) for name in names}

    def get_metadata_fields_info(self) -> dict[str, dict[str, str]]:
        """Type of each field, as ``{"year": {"type": "int"}}``.

        It is int, float, boolean, or keyword for all else; of fields with several, that of the last
        document.
        """
        kinds = {bool: "boolean", int: "int", float: "float"}
        return {
            name: {"type": kinds.get(type(value), "keyword")}
            for document in self._matching()
            for name, value in document.meta.items()
            if value is not None
        }

    def get_metadata_field_min_max(self, metadata_field: str) -> dict[str, Any]:
        """Smallest and largest value of a field, as ``{"min": 1, "max": 9}``.

        Both are None where there is not a number and no text, or there are both.
        """
        found = _values(self._matching(), _name(metadata_field))
        values = [value for value in found if isinstance(value, int | float | str)]
        if not values or len({isinstance(value, str) for value in values}) > 1:
            return {"min": None, "max": None}
        return {"min": min(values), "max": max(values)}

    def get_metadata_field_unique_values(
        self,
        metadata_field: str,
        search_term: str | None = None,
        from_: int = 0,
        size: int = 10,
        filters: Filters | None = None,
    ) -> tuple[list[Any], int]:
        """Different values of a field, in the order of their texts, and how many there are.

        Args:
            metadata_field: The field.
            search_term: Only values whose text contains this, in upper or lower case.
            from_: How many values to leave out at the beginning.
            size: How many to return.
            filters: Only of documents that match.
        """
        values = list(_different(self._matching(filters), _name(metadata_field)).values())
        if search_term:
            values = [value for value in values if search_term.lower() in str(value).lower()]
        values.sort(key=lambda value: (str(value), type(value).__name__))
        return copy.deepcopy(values[from_ : from_ + size]), len(values)

    async def count_documents_by_filter_async(self, filters: Filters) -> int:
        """As `count_documents_by_filter`."""
        return await asyncio.to_thread(self.count_documents_by_filter, filters)

    async def count_unique_metadata_by_filter_async(
        self, filters: Filters, metadata_fields: list[str]
    ) -> dict[str, int]:
        """As `count_unique_metadata_by_filter`."""
        return await asyncio.to_thread(
            self.count_unique_metadata_by_filter, filters, metadata_fields
        )

    async def get_metadata_fields_info_async(self) -> dict[str, dict[str, str]]:
        """As `get_metadata_fields_info`."""
        return await asyncio.to_thread(self.get_metadata_fields_info)

    async def get_metadata_field_min_max_async(self, metadata_field: str) -> dict[str, Any]:
        """As `get_metadata_field_min_max`."""
        return await asyncio.to_thread(self.get_metadata_field_min_max, metadata_field)

    async def get_metadata_field_unique_values_async(
        self,
        metadata_field: str,
        search_term: str | None = None,
        from_: int = 0,
        size: int = 10,
        filters: Filters | None = None,
    ) -> tuple[list[Any], int]:
        """As `get_metadata_field_unique_values`."""
        return await asyncio.to_thread(
            self.get_metadata_field_unique_values,
            metadata_field,
            search_term,
            from_,
            size,
            filters,
        )


def _name(field: str) -> str:
    return field.removeprefix("meta.")


def _values(documents: list[Document], name: str) -> list[Any]:
    found = (document.meta.get(name) for document in documents)
    return [value for value in found if value is not None]


def _different(documents: list[Document], name: str) -> dict[tuple[str, str], Any]:
    """Values by type and content: 1, 1.0, "1" and True differ, and lists and dicts are values."""
    return {
        (type(value).__name__, json.dumps(value, sort_keys=True, default=repr)): value
        for value in _values(documents, name)
    }
