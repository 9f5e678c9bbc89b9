"""The way through: a prompt becomes a request with memory in it, and a reply leaves its traces."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, TypedDict, Unpack, get_args

from memos_core.cube import MemCube, State
from memos_core.engine.base import ActivationStore, Engine, EngineRequest, GenerationOptions
from memos_core.engine.grammar import answer_grammar
from memos_core.errors import EngineMissing, InvalidInput
from memos_core.events import Event
from memos_core.infrastructure.governance import MemGovernance
from memos_core.infrastructure.vault import UsageDelta
from memos_core.interface.arguments import memory_call
from memos_core.interface.exchange import chat_turns
from memos_core.interface.reader import Reader, as_messages
from memos_core.operation.forms.adapters import MemAdapters
from memos_core.operation.lifecycle import MemLifecycle
from memos_core.operation.operator import MemOperator, found
from memos_core.operation.scheduler import MemScheduler
from memos_core.principal import Principal
from memos_core.records import Inject, InjectionPlan, MemoryCall, Message, Placement, Reply
from memos_core.references import Reference
from memos_core.render import excerpt, render_block
from memos_core.tools import as_tool_choice, as_tools

__all__ = ["ChatCall", "ChatOptions", "ChatPipeline", "default_budget"]

MAX_DEFAULT_BUDGET = 2048

EXPIRED = "its time is over, and what has expired is never recalled"


class ChatOptions(TypedDict, total=False):
    """Keyword arguments of ``Scope.chat`` and ``Scope.stream``.

    Attributes:
        max_tokens: Most tokens of the reply. Default 256.
        memory_budget: Most prompt tokens that memory may take. Default: a quarter of the context window, at most 2048.
        temperature: 0 (default) takes the most likely token always.
        seed: Makes sampling repeatable.
        stop: String or strings that end the reply; not part of it.
        tools: What the model may call, in OpenAI's form: ``{"type": "function", "function": {"name", "description",
            "parameters"}}``. The calls are in ``reply.tool_calls``, and MemOS runs none of them.
        tool_choice: ``auto`` (default), ``none``, ``required`` or ``any``, or the name of the one tool that must be
            called; OpenAI's ``{"type": "function", "function": {"name": ...}}`` is understood too. A call that must be
            made is made by constrained decoding: its arguments keep to their schema.
        response_format: What the reply must look like, by constrained decoding: ``{"type": "json_object"}``, ``{"type":
            "json_schema", "json_schema": {"schema": {...}}}`` or ``{"type": "regex", "regex": "..."}``. It is not cut
            by ``max_tokens``: where these run out it is closed early, ``finish_reason`` is ``length`` and the plan says
            so. Objects hold the properties that the schema names and no others, unless it allows others
            explicitly. With tools that may be called, the reply is such JSON or a call.
        memory_ids: Use exactly these memories instead of searching. ``ID[120:480]`` names a passage of one. What has
            expired is left out, and the plan says so.
        adapter: Id of a parametric memory to apply. With ``inject="lora"`` the memories that it was made from leave
            the prompt.
        inject: ``off``, ``text``, ``kv``, ``lora`` or ``auto`` (default).
        remember: Store the last user message and the reply as memories. Default False: a chat stores nothing.
        strict: Raise InjectionUnavailable instead of falling back to text.
    """

    max_tokens: int
    memory_budget: int | None
    temperature: float
    seed: int | None
    stop: str | Sequence[str] | None
    tools: Sequence[Mapping[str, Any]] | None
    tool_choice: str | bool | Mapping[str, Any] | None
    response_format: Mapping[str, Any] | None
    memory_ids: Sequence[str] | None
    adapter: str | None
    inject: Inject
    remember: bool
    strict: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatCall:
    """Checked ``ChatOptions`` with their defaults.

    Raises:
        InvalidInput: A value is out of range, or tools or a response format are malformed.
    """

    max_tokens: int = 256
    memory_budget: int | None = None
    temperature: float = 0.0
    seed: int | None = None
    stop: str | Sequence[str] | None = None
    tools: Sequence[Mapping[str, Any]] | None = None
    tool_choice: str | bool | Mapping[str, Any] | None = None
    response_format: Mapping[str, Any] | None = None
    memory_ids: Sequence[str] | None = None
    adapter: str | None = None
    inject: Inject = "auto"
    remember: bool = False
    strict: bool = False

    def __post_init__(self) -> None:
        if self.inject not in get_args(Inject):
            raise InvalidInput(f"inject must be one of {', '.join(get_args(Inject))}, not {self.inject!r}")
        if self.max_tokens < 1:
            raise InvalidInput("max_tokens must be at least 1")
        if self.memory_budget is not None and self.memory_budget < 0:
            raise InvalidInput("memory_budget must not be negative")
        if not 0 <= self.temperature <= 10:
            raise InvalidInput("temperature must lie between 0 and 10")
        answer_grammar(self.response_format)
        as_tool_choice(self.tool_choice, as_tools(self.tools))

    def generation(self) -> GenerationOptions:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if any(not isinstance(item, str) or not item for item in stop):
            raise InvalidInput("a stop string must be a str that is not empty")
        return GenerationOptions(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            seed=self.seed,
            stop=stop,
            response_format=self.response_format,
        )

    def request(self, messages: Sequence[Message], plan: InjectionPlan, **memory: Any) -> EngineRequest:
        """Return the request to an engine. ``memory``: its block and the KV caches that may serve."""
        tools = as_tools(self.tools)
        return EngineRequest(
            messages=messages,
            plan=plan,
            options=self.generation(),
            strict=self.strict,
            tools=tools,
            tool_choice=as_tool_choice(self.tool_choice, tools),
            **memory,
        )


def ignore_reply(principal: Principal, reply: Reply) -> None:
    """Nobody looks at what came out."""


class ChatPipeline:
    """Prepares requests for the engine and books what came of them. Thread-safe."""

    def __init__(
        self,
        *,
        engine: Engine | None,
        governance: MemGovernance,
        reader: Reader,
        operator: MemOperator,
        scheduler: MemScheduler,
        lifecycle: MemLifecycle,
        activations: Callable[[Principal, Sequence[MemCube]], ActivationStore],
        adapters: MemAdapters,
        emit: Callable[[Event], None],
        observe: Callable[[Principal, Reply], None] = ignore_reply,
    ) -> None:
        self._engine = engine
        self.governance = governance
        self.reader = reader
        self.operator = operator
        self.scheduler = scheduler
        self.lifecycle = lifecycle
        self.activations = activations
        self.adapters = adapters
        self.emit = emit
        self.observe = observe

    def with_engine(self, engine: Engine) -> ChatPipeline:
        """Return the same pipeline to another engine."""
        other = copy.copy(self)
        other._engine = engine
        return other

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            raise EngineMissing(
                "this needs a model: MemOS.open(path, engine=HFEngine.from_pretrained('memos-reader')); "
                "with a hosted model use scope.context(...) and pass its messages on"
            )
        return self._engine

    def prepare(
        self, principal: Principal, prompt: str | Sequence[Message | Mapping[str, Any]], call: ChatCall
    ) -> EngineRequest:
        """Return the request: messages, the plan of what memory enters it, and the memory block as text."""
        engine = self.engine
        messages = as_messages(prompt)
        if call.inject != "off":
            messages, call = unmarked(messages, call)
        call.generation()  # raises where an option means nothing, before anything is searched
        plan = self.plan(principal, messages, call, engine)
        cubes = [memory.cube for memory in plan.memories]
        activations = self.activations(principal, cubes) if call.inject in ("kv", "auto") else None
        exactly = call.memory_ids is not None
        adapters = self.adapters.choices(principal, engine, plan, named=call.adapter, exactly=exactly)
        return call.request(
            messages,
            plan,
            block=render_block(cubes),
            activations=activations,
            adapters=adapters,
            blobs=self.activations(principal, cubes) if adapters else None,
        )

    def plan(self, principal: Principal, messages: Sequence[Message], call: ChatCall, engine: Engine) -> InjectionPlan:
        """Return which memories the request carries: those named, or the best that a search finds."""
        if call.inject == "off":
            return InjectionPlan(inject="off", notes=("memory is off",))
        if call.memory_ids is not None:
            cubes = self.named(principal, call.memory_ids)
            plan = self.scheduler.plan_exactly(unexpired(cubes), inject=call.inject, count_tokens=engine.count_tokens)
            return replace(plan, left_out={cube.id: EXPIRED for cube in cubes if cube.state is State.EXPIRED})
        budget = call.memory_budget
        if budget is None:
            budget = default_budget(engine.capabilities.context_window)
        asked = self.reader.parse(messages, now=self.governance.clock.now(), max_tokens=budget)
        hits = self.operator.search(principal, asked) if asked else []
        plan = self.scheduler.plan(
            hits,
            inject=call.inject,
            budget_tokens=budget,
            count_tokens=engine.count_tokens,
            pinned=self.operator.standing(principal, self.scheduler.working.pins(principal)),
            now=self.governance.clock.now(),
        )
        return replace(plan, asked=asked)

    def prefetch(
        self,
        principal: Principal,
        prompt: str | Sequence[Message | Mapping[str, Any]],
        **options: Unpack[ChatOptions],
    ) -> Future[int]:
        """Bring the KV that a chat with this prompt would use into memory, in the background, and answer nothing.

        For a prompt that is likely to come: one that is being typed, or the first of a session. It computes no KV,
        stores nothing, counts no use, and gives way to requests that are under way.

        Returns:
            How many tokens stored KV will serve; 0 where requests came first.
        """
        return self.engine.prefetch(self.prepare(principal, prompt, ChatCall(**options)))

    def read_ahead(self, principal: Principal, plan: InjectionPlan) -> None:
        """Let the engine bring KV of these memories into memory: the next turn will likely begin with them, in the same
        order. Costs the caller nothing but the asking; no model is loaded for it."""
        if self._engine is None or not self._engine.is_loaded or not plan.memories:
            return
        cubes = [memory.cube for memory in plan.memories]
        store = self.activations(principal, cubes)
        self._engine.read_ahead(EngineRequest((), plan, block=render_block(cubes), activations=store))

    def pin(self, principal: Principal, cube_id: str, *, pinned: bool = True) -> None:
        """Put a memory into every prompt of this scope before all others, or let it go. Lasts while the vault is open.

        An activation memory is kept in the engine's memory instead, however little it is used, until the engine closes.

        Raises:
            CubeNotFound: It is not visible here.
            InvalidInput: Too many are pinned already.
        """
        working, owner = self.scheduler.working, self.activations(principal, ()).owner
        if not pinned:
            working.unpin(principal, cube_id)
            if self._engine is not None:
                self._engine.pin(owner, cube_id, pinned=False)
            return
        with self.operator.vault.read() as session:
            cube = found(session.cube(self.governance.reach(principal), cube_id), cube_id)
        if cube.payload.type == "activation":
            self.engine.pin(owner, cube_id)
        else:
            working.pin(principal, cube_id)

    def call(self, query: str, **fields: Any) -> MemoryCall:
        """Return what a search for ``query`` asks, as the reader reads it; ``fields`` are the caller's conditions."""
        return memory_call(self.reader, self.governance.clock.now(), query=query, **fields)

    def named(self, principal: Principal, references: Sequence[str]) -> list[MemCube]:
        """Return the cubes that are named, which must all be visible and text; of a passage, the excerpt."""
        wanted = [Reference.parse(reference) for reference in dict.fromkeys(references)]
        with self.operator.vault.read() as session:
            ids = [item.cube_id for item in wanted]
            held = {cube.id: cube for cube in session.cubes(self.governance.reach(principal), ids)}
        cubes = [found(held.get(item.cube_id), item.cube_id) for item in wanted]
        for cube in cubes:
            if cube.payload.type != "plaintext":
                raise InvalidInput(f"memory {cube.id} is {cube.type}; name the plaintext memories it was made from")
        return [
            excerpt(cube, *item.passage) if item.passage else cube for item, cube in zip(wanted, cubes, strict=True)
        ]

    def live(self, principal: Principal, references: Sequence[str]) -> list[tuple[Reference, MemCube]]:
        """Return those of the named memories that a search could find now; of a passage, the excerpt."""
        wanted = [Reference.parse(reference) for reference in dict.fromkeys(references)]
        if not wanted:
            return []
        held = {cube.id: cube for cube in self.operator.standing(principal, [item.cube_id for item in wanted])}
        cubes = [(item, held[item.cube_id]) for item in wanted if item.cube_id in held]
        return [(item, excerpt(cube, *item.passage) if item.passage else cube) for item, cube in cubes]

    def finish(self, principal: Principal, messages: Sequence[Message], reply: Reply, *, remember: bool) -> None:
        """Count what was used and, if asked, remember the exchange."""
        now = self.governance.clock.now()
        for placement, delta in (
            (Placement.TEXT, UsageDelta(injected_text=1, last_used=now)),
            (Placement.KV, UsageDelta(injected_kv=1, last_used=now)),
            (Placement.LORA, UsageDelta(injected_lora=1, last_used=now)),
        ):
            placed = [m.cube for m in reply.plan.memories if m.placed == placement]
            self.lifecycle.count([cube.id for cube in placed if not cube.shared], delta)
        if reply.plan.prefix_cube_id:
            saved = UsageDelta(reads=1, injected_kv=1, tokens_saved=reply.usage.memory_tokens, last_used=now)
            self.lifecycle.count([reply.plan.prefix_cube_id], saved)
        if reply.plan.adapter_cube_ids:
            saved = UsageDelta(reads=1, injected_lora=1, tokens_saved=reply.usage.carried_tokens, last_used=now)
            self.lifecycle.count(reply.plan.adapter_cube_ids, saved)
        self.lifecycle.flush()  # the next plan goes by these counts
        detail = {"inject": reply.plan.inject, "memory_tokens": reply.usage.memory_tokens, "notes": reply.plan.notes}
        self.emit(Event("memory.injected", now, principal.namespace, reply.plan.cube_ids, detail))
        self.observe(principal, reply)
        if reply.plan.inject in ("kv", "auto"):
            self.read_ahead(principal, reply.plan)
        if remember:
            self.remember(principal, messages, reply)

    def remember(self, principal: Principal, messages: Sequence[Message], reply: Reply) -> None:
        """Store the last user message and the reply."""
        said = [message for message in messages if message.role == "user" and message.content.strip()][-1:]
        said.append(Message(role="assistant", content=reply.text))
        turns = chat_turns(said, user=principal.user, at=self.governance.clock.now())
        if turns:
            self.operator.add(principal, turns)


