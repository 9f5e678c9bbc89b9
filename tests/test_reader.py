"""The bundled readers: what ships, that they really read, and that memory as text and as KV is the same to them."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

pytest.importorskip("torch")

from memos_core import MemOS, Scope
from memos_core.engine import HFEngine
from memos_core.engine.location import BUNDLED
from memos_core.testing import HashEmbedder

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {"direct, 4 facts": 0.90, "direct, 12 facts": 0.75}
every_reader = pytest.mark.parametrize("folder", BUNDLED.values(), ids=BUNDLED)


@pytest.fixture(scope="module", params=BUNDLED)
def engine(request: pytest.FixtureRequest) -> Iterator[HFEngine]:
    engine = HFEngine.from_pretrained(request.param, device="cpu")
    yield engine
    engine.close()


@pytest.fixture
def ada(engine: HFEngine, tmp_path: Path) -> Iterator[Scope]:
    memos = MemOS.open(tmp_path / "memory", engine=engine, embedder=HashEmbedder())
    yield memos.scope(user="ada")
    memos.close()


@every_reader
def test_it_is_small_and_has_the_shape_that_every_attention_kernel_takes(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert sum(path.stat().st_size for path in folder.iterdir()) < 16_000_000
    assert config["hidden_size"] // config["num_attention_heads"] >= 32
    assert config["max_position_embeddings"] >= 4096


@every_reader
def test_every_segment_of_its_template_begins_and_ends_with_a_special_token(folder: Path) -> None:
    tokenizer = importlib.import_module("transformers").AutoTokenizer.from_pretrained(folder)
    messages = [{"role": role, "content": "a b"} for role in ("system", "user", "assistant")]
    ids = tokenizer.apply_chat_template(messages, tokenize=True)["input_ids"]
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert [token for token in tokens if token.startswith("<|")] == [
        "<|system|>", "<|end|>", "<|user|>", "<|end|>", "<|assistant|>", "<|end|>",
    ]  # fmt: skip
    assert tokens[-1] == "<|end|>"
    alone = [tokenizer.apply_chat_template([one], tokenize=True)["input_ids"] for one in messages]
    assert ids == [token for part in alone for token in part]


@pytest.mark.parametrize(
    ("said", "asked", "answer"),
    [
        ("My cat is called Biscuit.", "What is my cat called?", "Biscuit"),
        ("I live in Bergen.", "Where do I live?", "Bergen"),
        ("My sister is called Mabel.", "Who is my sister?", "Mabel"),
        ("My favourite colour is green.", "What is my favourite colour?", "green"),
    ],
)
def test_it_answers_from_memory_and_from_nothing_else(ada: Scope, said: str, asked: str, answer: str) -> None:
    ada.add(said)
    text, kv = (ada.chat(asked, inject=mode, max_tokens=16) for mode in ("text", "kv"))  # type: ignore[arg-type]
    assert text.text == kv.text == answer
    assert ada.chat(asked, inject="off", max_tokens=16).text == "I do not know"


def test_text_and_kv_give_the_same_answer_to_every_question_of_the_demo(engine: HFEngine, tmp_path: Path) -> None:
    data = ROOT / "memos_core" / "data"
    turns = [json.loads(line) for line in (data / "conversation.jsonl").read_text().splitlines()]
    questions = [json.loads(line)["question"] for line in (data / "questions.jsonl").read_text().splitlines()]
    memos = MemOS.open(tmp_path / "memory", engine=engine, embedder=HashEmbedder())
    demo = memos.scope(user="demo")
    demo.add_many(turns)
    for question in questions:
        text = demo.chat(question, inject="text", max_tokens=16)
        demo.chat(question, inject="kv", max_tokens=16)  # builds what is missing
        kv = demo.chat(question, inject="kv", max_tokens=16)
        assert text.text == kv.text
        assert text.usage.prompt_tokens == kv.usage.prompt_tokens
        assert kv.usage.memory_tokens > 0.8 * kv.usage.prompt_tokens
        assert text.usage.memory_tokens == 0
    memos.close()


@pytest.fixture(scope="module")
def tools() -> Iterator[Any]:
    """The module that measures the reader."""
    sys.path.insert(0, str(ROOT / "tools"))
    yield importlib.import_module("reader.evaluate")
    sys.path.remove(str(ROOT / "tools"))


@every_reader
@pytest.mark.parametrize("case", FLOORS)
def test_it_reads_names_that_it_never_saw_as_well_as_its_card_says(tools: Any, case: str, folder: Path) -> None:
    claimed = json.loads((folder / "evaluation.json").read_text())["cases"][case]["exact"]
    assert claimed >= FLOORS[case]
    model, encoder = tools.load(folder)
    kind, mix = tools.CASES[case]
    drawn = tools.contexts(Random(f"2026-{case}"), tools.ContextMaker(tools.Inventory(True)), kind, mix, 200)
    marks = [mark for context in drawn for mark in tools.right_answers(model, encoder, context)]
    assert abs(sum(marks) / len(marks) - claimed) < 0.06  # three standard errors of 200 questions at 0.9


@every_reader
def test_its_card_shows_the_measured_figures(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    cases = json.loads((folder / "evaluation.json").read_text())["cases"]
    for name, row in cases.items():
        assert f"| {name} | {row['questions']} | {row['exact']:.3f} |" in card


def test_it_is_what_the_adapters_use_when_no_model_is_named() -> None:
    langchain = pytest.importorskip("memos_langchain")
    assert langchain.ChatMemos(max_tokens=8).invoke("What is my cat called?").content == "I do not know"
