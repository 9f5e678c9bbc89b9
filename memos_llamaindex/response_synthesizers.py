"""MemosSynthesizer: retrieved nodes enter the model as memory, as stored KV where that can be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from memos_core import Binding, Engine, Inject, MemCube, MemOS, Resolution, Scope
from memos_core.errors import InvalidInput, MissingExtra, UnsupportedOption
from memos_llamaindex.llms import MemosLLM

try:
    from llama_index.core.base.llms.types import ChatMessage, ChatResponse
    from llama_index.core.base.response.schema import RESPONSE_TYPE
    from llama_index.core.llms import LLM
    from llama_index.core.prompts import BasePromptTemplate, PromptTemplate
    from llama_index.core.prompts.default_prompts import DEFAULT_TEXT_QA_PROMPT
    from llama_index.core.prompts.mixin import PromptDictType
    from llama_index.core.response_synthesizers import CompactAndRefine
    from llama_index.core.response_synthesizers.base import BaseSynthesizer, QueryTextType
    from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore
except ImportError as error:
    raise MissingExtra("llama-index-core", extra="llamaindex") from error

__all__ = ["MemosSynthesizer"]

MEMORY_QA = PromptTemplate("{query_str}")
"""What is asked where all nodes enter as memory: memory stands in front of it by itself."""

MARGIN = 64
"""Prompt tokens left for what a chat template puts around the messages."""


@dataclass
class Call:
    """One synthesis under way.

    Attributes:
        nodes: What was retrieved, best first.
        told: What goes to ``response.metadata["memos"]``; complete when the answer is.
    """

    nodes: Sequence[NodeWithScore]
    told: dict[str, Any] = field(default_factory=dict)


@dataclass
class Placed:
    """How the nodes of one call enter the prompt.

    Attributes:
        memories: Node id to the memory that it enters as.
        texts: What is shown as text in the user's message.
        reasons: Node id to why it does not enter as memory.
        left_out: Ids of nodes that do not enter at all.
        tokens: What the memories take in the prompt.
    """

    memories: dict[str, MemCube] = field(default_factory=dict)
    texts: Sequence[str] = ()
    reasons: dict[str, str] = field(default_factory=dict)
    left_out: set[str] = field(default_factory=set)
    tokens: int = 0

    def put(self, item: NodeWithScore, found: Resolution, key: str, shown: str) -> None:
        """Decide on one node: the memory of that key, if it says the same, else the text that is shown of it."""
        name, cube = item.node.node_id, found.memories.get(key)
        if cube is not None and cube.text == item.node.get_content(metadata_mode=MetadataMode.NONE):
            self.memories[name] = cube
            return
        self.reasons[name] = found.left_out.get(key, "its memory says something else by now")
        if key in found.over_budget:
            self.left_out.add(name)
        else:
            self.texts = [*self.texts, shown]


CALL: ContextVar[Call | None] = ContextVar("memos_llamaindex_call", default=None)
"""LlamaIndex hands a synthesizer's ``get_response`` texts alone; the nodes come along here."""