def unexpired(cubes: Sequence[MemCube]) -> list[MemCube]:
    return [cube for cube in cubes if cube.state is not State.EXPIRED]


def unmarked(messages: Sequence[Message], call: ChatCall) -> tuple[list[Message], ChatCall]:
    """Take out the messages that stand for memories, and name those memories in the call instead.

    Such a message carries ``memos={"cube_ids": [...]}`` beside the text of these memories, which is for models that
    MemOS does not run. Left in, it would stand in the prompt twice, and could not come from KV. A mark that names none
    says that memory was asked already and holds nothing on this: the message stays, and no search is made.
    """
    marks = [marked_ids(message) for message in messages]
    if all(mark is None for mark in marks):
        return list(messages), call
    named = [cube_id for mark in marks for cube_id in mark or ()]
    rest = [message for message, mark in zip(messages, marks, strict=True) if not mark]
    return rest, replace(call, memory_ids=[*named, *(call.memory_ids or ())])


def marked_ids(message: Message) -> list[str] | None:
    """Return the memories that ``message`` stands for; None for an ordinary one."""
    mark = (message.model_extra or {}).get("memos")
    ids = mark.get("cube_ids") if isinstance(mark, Mapping) else None
    return [str(cube_id) for cube_id in ids] if isinstance(ids, list | tuple) else None


def default_budget(context_window: int) -> int:
    """Return the memory budget in tokens where the caller names none."""
    return min(MAX_DEFAULT_BUDGET, context_window // 4)
