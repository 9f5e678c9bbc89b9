"""MemosLLM over real memory and a tiny random model."""

import asyncio
import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from adapter_parts import assert_loop_stays_free
from llama_index.core.base.llms.types import CacheControl, CachePoint, ImageBlock, TextBlock, ToolCallBlock
from llama_index.core.callbacks import CallbackManager, CBEventType, TokenCountingHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from pydantic import ValidationError

from memos_core import MemOS, Message, Scope
from memos_core.engine import HFEngine
from memos_core.errors import CubeNotFound, InvalidInput, InvalidName, UnsupportedOption
from memos_core.testing import HashEmbedder
from memos_core.testing.models import tiny_model
from memos_llamaindex import MemosLLM
from memos_llamaindex.messages import as_core_messages

QUESTION = "What is my cat called?"
CHAT = [ChatMessage(role="user", content=QUESTION)]


@pytest.fixture(scope="module")
def engine() -> Iterator[HFEngine]:
    engine = HFEngine.from_model(*tiny_model(), name="tiny")
    yield engine
    engine.close()


@pytest.fixture
def memos(tmp_path: Path, engine: HFEngine) -> Iterator[MemOS]:
    with MemOS.open(tmp_path / "memory", engine=engine, embedder=HashEmbedder()) as memos:
        yield memos


@pytest.fixture
def ada(memos: MemOS) -> Scope:
    ada = memos.scope(user="ada")
    ada.add_many(["My cat is called Biscuit.", "My cat is called Crumb."])
    return ada


@pytest.fixture
def llm(ada: Scope) -> MemosLLM:
    return MemosLLM(memory=ada, max_tokens=12)


def told(response: Any) -> dict[str, Any]:
    """Return what a response says of memory."""
    report: dict[str, Any] = response.additional_kwargs["memos"]
    return report


