"""A vector store of 10,000 nodes under LlamaIndex: is what it finds right, and what does it cost beside others.

    python benchmarks/llamaindex_vector_store.py
    python benchmarks/llamaindex_vector_store.py --nodes 2000 --out FILE

Every answer is compared with an oracle that looks at all nodes: cosines over all vectors with numpy, and each filter
written out as a plain function. The same questions are asked of ``MemosVectorStore``, of LlamaIndex's
``SimpleVectorStore`` (in RAM) and, where its package is installed, of ``ChromaVectorStore`` (on disk). ``right`` is the
share of questions whose ten ids are the oracle's; None: the store cannot be asked this. Times are processor time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)
from surroundings import surroundings

from memos_core import MemOS
from memos_llamaindex import MemosVectorStore

RESULT = Path(__file__).parent / "results" / "llamaindex_vector_store.json"
SEED = 11
DIMENSION = 384
K = 10
LANGUAGES = ("de", "en", "fr", "it")
TAGS = ("news", "draft", "law", "sport", "music")
WORDS = ("harbour", "letter", "winter", "engine", "garden", "violin", "ticket", "bridge", "coffee", "island")

Metadata = Mapping[str, Any]
Filter = tuple[MetadataFilters | None, Callable[[Metadata], bool]]


def main() -> None:
    """Fills every store, asks every question and keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=10_000, help="nodes in each store")
    parser.add_argument("--questions", type=int, default=5, help="questions of each kind")
    parser.add_argument("--out", type=Path, default=RESULT, help="file to write the figures to")
    options = parser.parse_args()
    random = np.random.default_rng(SEED)
    nodes = made_nodes(random, options.nodes)
    questions = unit(
        random.normal(size=(options.questions, DIMENSION)) + 0.3 * sampled(nodes, random, options.questions)
    )
    workload = {"nodes": options.nodes, "questions": options.questions, "k": K, "dimension": DIMENSION, "seed": SEED}
    outcome = {**surroundings(workload), "unit": "milliseconds of processor time", "stores": measured(nodes, questions)}
    options.out.write_text(json.dumps(outcome, indent=2) + "\n")
    for name, figures in outcome["stores"].items():
        print(name, json.dumps(figures, indent=1))


def measured(nodes: Sequence[TextNode], questions: np.ndarray) -> dict[str, Any]:
    """Returns the figures of each store by its name."""
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder)) as stores:
        return {name: of_store(store, nodes, questions) for name, store in stores.items()}


@contextmanager
def opened(folder: Path) -> Iterator[dict[str, BasePydanticVectorStore]]:
    """Opens the stores, all empty."""
    with MemOS.open(folder / "vault", embedder=None) as memos:
        stores: dict[str, BasePydanticVectorStore] = {
            "MemosVectorStore": MemosVectorStore(memos.scope(user="ada")),
            "SimpleVectorStore": SimpleVectorStore(),
        }
        if find_spec("llama_index.vector_stores.chroma") is not None:
            import chromadb
            from llama_index.vector_stores.chroma import ChromaVectorStore

            client = chromadb.PersistentClient(str(folder / "chroma"))
            space = {"hnsw:space": "cosine"}
            stores["ChromaVectorStore"] = ChromaVectorStore(client.create_collection("nodes", metadata=space))
        yield stores


def of_store(store: BasePydanticVectorStore, nodes: Sequence[TextNode], questions: np.ndarray) -> dict[str, Any]:
    """Returns what filling, asking and deleting take, and how much of it is right."""
    if getattr(store, "flat_metadata", False):  # it cannot hold lists; what asks for them is then asked in vain
        nodes = [node.model_copy(update={"metadata": without_lists(node.metadata)}) for node in nodes]
    _, filling = timed(lambda: [store.add(list(nodes[start : start + 1000])) for start in range(0, len(nodes), 1000)])
    vectors = np.array([node.embedding for node in nodes], dtype=np.float32)
    asked = {name: of_filter(store, nodes, vectors, questions, one) for name, one in filters().items()}
    modes = {mode.value: of_mode(store, nodes, questions, mode) for mode in MODES}
    _, deleting = timed(lambda: [store.delete(f"document-{number}") for number in range(10)])
    gone = [node.node_id for node in nodes if node.ref_doc_id in {f"document-{number}" for number in range(10)}]
    return {
        "insert_ms_per_node": round(filling / len(nodes), 3),
        "filters": asked,
        "modes": modes,
        "delete_ms_per_document": round(deleting / 10, 2),
        "deleted_are_gone": not found_any(store, nodes, gone),
    }


def of_filter(
    store: BasePydanticVectorStore, nodes: Sequence[TextNode], vectors: np.ndarray, questions: np.ndarray, one: Filter
) -> dict[str, Any]:
    """Returns what the questions under one filter take, and how many are right."""
    given, accepts = one
    allowed = np.array([accepts({"tags": [], **node.metadata}) for node in nodes])
    times, right = [], 0
    for question in questions:
        query = VectorStoreQuery(query_embedding=question.tolist(), similarity_top_k=K, filters=given)
        try:
            result, taken = timed(lambda query=query: store.query(query))
        except (ValueError, NotImplementedError) as error:
            return {"ms": None, "right": None, "why": str(error).splitlines()[0][:100]}
        scores = np.where(allowed, vectors @ question, -np.inf)
        best = [index for index in np.argsort(-scores, kind="stable")[:K] if allowed[index]]
        right += list(result.ids or []) == [nodes[index].node_id for index in best]
        times.append(taken)
    return {"ms": round(float(np.median(times)), 2), "right": right / len(questions), "pass": int(allowed.sum())}


