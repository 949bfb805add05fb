"""Which nodes a call of LlamaIndex names: by ids, by documents and by filters of metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

try:
    from llama_index.core.schema import BaseNode
    from llama_index.core.vector_stores.types import FilterCondition, MetadataFilters
    from llama_index.core.vector_stores.utils import build_metadata_filter_fn
except ModuleNotFoundError as error:
    raise ImportError('llama_index.core is missing: pip install "csr-st[llama-index]"') from error

from csr_st.frameworks.documents import Selection, for_which, of_ids


def selection(
    node_ids: list[str] | None, doc_ids: list[str] | None, filters: MetadataFilters | None
) -> Selection[BaseNode] | None:
    """Selects nodes that have one of the ids, belong to one of the documents, and match."""
    steps: list[Selection[BaseNode]] = []
    if node_ids is not None:
        wanted = list(node_ids)
        steps.append(lambda nodes: of_ids(nodes, wanted))
    if doc_ids is not None:
        parents = set(doc_ids)
        steps.append(for_which(lambda node: node.ref_doc_id in parents))
    if filters is not None and filters.filters:
        steps.append(for_which(_matcher(filters)))

    def select(nodes: Mapping[str, BaseNode]) -> Mapping[str, BaseNode]:
        for step in steps:
            nodes = step(nodes)
        return nodes

    return select if steps else None


def _matcher(filters: MetadataFilters) -> Callable[[BaseNode], bool]:
    """Whether a node matches."""
    matches = _metadata_matcher(filters)

    def match(node: BaseNode) -> bool:
        parents = dict.fromkeys(("document_id", "doc_id", "ref_doc_id"), node.ref_doc_id)
        return matches({**node.metadata, **parents})

    return match


def _metadata_matcher(filters: MetadataFilters) -> Callable[[Mapping[str, Any]], bool]:
    """As LlamaIndex' own function, which refuses filters within filters."""
    matchers = [
        _metadata_matcher(each) if isinstance(each, MetadataFilters) else _one_matcher(each)
        for each in filters.filters
    ]
    condition = filters.condition or FilterCondition.AND
    if condition == FilterCondition.AND:
        return lambda metadata: all(matches(metadata) for matches in matchers)
    wanted = condition == FilterCondition.OR
    return lambda metadata: any(matches(metadata) for matches in matchers) == wanted


def _one_matcher(filter: Any) -> Callable[[Mapping[str, Any]], bool]:
    # It looks the metadata of an id up, and takes any object as the id
    match: Callable[[Any], bool] = build_metadata_filter_fn(
        lambda metadata: metadata,  # type: ignore[arg-type, return-value]
        MetadataFilters(filters=[filter]),
    )
    return match