class MemosSynthesizer(BaseSynthesizer):
    """Answers from nodes that enter the prompt as memory: as stored KV where possible, else as the same text.

    Examples:
        `pip install 'memos-mag[llamaindex,local]'`

        ```python
        synthesizer = MemosSynthesizer(MemosLLM(memory=ada), inject="kv")
        engine = index.as_query_engine(response_synthesizer=synthesizer)
        engine.query("How do I reset it?").metadata["memos"]
        ```

    A node is a memory if it comes from ``MemosRetriever`` or from a ``MemosVectorStore`` of the same scope, and that
    memory is live and says what the node says. It stands at the head of the prompt, in the order in which memories were
    stored, so that the same nodes give the same prefix; KV of that prefix gives the answer that its text would give.
    The metadata of such a node is not shown to the model. Other nodes are shown as text in the user's message. What
    does not fit the model's window is left out, the worst first. A model that MemOS does not run gets everything as
    text, by LlamaIndex's own ``CompactAndRefine``.

    ``response.metadata["memos"]`` tells what happened: ``inject``, ``nodes`` (for each its memory, placement and
    reason), ``prompt_tokens``, those of them that came from stored KV (``memory_tokens``), ``ttft_seconds``, ``notes``.
    When streaming it is complete after the last token.

    Args:
        llm: The model; a ``MemosLLM`` for memory as KV.
        memory: Whose memories the nodes are; None: the model's.
        inject: ``kv``, ``text`` or ``auto``; None: as the model is set.
        memory_budget: Most prompt tokens for memory; None: what the window leaves.
        memory_qa_template: What is asked where all nodes are memories. Variable: ``query_str``.
        text_qa_template: What is asked where some are shown as text. Variables: ``context_str``, ``query_str``.
        streaming: Whether answers are streamed.
        output_cls: A pydantic class that answers are to fill.
        options: Further arguments of ``BaseSynthesizer``.
    """

    def __init__(
        self,
        llm: LLM | None = None,
        *,
        memory: Scope | MemOS | None = None,
        inject: Inject | None = None,
        memory_budget: int | None = None,
        memory_qa_template: BasePromptTemplate | None = None,
        text_qa_template: BasePromptTemplate | None = None,
        streaming: bool = False,
        output_cls: type[Any] | None = None,
        **options: Any,
    ) -> None:
        if options.get("multimodal"):
            raise UnsupportedOption("memory is text: multimodal=True is not possible here")
        if inject in ("off", "lora"):
            raise InvalidInput(f"retrieved nodes enter as 'kv', 'text' or 'auto', not as {inject!r}")
        super().__init__(llm=llm, streaming=streaming, output_cls=output_cls, **options)
        self._memory = memory
        self._inject = inject
        self._memory_budget = memory_budget
        self._memory_qa_template = memory_qa_template or MEMORY_QA
        self._text_qa_template = text_qa_template or DEFAULT_TEXT_QA_PROMPT

    def _get_prompts(self) -> PromptDictType:
        return {"memory_qa_template": self._memory_qa_template, "text_qa_template": self._text_qa_template}

    def _update_prompts(self, prompts: PromptDictType) -> None:
        self._memory_qa_template = prompts.get("memory_qa_template", self._memory_qa_template)
        self._text_qa_template = prompts.get("text_qa_template", self._text_qa_template)

    # The nodes come along

    def synthesize(
        self,
        query: QueryTextType,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,
    ) -> RESPONSE_TYPE:
        with under_way(nodes):
            return super().synthesize(query, nodes, additional_source_nodes, **response_kwargs)

    async def asynthesize(
        self,
        query: QueryTextType,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,
    ) -> RESPONSE_TYPE:
        with under_way(nodes):
            return await super().asynthesize(query, nodes, additional_source_nodes, **response_kwargs)

    def _get_metadata_for_response(self, nodes: list[BaseNode]) -> dict[str, Any] | None:
        call = CALL.get()
        metadata = super()._get_metadata_for_response(nodes) or {}
        return metadata if call is None else {**metadata, "memos": call.told}

    # Answering

    def get_response(self, query_str: str, text_chunks: Sequence[str], **response_kwargs: Any) -> Any:
        """Return the answer: a text, a generator of its pieces, or an object of ``output_cls``."""
        call = CALL.get() or Call(())
        if not isinstance(self._llm, MemosLLM):
            call.told.update(as_text_only(self._llm, call.nodes))
            return self._compact().get_response(query_str, text_chunks, **response_kwargs)
        placed, messages, options = self._prepared(query_str, text_chunks, call, response_kwargs)
        if self._streaming:
            return streamed(self._asking.stream_chat(messages, **options), placed, call)
        return self._answer(self._asking.chat(messages, **options), placed, call)

    async def aget_response(self, query_str: str, text_chunks: Sequence[str], **response_kwargs: Any) -> Any:
        call = CALL.get() or Call(())
        if not isinstance(self._llm, MemosLLM):
            call.told.update(as_text_only(self._llm, call.nodes))
            return await self._compact().aget_response(query_str, text_chunks, **response_kwargs)
        prepared = await asyncio.to_thread(self._prepared, query_str, text_chunks, call, response_kwargs)
        placed, messages, options = prepared
        if self._streaming:
            return astreamed(await self._asking.astream_chat(messages, **options), placed, call)
        return self._answer(await self._asking.achat(messages, **options), placed, call)

    @property
    def _asking(self) -> MemosLLM:
        """The model, with the memory that the nodes are of."""
        assert isinstance(self._llm, MemosLLM)
        if self._memory is None or self._memory is self._llm.memory:
            return self._llm
        return self._llm.model_copy(update={"memory": self._memory, "engine": bound(self._llm).engine()})

    def _compact(self) -> CompactAndRefine:
        return CompactAndRefine(
            llm=self._llm,
            callback_manager=self._callback_manager,
            prompt_helper=self._prompt_helper,
            text_qa_template=self._text_qa_template,
            output_cls=self._output_cls,
            streaming=self._streaming,
        )

    def _prepared(
        self, query_str: str, text_chunks: Sequence[str], call: Call, variables: Mapping[str, Any]
    ) -> tuple[Placed, list[ChatMessage], dict[str, Any]]:
        """Return how the nodes enter, the messages, and the options of the chat."""
        binding = bound(self._asking)
        engine = binding.engine()
        room = engine.capabilities.context_window - self._llm.metadata.num_output
        room -= engine.count_tokens(query_str) + MARGIN
        placed = self._placed(binding, text_chunks, call, room)
        values = {**variables, "query_str": query_str}
        if not placed.texts:
            messages = self._llm._get_messages(self._memory_qa_template, **values)
        else:
            count = engine.count_tokens(self._text_qa_template.format(context_str="", **values))
            context = fitting(placed.texts, room - placed.tokens - count, engine)
            messages = self._llm._get_messages(self._text_qa_template, context_str=context, **values)
        return placed, messages, self._options(placed)

    def _placed(self, binding: Binding, text_chunks: Sequence[str], call: Call, room: int) -> Placed:
        """Return how the nodes enter: as which memories, and what is shown as text, for which reason."""
        names = [item.node.node_id for item in call.nodes]
        if binding.memory is None or not names:
            return Placed(texts=text_chunks, reasons=dict.fromkeys(names, "the model has no memory attached"))
        scope = binding.scope(self._asking.namespace_values).with_engine(binding.engine())
        keys = [item.node.metadata.get("memos_cube_id", item.node.node_id) for item in call.nodes]
        budget = max(0, room) if self._memory_budget is None else self._memory_budget
        found = scope.resolve(keys, max_tokens=budget)
        placed = Placed(tokens=found.tokens)
        for item, key, shown in zip(call.nodes, keys, text_chunks, strict=True):
            placed.put(item, found, key, shown)
        return placed

    def _options(self, placed: Placed) -> dict[str, Any]:
        """Return the options of the chat. Without memories nothing is to be searched for either."""
        options: dict[str, Any] = {"inject": "off"}
        if placed.memories:
            chosen = self._inject or self._asking.inject
            options = {"inject": chosen if chosen in ("kv", "text") else "auto"}
            options["memory_ids"] = [cube.id for cube in placed.memories.values()]
        if self._output_cls is not None:
            schema = {"name": self._output_cls.__name__, "schema": self._output_cls.model_json_schema()}
            options["response_format"] = {"type": "json_schema", "json_schema": schema}
        return options

    def _answer(self, response: ChatResponse, placed: Placed, call: Call) -> Any:
        tell(call, placed, response)
        text = response.message.content or ""
        return text if self._output_cls is None else self._output_cls.model_validate_json(text)