MODES = (
    VectorStoreQueryMode.DEFAULT,
    VectorStoreQueryMode.MMR,
    VectorStoreQueryMode.TEXT_SEARCH,
    VectorStoreQueryMode.HYBRID,
)


def of_mode(
    store: BasePydanticVectorStore, nodes: Sequence[TextNode], questions: np.ndarray, mode: VectorStoreQueryMode
) -> dict[str, Any]:
    """Returns what questions of one mode take; a store that passes the mode over and answers by vectors cannot."""
    times = []
    by_vector = mode in (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.MMR)
    for number, question in enumerate(questions[:1] if mode is VectorStoreQueryMode.MMR else questions):
        text = nodes[number * 7 % len(nodes)].text
        query = VectorStoreQuery(query_embedding=question.tolist(), query_str=text, similarity_top_k=K, mode=mode)
        try:
            result, taken = timed(lambda query=query: store.query(query))
        except (ValueError, NotImplementedError) as error:
            return {"ms": None, "why": str(error).splitlines()[0][:100]}
        plain = VectorStoreQuery(query_embedding=question.tolist(), similarity_top_k=K)
        if not by_vector and result.ids == store.query(plain).ids:
            return {"ms": None, "why": "passes the mode over"}
        times.append(taken)
    return {"ms": round(float(np.median(times)), 2)}


def found_any(store: BasePydanticVectorStore, nodes: Sequence[TextNode], gone: Sequence[str]) -> bool:
    """Tells whether a question with a node's own vector still finds one of ``gone``."""
    of = {node.node_id: node.embedding for node in nodes}
    queries = [VectorStoreQuery(query_embedding=of[node_id], similarity_top_k=1) for node_id in gone[:20]]
    return any(set(store.query(query).ids or []) & set(gone) for query in queries)


def filters() -> dict[str, Filter]:
    """Returns the filters by name: as LlamaIndex has them, and as a function over the metadata."""

    def both(
        *parts: MetadataFilter | MetadataFilters, condition: FilterCondition = FilterCondition.AND
    ) -> MetadataFilters:
        return MetadataFilters(filters=list(parts), condition=condition)

    def one(key: str, operator: FilterOperator, value: Any) -> MetadataFilter:
        return MetadataFilter(key=key, operator=operator, value=value)

    english = one("language", FilterOperator.EQ, "en")
    recent = one("year", FilterOperator.GTE, 2020)
    rare = one("code", FilterOperator.EQ, "c-17")
    nested = both(english, both(recent, one("language", FilterOperator.NE, "en"), condition=FilterCondition.OR))
    return {
        "none": (None, lambda held: True),
        "equal": (both(english), lambda held: held["language"] == "en"),
        "rare": (both(rare), lambda held: held["code"] == "c-17"),
        "range": (both(recent), lambda held: held["year"] >= 2020),
        "one of": (
            both(one("language", FilterOperator.IN, ["de", "fr"])),
            lambda held: held["language"] in ("de", "fr"),
        ),
        "holds any of": (
            both(one("tags", FilterOperator.ANY, ["law", "music"])),
            lambda held: bool({"law", "music"} & set(held["tags"])),
        ),
        "or": (
            both(english, recent, condition=FilterCondition.OR),
            lambda held: held["language"] == "en" or held["year"] >= 2020,
        ),
        "nested": (nested, lambda held: held["language"] == "en" and (held["year"] >= 2020)),
    }


def made_nodes(random: np.random.Generator, count: int) -> list[TextNode]:
    """Returns nodes of ten to a document, in clusters, with metadata of every kind."""
    centres = random.normal(size=(50, DIMENSION))
    vectors = unit(centres[random.integers(50, size=count)] + random.normal(size=(count, DIMENSION)))
    return [made_node(random, number, vector) for number, vector in enumerate(vectors)]


def made_node(random: np.random.Generator, number: int, vector: np.ndarray) -> TextNode:
    metadata = {
        "language": LANGUAGES[random.integers(len(LANGUAGES))],
        "year": int(random.integers(2000, 2026)),
        "tags": sorted(set(random.choice(TAGS, size=random.integers(0, 4)).tolist())),
        "code": f"c-{number % 1000}",
    }
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"document-{number // 10}")}
    text = f"note {number}: " + " ".join(random.choice(WORDS, size=10))
    return TextNode(id_=f"node-{number}", text=text, embedding=vector.tolist(), metadata=metadata, relationships=source)


def without_lists(metadata: Metadata) -> dict[str, Any]:
    return {key: value for key, value in metadata.items() if not isinstance(value, list)}


def sampled(nodes: Sequence[TextNode], random: np.random.Generator, count: int) -> np.ndarray:
    chosen = random.integers(len(nodes), size=count)
    return np.array([nodes[index].embedding for index in chosen]) * np.sqrt(DIMENSION)


def unit(vectors: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return scaled


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Returns what ``work`` returned and the milliseconds of processor time that it took."""
    begun = time.process_time()
    result = work()
    return result, (time.process_time() - begun) * 1000


if __name__ == "__main__":
    main()
