"""MemosMemory under LlamaIndex's agents: one, several with private memory, and saved from process to process."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.base.llms.types import ChatMessage, ToolCallBlock
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.workflow import Context
from llamaindex_parts import assistant

from memos_core import HFEngine, MemOS, Scope
from memos_core.render import is_recalled
from memos_core.testing import HashEmbedder
from memos_llamaindex import MemosLLM, MemosMemory, MemosToolSpec

CAT = "My cat is called Biscuit."
QUESTION = "What is my cat called?"


@pytest.fixture
def memos(tmp_path: Path) -> Iterator[MemOS]:
    with MemOS.open(tmp_path / "memory", embedder=HashEmbedder()) as memos:
        yield memos


@pytest.fixture
def ada(memos: MemOS) -> Scope:
    return memos.scope(user="ada")


class Model(MockFunctionCallingLLM):
    """A model that says what the test wants, and keeps what it was shown."""

    shown: list[list[ChatMessage]] = []  # noqa: RUF012 - a pydantic field, copied for each instance

    def __init__(self, *replies: ChatMessage | str) -> None:
        left = [assistant(reply) if isinstance(reply, str) else reply for reply in replies]

        def reply(messages: Sequence[ChatMessage], **kwargs: Any) -> ChatMessage:
            self.shown.append([message.model_copy(deep=True) for message in messages])
            return left.pop(0) if len(left) > 1 else left[0]

        super().__init__(response_generator=reply, is_chat_model=True)

    @property
    def last(self) -> str:
        return "\n".join(f"{message.role.value}: {message.content}" for message in self.shown[-1])

    @property
    def recalled(self) -> str:
        return "\n".join(m.content or "" for m in self.shown[-1] if is_recalled(m.content or ""))


def call(tool: str, **arguments: str) -> ChatMessage:
    return ChatMessage(
        role="assistant", blocks=[ToolCallBlock(tool_call_id="1", tool_name=tool, tool_kwargs=arguments)]
    )


def remembering(scope: Scope, session: str, **options: Any) -> MemosMemory:
    return MemosMemory.from_defaults(memory=scope, session_id=session, **options)


@pytest.mark.parametrize("streaming", [True, False])
async def test_an_agent_recalls_what_it_was_told_in_another_session(ada: Scope, streaming: bool) -> None:
    llm = Model("Noted.")
    agent = FunctionAgent(llm=llm, system_prompt="You are kind.", streaming=streaming)
    await agent.run(CAT, memory=remembering(ada, "monday"))
    await agent.run(QUESTION, memory=remembering(ada, "tuesday"))
    assert CAT in llm.recalled
    assert [message.role.value for message in llm.shown[-1]] == ["system", "system", "user"]
    assert {cube.text for cube in ada.list()} == {CAT, "Noted.", QUESTION}


async def test_an_agent_works_through_tools_and_its_history_stays_whole(ada: Scope) -> None:
    llm = Model(call("save_memory", text="Ada's cat is grey."), "It is saved.")
    agent = FunctionAgent(llm=llm, tools=MemosToolSpec(ada).to_tool_list())
    memory = remembering(ada, "monday")
    context = Context(agent)
    await agent.run("My cat is grey.", memory=memory, ctx=context)
    assert [message.role.value for message in await memory.aget_all()] == ["user", "assistant", "tool", "assistant"]
    assert "Ada's cat is grey." in [cube.text for cube in ada.list()]
    assert await context.store.get("memory") is memory


@pytest.mark.parametrize("prompt", [None, "You are kind."])
@pytest.mark.parametrize("within", [False, True])
async def test_a_reasoning_agent_recalls_too(ada: Scope, prompt: str | None, within: bool) -> None:
    # Without a system prompt ReActAgent takes the first system message for its own and drops it (0.14.25).
    ada.add(CAT)
    llm = Model("Thought: I can answer without using any more tools.\nAnswer: Biscuit.")
    agent = ReActAgent(llm=llm, tools=MemosToolSpec(ada).to_tool_list(), system_prompt=prompt)
    runner = AgentWorkflow(agents=[agent], root_agent=agent.name) if within else agent
    answer = await runner.run(QUESTION, memory=remembering(ada, "monday"))
    assert str(answer) == "Biscuit."
    assert CAT in llm.recalled


async def test_agents_share_a_conversation_and_keep_notes_of_their_own(ada: Scope) -> None:
    ada.add_many(["The office is in Lisbon.", "The weather is fine."])
    ada.scope(agent="scout").add("The office key hangs in the hall.")
    ada.scope(agent="clerk").add("The office rent is due in May.")
    scout_llm = Model(call("handoff", to_agent="clerk", reason="books"))
    clerk_llm = Model("The office is in Lisbon.")
    scout = FunctionAgent(name="scout", description="Looks.", llm=scout_llm, can_handoff_to=["clerk"])
    clerk = FunctionAgent(name="clerk", description="Writes.", llm=clerk_llm)
    memory = remembering(ada, "monday", per_agent=True)
    workflow = AgentWorkflow(agents=[scout, clerk], root_agent="scout")
    await workflow.run("Tell me of the office.", memory=memory)
    assert "Lisbon" in scout_llm.recalled
    assert "Lisbon" in clerk_llm.recalled
    assert ("key hangs" in scout_llm.recalled, "rent" in scout_llm.recalled) == (True, False)
    assert ("key hangs" in clerk_llm.recalled, "rent" in clerk_llm.recalled) == (False, True)
    said = {cube.text: cube for cube in ada.scope(session="monday").list()}
    assert said["Tell me of the office."].speaker == "ada"
    assert said["Tell me of the office."].header.governance.agent is None


async def test_fifty_users_at_one_agent_never_meet(memos: MemOS) -> None:
    def reply(messages: Sequence[ChatMessage], **kwargs: Any) -> ChatMessage:
        return assistant("\n".join(message.content or "" for message in messages))

    agent = FunctionAgent(llm=MockFunctionCallingLLM(response_generator=reply, is_chat_model=True), streaming=False)

    async def converse(number: int) -> str:
        scope = memos.scope(user=f"user{number}")
        scope.add(f"My secret number is {number}-{number}.")
        return str(await agent.run("What is my secret number?", memory=remembering(scope, "s")))

    for number, answer in enumerate(await asyncio.gather(*map(converse, range(50)))):
        assert f"{number}-{number}." in answer
        assert answer.count("My secret number is") == 1


async def test_a_local_model_reads_recalled_memory_as_stored_kv(tmp_path: Path) -> None:
    engine = HFEngine.from_pretrained("memos-reader")
    with MemOS.open(tmp_path / "memory", engine=engine, embedder=HashEmbedder()) as memos:
        ada = memos.scope(user="ada")
        ada.add(CAT)
        llm = MemosLLM(memory=ada, inject="kv", max_tokens=8)
        memory = MemosMemory.from_defaults(memory=ada, session_id="monday")
        assert memory.token_limit == int(engine.capabilities.context_window * 0.75)
        reports = []
        for _ in range(2):
            response = await llm.achat(await memory.aget(input=QUESTION) + [ChatMessage(role="user", content=QUESTION)])
            reports.append(response.additional_kwargs["memos"])
        assert reports[0]["cube_ids"] == reports[1]["cube_ids"] == [cube.id for cube in ada.list()]
        assert 0 < reports[1]["memory_tokens"] < reports[1]["prompt_tokens"]
        assert "Biscuit" in (response.message.content or "")
        # Where nothing is recalled, the model does not search again and find the question itself.
        other = MemosMemory.from_defaults(memory=memos.scope(user="ben"), session_id="x")
        await other.aput(ChatMessage(role="user", content=QUESTION))
        ben = MemosLLM(memory=memos.scope(user="ben"), inject="kv", max_tokens=4)
        assert (await ben.achat(await other.aget())).additional_kwargs["memos"]["cube_ids"] == []


SAVE = """
import asyncio, json, sys
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.workflow import Context, JsonSerializer
from memos_core import MemOS
from memos_core.testing import HashEmbedder
from memos_llamaindex import MemosMemory

