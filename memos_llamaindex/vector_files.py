"""The files of vector stores, in the form of LlamaIndex's ``SimpleVectorStore``, and with the nodes' texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memos_core import Collection
from memos_core.errors import InvalidInput, MissingExtra

try:
    from llama_index.core.schema import BaseNode, NodeRelationship, RelatedNodeInfo, TextNode
    from llama_index.core.vector_stores.utils import metadata_dict_to_node
except ImportError as error:
    raise MissingExtra("llama-index-core", extra="llamaindex") from error

__all__ = ["saved_collection", "saved_nodes"]

CONTENT = "_node_content"
"""Key of a node's metadata under which LlamaIndex keeps the rest of it. ``SimpleVectorStore`` leaves it out."""

OWN = frozenset({CONTENT, "_node_type", "document_id", "doc_id", "ref_doc_id"})
"""Keys that LlamaIndex adds to a node's metadata."""

TEXT = "_memos_text"
"""Key under which the text of a node is kept here."""


def saved_collection(collection: Collection) -> dict[str, dict[str, Any]]:
    """Return the nodes of a collection as ``SimpleVectorStore.to_dict`` would, with their texts in the metadata."""
    vectors: dict[str, Any] = {}
    sources: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    for page in collection.pages():
        for document in collection.get([str(each.id) for each in page], vectors=True):
            key = str(document.id)
            vectors[key] = [float(number) for number in document.vector or ()]
            sources[key] = document.metadata.get("ref_doc_id") or "None"
            metadata[key] = {**document.metadata, TEXT: document.text}
    return {"embedding_dict": vectors, "text_id_to_ref_doc_id": sources, "metadata_dict": metadata}


def saved_nodes(saved: Any) -> list[BaseNode]:
    """Return the nodes that a file holds. Those of a ``SimpleVectorStore`` have no text: it keeps none.

    Raises:
        InvalidInput: ``saved`` is something else.
    """
    vectors = saved.get("embedding_dict") if isinstance(saved, Mapping) else None
    if not isinstance(vectors, Mapping):
        raise InvalidInput("a saved vector store is a dict with an embedding_dict")
    metadata, sources = saved.get("metadata_dict") or {}, saved.get("text_id_to_ref_doc_id") or {}
    return [
        saved_node(str(node_id), list(vector), dict(metadata.get(node_id) or {}), sources.get(node_id))
        for node_id, vector in vectors.items()
    ]


def saved_node(node_id: str, vector: list[float], metadata: dict[str, Any], source: str | None) -> BaseNode:
    text = metadata.pop(TEXT, "")
    if CONTENT in metadata:
        node = metadata_dict_to_node(metadata, text=text)
        node.embedding = vector
        return node
    known = source not in (None, "None")
    relationships = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=str(source))} if known else {}
    said = {key: value for key, value in metadata.items() if key not in OWN}
    return TextNode(id_=node_id, text=text, embedding=vector, metadata=said, relationships=relationships)
