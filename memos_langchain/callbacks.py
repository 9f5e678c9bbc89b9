"""MemosCallbackHandler: what memory did in the runs of a model."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from memos_core.errors import MissingExtra

try:
    from langchain_core.callbacks import BaseCallbackHandler
    from langchain_core.messages import AIMessage, BaseMessage
    from langchain_core.outputs import ChatGeneration, LLMResult
except ImportError as error:
    raise MissingExtra("langchain-core", extra="langchain") from error

__all__ = ["MemoryMetrics", "MemoryRun", "MemosCallbackHandler"]


@dataclass(frozen=True, slots=True)
class MemoryRun:
    """What memory did in one call of a model.

    Attributes:
        run_id: The run, as in a trace.
        inject: How memory was to enter: ``text``, ``kv``, ``auto``, ``off`` ...
        memories: What took part: ids, or ``ID[120:480]`` for a passage.
        placed: How each entered; known where ``ChatMemos`` answered, else they entered as text.
        memory_tokens: Prompt tokens that memory took, as counted when it was recalled; None where that is not known.
        kv_tokens: Prompt tokens that came from stored KV and were not computed.
        prompt_tokens: All prompt tokens.
        completion_tokens: Tokens of the answer.
        ttft_seconds: To the first token; known where ``ChatMemos`` answered.
        notes: What the engine did with the prompt as a whole.
    """

    run_id: UUID
    inject: str
    memories: tuple[str, ...]
    placed: Mapping[str, str]
    memory_tokens: int | None
    kv_tokens: int
    prompt_tokens: int
    completion_tokens: int
    ttft_seconds: float | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MemoryMetrics:
    """Sums over all calls of models that a handler has seen.

    Attributes:
        calls: Calls that ended.
        calls_with_memory: Those of them in which memories took part.
        failed: Calls that ended with an error.
        placed: How many memories entered as ``text``, ``kv`` or ``lora``.
        memory_tokens: Prompt tokens that memory took, where that is known.
        kv_tokens: Prompt tokens that came from stored KV and were not computed.
        prompt_tokens: All prompt tokens.
        completion_tokens: Tokens of the answers.
    """

    calls: int
    calls_with_memory: int
    failed: int
    placed: Mapping[str, int]
    memory_tokens: int
    kv_tokens: int
    prompt_tokens: int
    completion_tokens: int


class MemosCallbackHandler(BaseCallbackHandler):
    """Counts what memory did. Writes nothing, sends nothing; thread-safe.

        watcher = MemosCallbackHandler()
        agent.invoke(..., {"callbacks": [watcher]})
        watcher.metrics.kv_tokens, watcher.last.placed

    It understands the answers of ``ChatMemos``, and the calls of any model that ``MemosMiddleware`` put memory into.

    Args:
        keep: How many of the newest runs stay in ``runs``.
    """

    def __init__(self, keep: int = 100) -> None:
        self._lock = threading.Lock()
        self._begun: dict[UUID, Mapping[str, Any]] = {}
        self._runs: deque[MemoryRun] = deque(maxlen=keep)
        self._sums: Counter[str] = Counter()
        self._placed: Counter[str] = Counter()

    @property
    def runs(self) -> tuple[MemoryRun, ...]:
        """The newest runs, oldest first."""
        with self._lock:
            return tuple(self._runs)

    @property
    def last(self) -> MemoryRun | None:
        """The newest run, if there was one."""
        runs = self.runs
        return runs[-1] if runs else None

    @property
    def metrics(self) -> MemoryMetrics:
        """The sums so far."""
        with self._lock:
            sums = {name: self._sums[name] for name in MemoryMetrics.__slots__ if name != "placed"}
            return MemoryMetrics(**sums, placed=dict(self._placed))

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        with self._lock:
            self._begun[run_id] = metadata or {}

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        with self._lock:
            begun = self._begun.pop(run_id, {})
            for generation in (generation for row in response.generations for generation in row[:1]):
                if isinstance(generation, ChatGeneration) and isinstance(generation.message, AIMessage):
                    self._book(memory_run(run_id, begun, generation.message))

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        with self._lock:
            self._begun.pop(run_id, None)
            self._sums["failed"] += 1

    def _book(self, run: MemoryRun) -> None:
        self._runs.append(run)
        self._placed.update(run.placed.values())
        self._sums.update(
            calls=1,
            calls_with_memory=int(bool(run.memories)),
            memory_tokens=run.memory_tokens or 0,
            kv_tokens=run.kv_tokens,
            prompt_tokens=run.prompt_tokens,
            completion_tokens=run.completion_tokens,
        )


def memory_run(run_id: UUID, begun: Mapping[str, Any], message: AIMessage) -> MemoryRun:
    """Return what the metadata of a call and its answer tell of memory."""
    told: Mapping[str, Any] = message.response_metadata.get("memos") or {}
    usage = message.usage_metadata
    named = begun.get("memos_cube_ids") or told.get("cube_ids") or ()
    return MemoryRun(
        run_id=run_id,
        inject=str(begun.get("memos_inject") or told.get("inject") or "off"),
        memories=tuple(named),
        placed=told.get("placed") or {} if told else dict.fromkeys(named, "text"),
        memory_tokens=begun.get("memos_tokens"),
        kv_tokens=int(told.get("memory_tokens") or 0),
        prompt_tokens=usage["input_tokens"] if usage else 0,
        completion_tokens=usage["output_tokens"] if usage else 0,
        ttft_seconds=told.get("ttft_seconds"),
        notes=tuple(told.get("notes") or ()),
    )
