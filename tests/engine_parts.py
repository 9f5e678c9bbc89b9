"""Parts that the tests of the engine share: requests, memory blocks and engines over tiny random models."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from memos_core.clock import SystemClock
from memos_core.cube import Descriptive, Governance, Header, MemCube, MemoryType, PlaintextPayload
from memos_core.engine import EngineRequest, GenerationOptions, HFEngine
from memos_core.ids import UlidFactory
from memos_core.records import Inject, InjectionPlan, Message, Placement, PlannedMemory
from memos_core.render import MemoryBlock, render_block
from memos_core.testing.models import DictActivations, tiny_model
from memos_core.tools import ToolChoice

IDS = UlidFactory()
NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
FACTS = ("My cat is called Biscuit.", "Let's meet on Friday in the library.", "She lives in the old town.")
QUESTION = "What is my cat called?"


def cube(text: str) -> MemCube:
    descriptive = Descriptive(
        id=IDS.new(SystemClock().now()), type=MemoryType.PLAINTEXT, kind="turn", created=NOW, updated=NOW
    )
    header = Header(descriptive=descriptive, governance=Governance(owner="ada", namespace="ada"))
    return MemCube(header=header, payload=PlaintextPayload(text=text))


def cubes(*texts: str) -> list[MemCube]:
    return [cube(text) for text in texts or FACTS]


def ask(
    inject: Inject,
    memories: list[MemCube],
    *,
    store: DictActivations | None = None,
    messages: list[Message] | None = None,
    preferred: Placement = Placement.TEXT,
    block: MemoryBlock | None = None,
    strict: bool = False,
    tools: Sequence[dict[str, Any]] = (),
    tool_choice: ToolChoice | None = None,
    **options: Any,
) -> EngineRequest:
    planned = tuple(PlannedMemory(cube=each, tokens=10, preferred=preferred, reason="chosen") for each in memories)
    return EngineRequest(
        messages=messages or [Message(role="user", content=QUESTION)],
        plan=InjectionPlan(inject=inject, memories=planned),
        block=render_block(memories) if block is None else block,
        options=GenerationOptions(**{"max_tokens": 16, **options}),
        activations=store,
        strict=strict,
        tools=tools,
        tool_choice=tool_choice or ToolChoice(),
    )


def engine(family: str = "llama", **overrides: Any) -> HFEngine:
    return HFEngine.from_model(*tiny_model(family, **overrides), name=family)