@contextmanager
def under_way(nodes: Sequence[NodeWithScore]) -> Iterator[None]:
    """Let ``get_response`` know the nodes."""
    token = CALL.set(Call(tuple(nodes)))
    try:
        yield
    finally:
        CALL.reset(token)


def bound(llm: MemosLLM) -> Binding:
    """Return memory and engine of a model."""
    return Binding(llm.memory, llm.namespace, llm.engine, llm.model)


def fitting(texts: Sequence[str], room: int, engine: Engine) -> str:
    """Return the texts, the best first, as far as ``room`` tokens hold them; the last one may be cut."""
    kept: list[str] = []
    for text in texts:
        tokens = engine.count_tokens(text) + 2
        if tokens > room:
            share = max(0, room) / tokens
            kept.append(text[: int(len(text) * share * 0.9)])
            break
        kept.append(text)
        room -= tokens
    return "\n\n".join(part for part in kept if part)


def ids_of(nodes: Sequence[NodeWithScore]) -> list[str]:
    return [item.node.node_id for item in nodes]


def as_text_only(llm: LLM, nodes: Sequence[NodeWithScore]) -> dict[str, Any]:
    """Return what is told where the model is not one that MemOS runs."""
    reason = f"{type(llm).__name__} is not run by MemOS, so it gets text"
    return {
        "inject": "text",
        "fallback": reason,
        "nodes": {name: {"cube_id": None, "placed": "text", "reason": reason} for name in ids_of(nodes)},
    }


def streamed(responses: Iterator[ChatResponse], placed: Placed, call: Call) -> Generator[str, None, None]:
    """Yield the pieces of an answer, and tell what happened when it is whole."""
    last: ChatResponse | None = None
    for last in responses:
        yield last.delta or ""
    if last is not None:
        tell(call, placed, last)


async def astreamed(responses: Any, placed: Placed, call: Call) -> AsyncGenerator[str, None]:
    last: ChatResponse | None = None
    async for last in responses:
        yield last.delta or ""
    if last is not None:
        tell(call, placed, last)


def tell(call: Call, placed: Placed, response: ChatResponse) -> None:
    """Write into the call what memory did in the answer, node by node."""
    report = dict(response.additional_kwargs.get("memos") or {})
    how: Mapping[str, str] = report.get("placed") or {}
    why: Mapping[str, str] = report.get("reasons") or {}
    nodes: dict[str, Any] = {}
    for name in ids_of(call.nodes):
        cube = placed.memories.get(name)
        if cube is not None:
            nodes[name] = {"cube_id": cube.id, "placed": how.get(cube.id), "reason": why.get(cube.id)}
        else:
            shown = "left out" if name in placed.left_out else "text"
            nodes[name] = {"cube_id": None, "placed": shown, "reason": placed.reasons.get(name)}
    call.told.update({**report, "nodes": nodes})