async def every_way(llm: MemosLLM, **options: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return text and report of all eight ways to ask ``QUESTION``."""
    chats = [llm.chat(CHAT, **options), await llm.achat(CHAT, **options), *list(llm.stream_chat(CHAT, **options))[-1:]]
    chats += [response async for response in await llm.astream_chat(CHAT, **options)][-1:]
    asked = [llm.complete(QUESTION, **options), await llm.acomplete(QUESTION, **options)]
    asked += list(llm.stream_complete(QUESTION, **options))[-1:]
    asked += [response async for response in await llm.astream_complete(QUESTION, **options)][-1:]
    answers = [(str(response.message.content), told(response)) for response in chats]
    return answers + [(response.text, told(response)) for response in asked]


@pytest.mark.parametrize("inject", ["off", "text", "kv", "auto"])
async def test_all_ways_to_ask_give_one_answer(llm: MemosLLM, inject: str) -> None:
    answers = await every_way(llm, inject=inject)
    assert len(answers) == 8
    assert len({text for text, _ in answers}) == 1
    assert {len(report["cube_ids"]) for _, report in answers} == {0 if inject == "off" else 2}
    assert len({report["prompt_tokens"] for _, report in answers}) == 1


async def test_text_and_kv_give_the_same_answer_and_kv_is_served(llm: MemosLLM) -> None:
    as_text = llm.chat(CHAT, inject="text")
    llm.chat(CHAT, inject="kv")
    as_kv = await llm.achat(CHAT, inject="kv")
    assert as_kv.message.content == as_text.message.content
    assert told(as_text)["memory_tokens"] == 0
    assert 0 < told(as_kv)["memory_tokens"] < told(as_kv)["prompt_tokens"]
    assert told(as_kv)["ttft_seconds"] > 0


def test_it_runs_without_memory(engine: HFEngine) -> None:
    llm = MemosLLM(engine=engine, max_tokens=5)
    response = llm.complete("Hello")
    assert response.raw["usage"]["completion_tokens"] == 5
    assert told(response)["notes"] == ["no memory is attached"]
    with pytest.raises(InvalidInput, match="none is attached"):
        llm.complete("Hello", remember=True)


async def test_streams_hold_all_text_so_far_and_the_new_piece(llm: MemosLLM) -> None:
    responses = list(llm.stream_chat(CHAT))
    asynchronous = [response async for response in await llm.astream_chat(CHAT)]
    for stream in (responses, asynchronous):
        so_far = ""
        for response in stream:
            so_far += response.delta or ""
            assert (response.message.content or "") == so_far
        assert so_far == llm.chat(CHAT).message.content
    completed = list(llm.stream_complete(QUESTION))
    assert "".join(response.delta or "" for response in completed) == completed[-1].text


async def test_the_event_loop_stays_free(llm: MemosLLM) -> None:
    await assert_loop_stays_free(lambda: llm.achat(CHAT, max_tokens=600))


async def test_users_asked_at_once_never_see_each_others_memory(memos: MemOS, ada: Scope) -> None:
    memos.scope(user="ben").add("My cat is called Biscuit.")
    llm = MemosLLM(memory=memos, max_tokens=4)
    asked = [llm.achat(CHAT, namespace_values={"user_id": user}) for user in ("ada", "ben", "ada", "ben")]
    for response, user in zip(await asyncio.gather(*asked), ("ada", "ben") * 2, strict=True):
        ids = told(response)["cube_ids"]
        assert ids
        assert set(ids) <= {cube.id for cube in memos.scope(user=user).list()}
    with pytest.raises(InvalidName, match="user_id"):
        llm.complete(QUESTION)
    bound = MemosLLM(memory=memos, namespace_values={"user_id": "ada"}, max_tokens=4)
    assert len(told(bound.complete(QUESTION))["cube_ids"]) == 2


@pytest.mark.parametrize("inject", ["text", "kv"])
def test_a_message_that_stands_for_a_memory_is_replaced_by_it(llm: MemosLLM, ada: Scope, inject: str) -> None:
    cube = next(iter(ada.list()))
    mark = {"memos": {"cube_ids": [cube.id]}}
    recalled = ChatMessage(
        role="system",
        blocks=[TextBlock(text=cube.text), CachePoint(cache_control=CacheControl(type="ephemeral"))],
        additional_kwargs=mark,
    )
    marked = llm.chat([recalled, *CHAT], inject=inject)
    named = llm.chat(CHAT, memory_ids=[cube.id], inject=inject)
    assert told(marked)["cube_ids"] == [cube.id]
    assert marked.message.content == named.message.content
    assert told(marked)["prompt_tokens"] == told(named)["prompt_tokens"]


def test_a_marked_message_is_plain_text_where_no_memory_is(engine: HFEngine, llm: MemosLLM, ada: Scope) -> None:
    cube = next(iter(ada.list()))
    plain = ChatMessage(role="system", content=cube.text)
    recalled = ChatMessage(role="system", content=cube.text, additional_kwargs={"memos": {"cube_ids": [cube.id]}})
    bare = MemosLLM(engine=engine, max_tokens=3)
    assert told(bare.chat([recalled, *CHAT]))["prompt_tokens"] == told(bare.chat([plain, *CHAT]))["prompt_tokens"]
    off = llm.chat([recalled, *CHAT], inject="off")
    assert told(off)["prompt_tokens"] == told(bare.chat([plain, *CHAT]))["prompt_tokens"]


def test_a_mark_of_a_memory_that_is_gone_raises(llm: MemosLLM, ada: Scope) -> None:
    cube = next(iter(ada.list()))
    ada.forget(cube.id)
    recalled = ChatMessage(role="system", content="x", additional_kwargs={"memos": {"cube_ids": [cube.id]}})
    with pytest.raises(CubeNotFound):
        llm.chat([recalled, *CHAT])


def test_a_chat_stores_nothing_unless_it_is_told_to(llm: MemosLLM, ada: Scope) -> None:
    llm.complete(QUESTION)
    assert ada.count() == 2
    llm.complete("I moved to Lisbon.", remember=True)
    assert "I moved to Lisbon." in [cube.text for cube in ada.list()]


def test_metadata_describe_the_model(llm: MemosLLM) -> None:
    metadata = llm.metadata
    assert (metadata.context_window, metadata.num_output, metadata.model_name) == (2048, 12, "tiny")
    assert metadata.is_chat_model
    assert metadata.is_function_calling_model
    assert not MemosLLM(is_function_calling_model=False).metadata.is_function_calling_model


def test_a_stop_string_and_a_seed_are_honoured(llm: MemosLLM) -> None:
    whole = llm.complete(QUESTION, max_tokens=40).text
    stop = whole[10:12]
    assert llm.complete(QUESTION, stop=[stop], max_tokens=40).text == whole[: whole.index(stop)]
    drawn = {llm.complete(QUESTION, temperature=1.5, seed=7).text for _ in range(2)}
    assert len(drawn) == 1


def test_unknown_arguments_and_fields_are_refused(llm: MemosLLM) -> None:
    with pytest.raises(UnsupportedOption, match="top_k"):
        llm.complete(QUESTION, top_k=3)
    with pytest.raises(ValidationError):
        MemosLLM(memory="memory/")  # type: ignore[arg-type]


def test_prompts_of_llamaindex_reach_it(llm: MemosLLM) -> None:
    assert llm.predict(PromptTemplate("{question}"), question=QUESTION) == llm.chat(CHAT).message.content


def test_its_settings_are_json_and_a_copy_shares_memory(llm: MemosLLM) -> None:
    assert json.loads(json.dumps(llm.to_dict()))["max_tokens"] == 12
    assert "memory" not in llm.to_dict()
    twin = copy.deepcopy(llm)
    twin.memory = None
    twin.engine = HFEngine.from_model(*tiny_model(), name="other")
    assert told(twin.complete("Hello"))["cube_ids"] == []
    assert len(told(llm.complete(QUESTION))["cube_ids"]) == 2
    twin.engine.close()


class Recorder(BaseEventHandler):
    """Keeps what LlamaIndex's instrumentation tells."""

    events: list[Any] = []  # noqa: RUF012 - a pydantic field, copied for each instance

    def handle(self, event: Any, **kwargs: Any) -> None:
        self.events.append(event)


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    root = get_dispatcher()
    root.add_event_handler(recorder)
    yield recorder
    root.event_handlers.remove(recorder)


async def test_both_ways_of_observation_are_told_of_a_chat(ada: Scope, recorder: Recorder) -> None:
    counter = TokenCountingHandler(tokenizer=str.split)
    llm = MemosLLM(memory=ada, max_tokens=3, callback_manager=CallbackManager([counter]))
    llm.chat(CHAT)
    assert [response async for response in await llm.astream_chat(CHAT)]
    assert len(counter.llm_token_counts) == 2
    assert counter.llm_token_counts[0].completion_token_count == 3
    names = [event.class_name() for event in recorder.events]
    assert names.count("LLMChatStartEvent") == names.count("LLMChatEndEvent") == 2
    assert all(json.loads(event.model_dump_json()) for event in recorder.events)
    assert CBEventType.LLM not in counter.event_starts_to_ignore


def test_messages_are_translated_to_openais_words() -> None:
    call = ToolCallBlock(tool_call_id="1", tool_name="find", tool_kwargs={"q": "cat"})
    translated = as_core_messages(
        [
            ChatMessage(role="developer", content="Be brief."),
            ChatMessage(role="user", blocks=[TextBlock(text="one"), TextBlock(text="two")]),
            ChatMessage(role="assistant", blocks=[call]),
            ChatMessage(role="tool", content="Biscuit", additional_kwargs={"tool_call_id": "1", "other": 3}),
            ChatMessage(role="model", content="Ah."),
        ]
    )
    function = {"name": "find", "arguments": '{"q": "cat"}'}
    assert translated == [
        Message(role="system", content="Be brief."),
        Message(role="user", content="one\ntwo"),
        Message(role="assistant", content="", tool_calls=[{"id": "1", "type": "function", "function": function}]),
        Message(role="tool", content="Biscuit", tool_call_id="1"),
        Message(role="assistant", content="Ah."),
    ]


def test_what_is_not_text_is_refused(llm: MemosLLM) -> None:
    with pytest.raises(UnsupportedOption, match="image"):
        llm.chat([ChatMessage(role="user", blocks=[ImageBlock(image=b"AA")])])


def test_importing_the_package_loads_no_model_library() -> None:
    code = "import sys, memos_llamaindex; print([n for n in ('torch', 'llama_index') if n in sys.modules])"
    assert run(code) == "[]"


def test_a_missing_llamaindex_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['llama_index'] = None\n"
        "import memos_llamaindex\n"
        "from memos_core.errors import MissingExtra\n"
        "for name in memos_llamaindex.__all__:\n"
        "    try: getattr(memos_llamaindex, name)\n"
        "    except MissingExtra as error: print(error.extra, end=' ')\n"
    )
    assert set(run(code).split()) == {"llamaindex"}


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