async def main():
    agent = FunctionAgent(llm=MockFunctionCallingLLM(is_chat_model=True), streaming=False)
    memos = MemOS.open(sys.argv[1], embedder=HashEmbedder())
    ada = memos.scope(user="ada")
    ada.add("My cat is called Biscuit.")
    context = Context(agent)
    memory = MemosMemory.from_defaults(memory=ada, session_id="monday", token_limit=5000)
    await agent.run("I live in Lisbon.", memory=memory, ctx=context)
    print(json.dumps(context.to_dict(serializer=JsonSerializer())))
    memos.close()

asyncio.run(main())
"""

LOAD = """
import asyncio, json, sys
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.workflow import Context, JsonSerializer
from memos_core import MemOS
from memos_core.testing import HashEmbedder

memos = MemOS.open(sys.argv[1], embedder=HashEmbedder())

async def main():
    agent = FunctionAgent(llm=MockFunctionCallingLLM(is_chat_model=True), streaming=False)
    context = Context.from_dict(agent, json.load(sys.stdin), serializer=JsonSerializer())
    await agent.run("What is my cat called?", ctx=context)
    memory = await context.store.get("memory")
    shown = await memory.aget()
    print(json.dumps([type(memory).__name__, memory.token_limit, [message.content for message in shown]]))

asyncio.run(main())
"""


def run(code: str, *arguments: str, given: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_context_saved_as_json_goes_on_in_a_new_process(tmp_path: Path) -> None:
    folder = str(tmp_path / "memory")
    saved = run(SAVE, folder)
    assert "memos_llamaindex.memory.MemosMemory" in saved
    kind, limit, shown = json.loads(run(LOAD, folder, given=saved))
    assert (kind, limit) == ("MemosMemory", 5000)
    assert "My cat is called Biscuit." in shown[0]
    assert "I live in Lisbon." in shown
    assert "What is my cat called?" in shown
