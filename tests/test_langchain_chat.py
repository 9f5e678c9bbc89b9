"""ChatMemos over real memory and a tiny random model."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from adapter_parts import assert_loop_stays_free
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from pydantic import ValidationError

from memos_core import MemOS, Message, Scope
from memos_core.engine import HFEngine
from memos_core.errors import (
    CubeNotFound,
    InjectionUnavailable,
    InvalidInput,
    InvalidName,
    ModelNotFound,
    UnsupportedOption,
)
from memos_core.testing import FakeClock, HashEmbedder
from memos_core.testing.models import tiny_model
from memos_langchain import ChatMemos
from memos_langchain.messages import as_core_messages

QUESTION = "What is my cat called?"
ADA = {"configurable": {"user_id": "ada"}}
BEN = {"configurable": {"user_id": "ben"}}


@pytest.fixture(scope="module")
def engine() -> Iterator[HFEngine]:
    engine = HFEngine.from_model(*tiny_model(), name="tiny")
    yield engine
    engine.close()


@pytest.fixture
def memos(tmp_path: Path, engine: HFEngine, clock: FakeClock) -> Iterator[MemOS]:
    with MemOS.open(tmp_path / "memory", engine=engine, embedder=HashEmbedder(), clock=clock) as memos:
        yield memos


@pytest.fixture
def ada(memos: MemOS) -> Scope:
    ada = memos.scope(user="ada")
    ada.add_many(["My cat is called Biscuit.", "My cat is called Crumb."])
    return ada


@pytest.fixture
def llm(memos: MemOS, ada: Scope) -> ChatMemos:
    return ChatMemos(memory=memos, max_tokens=12)


def told(message: AIMessage) -> dict[str, Any]:
    """Return what a message says of memory."""
    report: dict[str, Any] = message.response_metadata["memos"]
    return report


def summed(chunks: Any) -> AIMessageChunk:
    first, *rest = chunks
    return sum(rest, first)


# Without memory


def test_it_runs_without_memory(engine: HFEngine) -> None:
    message = ChatMemos(engine=engine, max_tokens=5).invoke("Hello")
    assert message.usage_metadata is not None
    assert message.usage_metadata["output_tokens"] == 5
    assert message.response_metadata["finish_reason"] == "length"
    assert message.response_metadata["model_name"] == "tiny"
    assert message.response_metadata["model_provider"] == "memos"
    assert told(message)["cube_ids"] == []
    assert told(message)["notes"] == ["no memory is attached"]


@pytest.mark.parametrize("options", [{"memory_ids": ["01ARZ3NDEKTSV4RRFFQ69G5FAV"]}, {"remember": True}])
def test_what_needs_memory_is_refused_without_it(engine: HFEngine, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="none is attached"):
        ChatMemos(engine=engine).invoke("Hello", **options)
    with pytest.raises(InjectionUnavailable):
        ChatMemos(engine=engine).invoke("Hello", inject="kv", strict=True)


def test_a_model_that_is_not_there_is_told_at_first_use(tmp_path: Path) -> None:
    llm = ChatMemos(model=str(tmp_path / "nowhere"))
    with pytest.raises(ModelNotFound):
        llm.invoke("Hello")


def test_a_vault_without_an_engine_is_asked_through_the_given_one(tmp_path: Path, engine: HFEngine) -> None:
    with MemOS.open(tmp_path / "memory", embedder=HashEmbedder()) as memos:
        ada = memos.scope(user="ada")
        cube_id = ada.add("My cat is called Biscuit.").cube_id
        llm = ChatMemos(memory=ada, engine=engine, max_tokens=2, inject="kv")
        assert told(llm.invoke(QUESTION))["cube_ids"] == [cube_id]
        assert told(llm.invoke(QUESTION))["memory_tokens"] > 0
        assert cube_id is not None
        ada.forget(cube_id)
        assert told(llm.invoke(QUESTION))["cube_ids"] == []


# Memory


def test_text_and_kv_give_the_same_answer(llm: ChatMemos) -> None:
    answers = [llm.invoke(QUESTION, ADA, inject=inject) for inject in ("text", "kv", "kv")]
    assert len({answer.content for answer in answers}) == 1
    reads = [answer.usage_metadata["input_token_details"]["cache_read"] for answer in answers if answer.usage_metadata]
    assert reads[:2] == [0, 0]
    assert reads[2] > 0
    assert told(answers[2])["placed"].keys() == set(told(answers[2])["cube_ids"])


def test_without_injection_no_memory_takes_part(llm: ChatMemos) -> None:
    assert told(llm.invoke(QUESTION, ADA, inject="off"))["cube_ids"] == []
    assert len(told(llm.invoke(QUESTION, ADA))["cube_ids"]) == 2


def test_users_of_one_model_never_see_each_others_memory(llm: ChatMemos, memos: MemOS, ada: Scope) -> None:
    ben = memos.scope(user="ben")
    ben.add("My cat is called Biscuit.")
    answers = llm.batch([QUESTION] * 6, [ADA, BEN] * 3)
    for answer, scope in zip(answers, [ada, ben] * 3, strict=True):
        ids = told(answer)["cube_ids"]
        assert ids
        assert set(ids) <= {cube.id for cube in scope.list()}


def test_the_namespace_is_filled_from_the_configuration_the_metadata_or_the_call(llm: ChatMemos) -> None:
    for config, extra in (
        (ADA, {}),
        ({"metadata": {"user_id": "ada"}}, {}),
        (None, {"namespace_values": {"user_id": "ada"}}),
        (BEN, {"namespace_values": {"user_id": "ada"}}),
    ):
        assert len(told(llm.invoke(QUESTION, config, **extra))["cube_ids"]) == 2  # type: ignore[arg-type]
    assert told(llm.invoke(QUESTION, BEN))["cube_ids"] == []


def test_a_missing_value_of_the_namespace_raises(llm: ChatMemos) -> None:
    with pytest.raises(InvalidName, match="user_id"):
        llm.invoke(QUESTION)
    with pytest.raises(InvalidName, match="user_id"):
        list(llm.stream(QUESTION))


def test_the_configuration_of_an_enclosing_chain_counts(llm: ChatMemos) -> None:
    prompt = ChatPromptTemplate.from_messages([("human", "{question}")])
    assert len(told((prompt | llm).invoke({"question": QUESTION}, ADA))["cube_ids"]) == 2
    inner = RunnableLambda(lambda question: llm.invoke(question))  # noqa: PLW0108 - not handed its config
    assert len(told(inner.invoke(QUESTION, ADA))["cube_ids"]) == 2


def test_a_bound_scope_needs_no_configuration(ada: Scope) -> None:
    assert len(told(ChatMemos(memory=ada, max_tokens=2).invoke(QUESTION))["cube_ids"]) == 2


def test_a_copy_with_another_memory_uses_that_one(memos: MemOS, ada: Scope) -> None:
    llm = ChatMemos(memory=ada, max_tokens=2)
    llm.invoke(QUESTION)
    other = llm.model_copy(update={"memory": memos.scope(user="ben")})
    assert told(other.invoke(QUESTION))["cube_ids"] == []
    assert len(told(llm.invoke(QUESTION))["cube_ids"]) == 2


def test_named_memories_are_used_exactly(llm: ChatMemos, ada: Scope) -> None:
    first = next(iter(ada.list())).id
    assert told(llm.invoke("Hello", ADA, memory_ids=[first]))["cube_ids"] == [first]
    with pytest.raises(CubeNotFound):
        llm.invoke("Hello", BEN, memory_ids=[first])


def test_a_message_that_stands_for_a_memory_is_replaced_by_it(llm: ChatMemos, ada: Scope) -> None:
    first = next(iter(ada.list()))
    mark = SystemMessage(first.text, additional_kwargs={"memos": {"cube_ids": [first.id]}})
    marked = llm.invoke([mark, HumanMessage(QUESTION)], ADA)
    named = llm.invoke(QUESTION, ADA, memory_ids=[first.id])
    assert told(marked)["cube_ids"] == [first.id]
    assert marked.usage_metadata == named.usage_metadata


def test_a_chat_stores_nothing_unless_it_is_told_to(llm: ChatMemos, ada: Scope) -> None:
    llm.invoke(QUESTION, ADA)
    assert ada.count() == 2
    llm.invoke("I moved to Lisbon.", ADA, remember=True)
    assert "I moved to Lisbon." in [cube.text for cube in ada.list()]


def test_a_budget_of_nothing_leaves_memory_out(llm: ChatMemos) -> None:
    assert told(llm.invoke(QUESTION, ADA, memory_budget=0))["cube_ids"] == []


# Streaming and asyncio


def test_streamed_pieces_make_the_whole(llm: ChatMemos) -> None:
    chunks = list(llm.stream(QUESTION, ADA))
    assert len(chunks) > 3
    assert "".join(chunk.text for chunk in chunks) == llm.invoke(QUESTION, ADA).content
    assert [bool(chunk.usage_metadata) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].chunk_position == "last"
    whole = summed(chunks)
    assert told(whole)["cube_ids"] == told(llm.invoke(QUESTION, ADA))["cube_ids"]
    assert whole.response_metadata["finish_reason"] == "length"


async def test_async_calls_give_what_sync_calls_give(llm: ChatMemos) -> None:
    expected = llm.invoke(QUESTION, ADA)
    assert (await llm.ainvoke(QUESTION, ADA)).content == expected.content
    whole = summed([chunk async for chunk in llm.astream(QUESTION, ADA)])
    assert whole.content == expected.content
    assert whole.usage_metadata is not None
    assert expected.usage_metadata is not None
    assert whole.usage_metadata["input_tokens"] == expected.usage_metadata["input_tokens"]


async def test_async_users_never_see_each_others_memory(llm: ChatMemos) -> None:
    answers = await llm.abatch([QUESTION] * 4, [ADA, BEN] * 2)
    assert [len(told(answer)["cube_ids"]) for answer in answers] == [2, 0, 2, 0]


async def test_the_event_loop_stays_free(llm: ChatMemos) -> None:
    await assert_loop_stays_free(lambda: llm.ainvoke(QUESTION, ADA, max_tokens=600))


async def test_events_of_a_stream_see_the_configuration(llm: ChatMemos) -> None:
    ends = [event async for event in llm.astream_events(QUESTION, ADA) if event["event"] == "on_chat_model_end"]
    assert len(told(ends[0]["data"]["output"])["cube_ids"]) == 2


class Tokens(BaseCallbackHandler):
    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        self.seen.append(token)


def test_a_callback_is_told_of_each_piece_once(llm: ChatMemos) -> None:
    tokens = Tokens()
    text = "".join(chunk.text for chunk in llm.stream(QUESTION, {**ADA, "callbacks": [tokens]}))  # type: ignore[typeddict-item]
    assert "".join(tokens.seen) == text
    streaming = llm.model_copy(update={"streaming": True})
    again = Tokens()
    assert streaming.invoke(QUESTION, {**ADA, "callbacks": [again]}).content == "".join(again.seen)  # type: ignore[typeddict-item]


def test_leaving_a_stream_early_leaves_the_engine_usable(llm: ChatMemos) -> None:
    stream = llm.stream(QUESTION, ADA, max_tokens=200)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert llm.invoke(QUESTION, ADA).content


# Options


def test_a_stop_string_ends_the_answer_and_is_not_part_of_it(llm: ChatMemos) -> None:
    whole = str(llm.invoke(QUESTION, ADA, max_tokens=40).content)
    stop = whole[10:12]
    for answer in (
        llm.invoke(QUESTION, ADA, stop=[stop], max_tokens=40),
        summed(llm.stream(QUESTION, ADA, stop=[stop], max_tokens=40)),
        llm.model_copy(update={"stop": [stop]}).invoke(QUESTION, ADA, max_tokens=40),
    ):
        assert answer.content == whole[: whole.index(stop)]
        assert answer.response_metadata["finish_reason"] == "stop"


def test_a_seed_makes_sampling_repeatable(llm: ChatMemos) -> None:
    hot = llm.bind(temperature=1.5)
    same = {str(hot.invoke(QUESTION, ADA, seed=7).content) for _ in range(2)}
    assert len(same) == 1
    assert same != {str(hot.invoke(QUESTION, ADA, seed=8).content)}


async def test_a_slow_answer_runs_into_the_timeout(llm: ChatMemos) -> None:
    hurried = llm.model_copy(update={"timeout": 1e-6})
    with pytest.raises(TimeoutError):
        hurried.invoke(QUESTION, ADA)
    with pytest.raises(TimeoutError):
        await hurried.ainvoke(QUESTION, ADA)
    assert llm.invoke(QUESTION, ADA).content


def test_unknown_arguments_and_fields_are_refused(llm: ChatMemos) -> None:
    with pytest.raises(UnsupportedOption, match="top_k"):
        llm.invoke(QUESTION, ADA, top_k=3)
    with pytest.raises(ValidationError):
        ChatMemos(max_token=3)  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        ChatMemos(memory="memory/")  # type: ignore[arg-type]


def test_tokens_are_counted_by_the_models_own_tokenizer(llm: ChatMemos, engine: HFEngine) -> None:
    assert llm.get_token_ids("My cat is called Biscuit.") == engine.encode("My cat is called Biscuit.")
    assert llm.get_num_tokens("My cat") == engine.count_tokens("My cat")
    assert llm.get_num_tokens_from_messages([HumanMessage("My cat")]) > 0


def test_tracing_learns_provider_and_model(llm: ChatMemos) -> None:
    params = llm._get_ls_params(stop=["x"])
    assert (params["ls_provider"], params["ls_model_name"], params["ls_stop"]) == ("memos", "tiny", ["x"])
    assert params.get("ls_max_tokens") == 12


# LangChain's cache of answers


def test_a_cached_answer_is_not_served_once_memory_has_changed(memos: MemOS, ada: Scope) -> None:
    cache = InMemoryCache()
    llm = ChatMemos(memory=memos, max_tokens=4, inject="text", cache=cache)
    first = llm.invoke(QUESTION, ADA)
    assert llm.invoke(QUESTION, ADA).response_metadata == first.response_metadata
    added = ada.add("My cat is called Pixel.").cube_id
    assert added in told(llm.invoke(QUESTION, ADA))["cube_ids"]
    assert added is not None
    ada.forget(added)
    assert added not in told(llm.invoke(QUESTION, ADA))["cube_ids"]


async def test_a_cached_answer_belongs_to_one_user(memos: MemOS, ada: Scope) -> None:
    llm = ChatMemos(memory=memos, max_tokens=4, cache=InMemoryCache())
    llm.invoke(QUESTION, ADA)
    assert told(llm.invoke(QUESTION, BEN))["cube_ids"] == []
    assert told(await llm.ainvoke(QUESTION, BEN))["cube_ids"] == []
    scoped = [ChatMemos(memory=scope, max_tokens=4, cache=llm.cache) for scope in (ada, memos.scope(user="ben"))]
    assert [len(told(model.invoke(QUESTION))["cube_ids"]) for model in scoped] == [2, 0]


def test_a_cached_answer_dies_with_an_expired_memory(memos: MemOS, clock: FakeClock) -> None:
    cleo = memos.scope(user="cleo")
    cleo.add("The cat is called Biscuit.", ttl_seconds=60)
    cleo.add("The cat is called Crumb.", valid_until=datetime(2026, 1, 2, tzinfo=UTC))
    llm = ChatMemos(memory=cleo, max_tokens=4, inject="text", cache=InMemoryCache())
    counts = [len(told(llm.invoke(QUESTION))["cube_ids"])]
    clock.advance(120)
    counts.append(len(told(llm.invoke(QUESTION))["cube_ids"]))
    clock.advance(2 * 86400)
    counts.append(len(told(llm.invoke(QUESTION))["cube_ids"]))
    assert counts == [2, 1, 0]


# Messages


def test_messages_are_translated_to_openais_words() -> None:
    call = {"name": "find", "args": {"q": "cat"}, "id": "1", "type": "tool_call"}
    translated = as_core_messages(
        [
            SystemMessage("Be brief."),
            HumanMessage([{"type": "text", "text": "one"}, "two"], name="ada"),
            AIMessage([{"type": "tool_use", "id": "1", "name": "find", "input": {}}], tool_calls=[call]),
            ToolMessage("Biscuit", tool_call_id="1"),
            ChatMessage(role="developer", content="x"),
        ]
    )
    function = {"name": "find", "arguments": '{"q": "cat"}'}
    assert translated == [
        Message(role="system", content="Be brief."),
        Message(role="user", content="one\ntwo", name="ada"),
        Message(role="assistant", content="", tool_calls=[{"id": "1", "type": "function", "function": function}]),
        Message(role="tool", content="Biscuit", tool_call_id="1"),
        Message(role="developer", content="x"),
    ]


@pytest.mark.parametrize(
    "message",
    [
        HumanMessage([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]),
        HumanMessage([{"type": "tool_use", "id": "1", "name": "find", "input": {}}]),
        FunctionMessage("x", name="find"),
    ],
)
def test_what_is_not_text_is_refused(llm: ChatMemos, message: Any) -> None:
    with pytest.raises(UnsupportedOption):
        llm.invoke([message], ADA)


# Imports


def test_importing_the_package_loads_no_model_library() -> None:
    code = "import sys, memos_langchain; print([n for n in ('torch', 'langchain_core') if n in sys.modules])"
    assert run(code) == "[]"


def test_making_a_model_loads_no_weights_library() -> None:
    code = "import sys; from memos_langchain import ChatMemos; ChatMemos(model='x'); print('torch' in sys.modules)"
    assert run(code) == "False"


def test_a_missing_langchain_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['langchain_core'] = None\n"
        "import memos_langchain\n"
        "from memos_core.errors import MissingExtra\n"
        "for name in memos_langchain.__all__:\n"
        "    try: getattr(memos_langchain, name)\n"
        "    except MissingExtra as error: print(error.extra, end=' ')\n"
    )
    assert set(run(code).split()) == {"langchain"}


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
