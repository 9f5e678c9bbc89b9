"""A LlamaIndex query engine over 200 documents: the same questions with nodes as text and as KV.

    python benchmarks/llamaindex_query_engine.py
    python benchmarks/llamaindex_query_engine.py --layers 6 --questions 12 --out FILE

The second takes a wider model with random weights, whose answers mean nothing: the bundled reader is so small that
computing a prompt costs hardly more than looking its KV up.

Documents are generated: notes about invented people. Each question is asked of every way in turn, so that a disturbance
meets all of them; ``ttft`` is the engine's time to the first token, and ratios are against ``text`` in the same run.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_index.core import VectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import TextNode
from surroundings import surroundings

from memos_core import HFEngine, MemOS
from memos_core.engine import ComposePolicy
from memos_core.testing.models import tiny_model
from memos_llamaindex import MemosEmbedding, MemosKVPrecompute, MemosLLM, MemosQueryEngine, MemosVectorStore

RESULT = Path(__file__).parent / "results" / "llamaindex_query_engine.json"
FIRST = ("Ada", "Ben", "Cleo", "Dara", "Emil", "Fay", "Gus", "Hana", "Ivo", "Jana", "Karl", "Lena", "Milo", "Nora")
LAST = ("Alder", "Birch", "Cedar", "Dogwood", "Elm", "Fir", "Gorse", "Hazel", "Ivy", "Juniper", "Larch", "Maple", "Oak")
VALUES = {
    "cat": ("Biscuit", "Mog", "Pixel", "Crumb", "Tabby", "Soot"),
    "city": ("Aldmouth", "Breckwood", "Carrow", "Dunmere", "Eastholm", "Farrow"),
    "job": ("baker", "pilot", "nurse", "tailor", "gardener", "teacher"),
    "drink": ("tea", "coffee", "cocoa", "cider", "milk", "water"),
}
SENTENCES = {
    "cat": "The cat of {name} is called {value}.",
    "city": "{name} lives in {value}.",
    "job": "{name} works as a {value}.",
    "drink": "The favourite drink of {name} is {value}.",
}
QUESTIONS = {
    "cat": "What is the cat of {name} called?",
    "city": "Where does {name} live?",
    "job": "What does {name} work as?",
    "drink": "What is the favourite drink of {name}?",
}


@dataclass(frozen=True)
class Question:
    """One question and the word that answers it."""

    text: str
    answer: str


@dataclass(frozen=True)
class Way:
    """One way of answering: an engine, and whether each question is asked once before it is measured."""

    engine: RetrieverQueryEngine
    warm: bool = False


def people(count: int, draw: random.Random) -> list[dict[str, str]]:
    """Return invented people: name and facts."""
    names = [f"{first} {last}" for last in LAST for first in FIRST]
    names += [f"{first} {last}son" for last in LAST for first in FIRST]
    return [{"name": name, **{key: draw.choice(VALUES[key]) for key in VALUES}} for name in draw.sample(names, count)]


def document(person: dict[str, str], draw: random.Random) -> str:
    """Return the note about a person, its sentences in any order."""
    sentences = [SENTENCES[key].format(name=person["name"], value=person[key]) for key in SENTENCES]
    draw.shuffle(sentences)
    return " ".join(sentences)


def questions(notes: list[dict[str, str]], count: int, draw: random.Random) -> list[Question]:
    """Return questions about different people."""
    chosen = draw.sample(notes, count)
    keys = [draw.choice(list(QUESTIONS)) for _ in chosen]
    return [Question(QUESTIONS[key].format(name=p["name"]), p[key]) for key, p in zip(keys, chosen, strict=True)]


def store_of(folder: Path, engine: HFEngine, texts: list[str], embed: MemosEmbedding, *, kv: bool) -> MemosVectorStore:
    """Return a store in a vault of its own that holds the documents, with KV of each if asked for."""
    store = MemosVectorStore(MemOS.open(folder, engine=engine).scope(user="bench"))
    nodes = [TextNode(id_=f"n{number}", text=text) for number, text in enumerate(texts)]
    steps = [embed, MemosKVPrecompute(store)] if kv else [embed]
    IngestionPipeline(transformations=steps, vector_store=store).run(nodes=nodes)
    return store


def model_of(layers: int, **options: Any) -> HFEngine:
    """Return the bundled reader, or a wider model with random weights."""
    if not layers:
        return HFEngine.from_pretrained("memos-reader", **options)
    sizes = {"hidden_size": 256, "intermediate_size": 768, "num_attention_heads": 4, "num_key_value_heads": 2}
    model, tokenizer = tiny_model("qwen3", num_hidden_layers=layers, max_position_embeddings=8192, **sizes)
    return HFEngine.from_model(model, tokenizer, name=f"random, {layers} layers, 256 wide", **options)


def ways(folder: Path, texts: list[str], options: argparse.Namespace) -> dict[str, Way]:
    """Return the ways that are compared."""
    embed = MemosEmbedding()
    exact = model_of(options.layers)
    composing = model_of(options.layers, compose=ComposePolicy("auto"))
    plain = store_of(folder / "plain", exact, texts, embed, kv=False)
    ready = store_of(folder / "ready", exact, texts, embed, kv=True)
    composed = store_of(folder / "composed", composing, texts, embed, kv=True)

    def engine(store: MemosVectorStore, inject: Any) -> RetrieverQueryEngine:
        index = VectorStoreIndex.from_vector_store(store, embed_model=embed)
        llm = MemosLLM(memory=store.scope, max_tokens=options.tokens)
        return MemosQueryEngine.from_args(index.as_retriever(similarity_top_k=options.k), llm=llm, inject=inject)

    return {
        "text": Way(engine(plain, "text")),
        "kv, first time": Way(engine(plain, "kv")),
        "kv, precomputed, first time": Way(engine(ready, "kv")),
        "kv, composed, precomputed, first time": Way(engine(composed, "kv")),
        "kv, asked before": Way(engine(plain, "kv"), warm=True),
    }


def measured(way: Way, question: Question) -> dict[str, Any]:
    """Return what one answer took."""
    if way.warm:
        way.engine.query(question.text)
    response = way.engine.query(question.text)
    told = response.metadata["memos"]
    return {
        "answer": str(response),
        "right": question.answer.casefold() in str(response).casefold(),
        **{key: told[key] for key in ("prompt_tokens", "memory_tokens", "ttft_seconds")},
    }


def summary(rows: list[dict[str, Any]], text: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of one way, beside those of ``text``."""
    ratios = [base["ttft_seconds"] / row["ttft_seconds"] for row, base in zip(rows, text, strict=True)]
    return {
        "ttft_ms": round(1000 * statistics.median(row["ttft_seconds"] for row in rows), 1),
        "faster_than_text": round(statistics.median(ratios), 2),
        "prompt_tokens": statistics.mean(row["prompt_tokens"] for row in rows),
        "from_stored_kv": round(statistics.mean(row["memory_tokens"] for row in rows), 1),
        "same_answer_as_text": sum(r["answer"] == b["answer"] for r, b in zip(rows, text, strict=True)) / len(rows),
        "right": sum(row["right"] for row in rows) / len(rows),
    }


def main() -> None:
    """Run all questions on all ways and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--k", type=int, default=4, help="nodes retrieved for a question")
    parser.add_argument("--tokens", type=int, default=8, help="most tokens of an answer")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--layers", type=int, default=0, help="of a random model; 0: the bundled reader")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    notes = people(options.documents, draw)
    texts = [document(person, draw) for person in notes]
    asked = questions(notes, options.questions, draw)
    with tempfile.TemporaryDirectory() as folder:
        compared = ways(Path(folder), texts, options)
        rows: dict[str, list[dict[str, Any]]] = {name: [] for name in compared}
        compared["text"].engine.query(asked[0].text)  # loads the model
        for question in asked:
            for name, way in compared.items():
                rows[name].append(measured(way, question))
    workload = {key: value for key, value in vars(options).items() if key != "out"}
    result = {**surroundings(workload), "ways": {name: summary(own, rows["text"]) for name, own in rows.items()}}
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result["ways"], indent=2))


if __name__ == "__main__":
    main()
