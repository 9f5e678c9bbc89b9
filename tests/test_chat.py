"""Memory in a model, end to end: kept in a real vault, found, and injected into a real (tiny, random) model."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from memos_core import MemCube, MemOS, Scope
from memos_core.engine import HFEngine
from memos_core.errors import (
    CubeNotFound,
    InjectionUnavailable,
    InvalidInput,
)
from memos_core.events import Event
from memos_core.testing import FakeClock, HashEmbedder
from memos_core.testing.models import tiny_model

QUESTION = "What is my cat called?"


@pytest.fixture
def engine() -> Iterator[HFEngine]:
    """A fresh one for each test: what loading and computing cost so far decides what ``auto`` does."""
    model, tokenizer = tiny_model("llama")
    engine = HFEngine.from_model(model, tokenizer, name="tiny")
    yield engine
    engine.close()


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(datetime(2026, 3, 1, tzinfo=UTC))


@pytest.fixture
def memos(tmp_path: Path, engine: HFEngine, events: list[Event], clock: FakeClock) -> Iterator[MemOS]:
    with MemOS.open(
        tmp_path / "memory", engine=engine, embedder=HashEmbedder(), clock=clock, on_event=events.append
    ) as memos:
        yield memos


@pytest.fixture
def ada(memos: MemOS) -> Scope:
    ada = memos.scope(user="ada")
    ada.add_many(["My cat is called Biscuit.", "My cat likes to sleep.", "The cat is called by Ben on Friday."])
    return ada


def activations(scope: Scope) -> list[MemCube]:
    return list(scope.list(type="activation"))


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gpt_neox"])
def test_text_and_kv_give_the_same_answer(tmp_path: Path, family: str) -> None:
    model, tokenizer = tiny_model(family)
    engine = HFEngine.from_model(model, tokenizer, name=family)
    with MemOS.open(tmp_path / family, engine=engine, embedder=HashEmbedder()) as memos:
        ada = memos.scope(user="ada")
        ada.add_many(["My cat is called Biscuit.", "My cat likes to sleep."])
        text = ada.chat(QUESTION, inject="text", max_tokens=24)
        first = ada.chat(QUESTION, inject="kv", max_tokens=24)
        second = ada.chat(QUESTION, inject="kv", max_tokens=24)
    engine.close()
    assert text.text == first.text == second.text
    assert text.usage.prompt_tokens == first.usage.prompt_tokens == second.usage.prompt_tokens
    assert text.usage.memory_tokens == first.usage.memory_tokens == 0
    assert 0 < second.usage.memory_tokens < second.usage.prompt_tokens


def test_memory_off_asks_the_bare_model(ada: Scope) -> None:
    off, text = ada.chat(QUESTION, inject="off", max_tokens=4), ada.chat(QUESTION, inject="text", max_tokens=4)
    assert off.plan.memories == ()
    assert off.usage.prompt_tokens < text.usage.prompt_tokens
    assert {memory.placed for memory in text.plan.memories} == {"text"}


def test_the_choice_and_its_order_do_not_depend_on_inject(ada: Scope) -> None:
    plans = [ada.chat(QUESTION, inject=inject, max_tokens=2).plan for inject in ("text", "kv", "lora", "auto")]
    assert len({plan.cube_ids for plan in plans}) == 1


def test_a_built_prefix_becomes_a_cube_with_lineage(ada: Scope, events: list[Event]) -> None:
    reply = ada.chat(QUESTION, inject="kv", max_tokens=2)
    cube = activations(ada)[0]
    assert cube.type == "activation"
    assert tuple(source for source, _ in cube.header.descriptive.lineage.sources) == reply.plan.cube_ids
    assert cube.header.descriptive.lineage.pathway == "plaintext->activation"
    assert ada.count() == 3
    assert "kv.built" in [event.name for event in events]
    served = ada.chat(QUESTION, inject="kv", max_tokens=2)
    assert served.plan.prefix_cube_id == cube.id
    assert len(activations(ada)) == 1
    assert ada.get(cube.id).header.behaviour.tokens_saved == served.usage.memory_tokens
    assert {memory.placed for memory in served.plan.memories} == {"kv"}


def test_kv_survives_a_restart(tmp_path: Path) -> None:
    model, tokenizer = tiny_model("llama")
    replies = []
    for _ in range(2):
        engine = HFEngine.from_model(model, tokenizer, name="tiny")
        with MemOS.open(tmp_path / "m", engine=engine, embedder=HashEmbedder()) as memos:
            ada = memos.scope(user="ada")
            ada.add("My cat is called Biscuit.")
            replies.append(ada.chat(QUESTION, inject="kv", max_tokens=8))
        engine.close()
    assert replies[0].usage.memory_tokens == 0
    assert replies[1].usage.memory_tokens > 0
    assert replies[0].text == replies[1].text


def test_transform_serves_any_chat_that_begins_with_the_memory(ada: Scope) -> None:
    ids = [cube.id for cube in ada.list()]
    derived = ada.transform(ids, to="activation")
    assert derived.payload.type == "activation"
    assert ada.transform(ids, to="activation").id == derived.id
    system = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who is Ben?"}]
    reply = ada.chat(system, memory_ids=list(reversed(ids)), inject="kv", max_tokens=4)
    assert reply.plan.prefix_cube_id == derived.id
    with pytest.raises(InvalidInput, match="activation"):
        ada.transform(derived.id, to="activation")


def test_a_shared_beginning_is_reused(ada: Scope) -> None:
    ids = [cube.id for cube in ada.list()]
    ada.transform(ids[:2], to="activation")
    reply = ada.chat(QUESTION, memory_ids=ids, inject="auto", max_tokens=4)
    assert [memory.placed for memory in reply.plan.memories] == ["kv", "kv", "text"]


def test_what_has_expired_is_not_recalled_even_by_its_name(ada: Scope, clock: FakeClock) -> None:
    brief = ada.add("The code of the door is 1234.", ttl_seconds=60).cube_id
    lasting = [cube.id for cube in ada.list() if cube.id != brief]
    ada.archive(lasting[0])  # archived ones may still be named
    ids = [brief, *lasting]
    assert brief in ada.chat(QUESTION, memory_ids=ids, inject="kv", max_tokens=2).plan.cube_ids
    clock.advance(61)
    for inject in ("text", "kv", "auto"):
        plan = ada.chat(QUESTION, memory_ids=ids, inject=inject, max_tokens=2).plan
        assert set(plan.cube_ids) == set(lasting)
        assert "expired" in plan.left_out[brief]
    assert ada.chat(QUESTION, memory_ids=[brief], inject="kv", strict=True, max_tokens=2).plan.cube_ids == ()


def test_auto_keeps_kv_only_for_what_comes_back(ada: Scope) -> None:
    counts = []
    for _ in range(4):
        ada.chat(QUESTION, max_tokens=2)
        counts.append(len(activations(ada)))
    assert counts == [0, 0, 1, 1]
    assert ada.chat(QUESTION, max_tokens=2).usage.memory_tokens > 0


def test_an_edited_or_forgotten_memory_takes_its_kv_along(ada: Scope, tmp_path: Path) -> None:
    ids = [cube.id for cube in ada.list()]
    ada.transform(ids, to="activation")
    ada.update(ids[0], "My cat is called Gravy.")
    after_edit = ada.chat(QUESTION, memory_ids=ids, inject="kv", max_tokens=8)
    assert after_edit.plan.prefix_cube_id is None
    assert after_edit.text == ada.chat(QUESTION, memory_ids=ids, inject="text", max_tokens=8).text
    blobs = set((tmp_path / "memory" / "blobs").rglob("*"))
    erasure = ada.forget(ids[0])
    assert len(erasure.derived_ids) == 2
    assert erasure.blobs == 2
    assert activations(ada) == []
    assert not [file for file in blobs if file.is_file()]
    with pytest.raises(CubeNotFound):
        ada.chat(QUESTION, memory_ids=ids, inject="kv")


def test_kv_is_never_shared_between_users_or_with_a_narrower_scope(memos: MemOS, ada: Scope) -> None:
    ada.chat(QUESTION, inject="kv", max_tokens=2)
    bob = memos.scope(user="bob")
    bob.add_many([cube.text for cube in ada.list()])
    assert bob.chat(QUESTION, inject="kv", max_tokens=2).usage.memory_tokens == 0
    session = ada.scope(session="S1")
    session.add("My cat is called Session.")
    ids = [cube.id for cube in ada.list()]
    whole = ada.transform(ids, to="activation")
    assert ada.chat(QUESTION, memory_ids=ids[:3], inject="auto", max_tokens=2).usage.memory_tokens > 0
    other = ada.scope(session="S2")
    reply = other.chat(QUESTION, memory_ids=ids[:3], inject="auto", max_tokens=2)
    assert reply.plan.prefix_cube_id != whole.id
    assert whole.id not in {cube.id for cube in other.list(type="activation")}
    assert whole.id in {cube.id for cube in ada.list(type="activation")}
    with pytest.raises(CubeNotFound):
        other.get(whole.id)


def test_a_damaged_blob_is_refused_and_built_anew(ada: Scope, tmp_path: Path, events: list[Event]) -> None:
    model, tokenizer = tiny_model("llama")
    text = ada.chat(QUESTION, inject="kv", max_tokens=8).text
    for file in (tmp_path / "memory" / "blobs").rglob("*"):
        if file.is_file():
            content = bytearray(file.read_bytes())
            content[-5] ^= 1
            file.write_bytes(content)
    fresh = HFEngine.from_model(model, tokenizer, name="tiny")  # nothing in memory yet
    with MemOS.open(tmp_path / "memory", engine=fresh, embedder=HashEmbedder(), on_event=events.append) as again:
        scope = again.scope(user="ada")
        reply = scope.chat(QUESTION, inject="kv", max_tokens=8)
        assert (reply.text, reply.usage.memory_tokens) == (text, 0)
        assert "kv.refused" in [event.name for event in events]
        assert scope.chat(QUESTION, inject="kv", max_tokens=8).usage.memory_tokens > 0
    fresh.close()


def test_lora_goes_as_text_and_says_why(ada: Scope) -> None:
    reply = ada.chat(QUESTION, inject="lora", max_tokens=2)
    assert {memory.placed for memory in reply.plan.memories} == {"text"}
    assert "adapter" in reply.plan.explain()
    with pytest.raises(InjectionUnavailable):
        ada.chat(QUESTION, inject="lora", strict=True)


def test_nothing_is_stored_unless_asked(ada: Scope) -> None:
    ada.chat(QUESTION, max_tokens=4)
    assert ada.count() == 3
    ada.chat("My dog is called Gravy.", max_tokens=4, remember=True)
    kinds = [cube.header.descriptive.kind for cube in ada.list()]
    assert len(kinds) in (4, 5)
    assert ada.search("dog", k=1)[0].cube.speaker == "ada"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"inject": "magic"}, InvalidInput),
        ({"max_tokens": 0}, InvalidInput),
        ({"temperature": -1.0}, InvalidInput),
        ({"memory_budget": -1}, InvalidInput),
        ({"stop": ""}, InvalidInput),
        ({"response_format": {"type": "xml"}}, InvalidInput),
        ({"tools": [{"name": "look"}]}, InvalidInput),
        ({"tool_choice": "look"}, InvalidInput),
        ({"adapter": "x"}, CubeNotFound),
        ({"memory_ids": ["nonsense"]}, CubeNotFound),
    ],
)
def test_bad_options_raise_before_anything_runs(ada: Scope, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        ada.chat(QUESTION, **options)


@pytest.mark.parametrize("prompt", ["", "  ", [], [{"content": "x"}], ["x"], [{"role": "user", "content": 7}]])
def test_a_prompt_that_is_none_raises(ada: Scope, prompt: Any) -> None:
    with pytest.raises(InvalidInput):
        ada.chat(prompt)


def test_streaming_gives_the_same_reply_in_pieces(ada: Scope) -> None:
    whole = ada.chat(QUESTION, inject="kv", max_tokens=16)
    chunks = list(ada.stream(QUESTION, inject="kv", max_tokens=16))
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert [chunk.reply is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


async def test_async_chat_and_stream(ada: Scope) -> None:
    expected = (await asyncio.to_thread(ada.chat, QUESTION, inject="text", max_tokens=16)).text
    replies = await asyncio.gather(
        *(ada.achat(QUESTION, inject=inject, max_tokens=16) for inject in ("text", "kv", "auto"))
    )
    assert {reply.text for reply in replies} == {expected}
    pieces = [chunk.text async for chunk in ada.astream(QUESTION, inject="kv", max_tokens=16)]
    assert "".join(pieces) == expected


def test_the_memory_budget_is_kept(ada: Scope) -> None:
    small = ada.chat(QUESTION, inject="text", memory_budget=45, max_tokens=2)
    assert 0 < len(small.plan.memories) < 3
    assert small.plan.left_out
    assert ada.chat(QUESTION, inject="text", memory_budget=0, max_tokens=2).plan.memories == ()


def test_a_context_counts_with_the_engines_tokenizer(ada: Scope, engine: HFEngine) -> None:
    context = ada.context(QUESTION, max_tokens=60)
    assert context.tokens == engine.count_tokens(context.text) <= 60
