"""MemosMiddleware: long-term memory for an agent, whatever chat model it asks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, get_args

from memos_core import Conversation, Inject, MemoryContext, MemOS, Receipt, Remember, Scope, check_memory, resolve_scope
from memos_core.errors import CubeNotFound, InvalidInput, MissingExtra
from memos_langchain.chat_models import ChatMemos
from memos_langchain.runs import context_values, spoken

try:
    from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse
    from langchain.agents.middleware.types import PrivateStateAttr
    from langchain_core.messages import BaseMessage, SystemMessage
    from langchain_core.runnables.config import ensure_config, var_child_runnable_config
    from langgraph.runtime import Runtime
except ImportError as error:
    raise MissingExtra("langchain", extra="langchain") from error

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

__all__ = ["MemosMiddleware", "MemosState"]


class MemosState(AgentState[Any]):
    """What the middleware keeps in the state of an agent: ids and reasons, never the text of a memory.

    Attributes:
        memos_recalled: What was recalled for the newest turn, as ``MemoryContext.references``.
        memos_remembered: The memories that now hold the newest turns.
        memos_rejected: Why others of them became no memory.
        memos_recorded: Id of the last message that was looked at.
    """

    memos_recalled: NotRequired[Annotated[list[str], PrivateStateAttr]]
    memos_remembered: NotRequired[Annotated[list[str], PrivateStateAttr]]
    memos_rejected: NotRequired[Annotated[list[str], PrivateStateAttr]]
    memos_recorded: NotRequired[Annotated[str | None, PrivateStateAttr]]


class MemosMiddleware(AgentMiddleware[MemosState, Any, Any]):
    """Gives an agent memory that outlives its threads and its process.

        agent = create_agent(llm, tools, middleware=[MemosMiddleware(memos, namespace=("users", "{user_id}"))])
        agent.invoke({"messages": [("user", "What is my cat called?")]}, {"configurable": {"user_id": "ada"}})

    Before the agent it recalls what memory holds on the last user message and the messages do not say already. For
    each call of the model that memory is put in: for ``ChatMemos`` beside the prompt, as KV or text (the middleware's
    scope takes the place of the model's own); for any other chat model as quoted text at the very end of the system
    message, so that tools, system prompt and everything that a provider caches of them stay as they were. Nothing of
    it enters ``messages`` or a checkpoint. After the agent the user's and the assistant's turns are committed to the
    vault; storing a turn again changes nothing, and recalled text is not stored as new.

    Put it last in the list: the model and the messages that it sees are then the final ones. Beside
    ``SummarizationMiddleware`` use ``MemosSummarizer``, which keeps what is cut away.

    Args:
        memory: A scope, or a MemOS together with ``namespace``.
        namespace: Template of the namespace within a MemOS. Its variables are taken from the run's context, else from
            ``config["configurable"]``, else from its metadata. One that has no value raises ``InvalidName`` before
            the model is asked.
        k: Most memories recalled for a turn.
        max_tokens: Most prompt tokens that they may take together; None: a quarter of the model's window, at most
            2048.
        keep: Let what was recalled stay for the rest of the thread, in the room that ``max_tokens`` leaves: the prompt
            then soon begins alike in every turn, which a provider's cache and stored KV reward.
        inject: How memory enters ``ChatMemos``; None: as the model itself has it. ``off`` recalls nothing at all.
        remember: Whose turns are stored: ``both``, the ``user``'s alone, or ``none``.

    Raises:
        InvalidInput: An argument is out of range.
    """

    state_schema = MemosState

    def __init__(
        self,
        memory: Scope | MemOS,
        *,
        namespace: Sequence[str] = ("users", "{user_id}"),
        k: int = 8,
        max_tokens: int | None = None,
        keep: bool = False,
        inject: Inject | None = None,
        remember: Remember = "both",
    ) -> None:
        super().__init__()
        check_memory(memory)
        if k < 1 or (max_tokens is not None and max_tokens < 0):
            raise InvalidInput("k must be at least 1 and max_tokens not negative")
        if inject is not None and inject not in get_args(Inject):
            raise InvalidInput(f"inject must be None or one of {', '.join(get_args(Inject))}, not {inject!r}")
        if remember not in get_args(Remember):
            raise InvalidInput(f"remember must be one of {', '.join(get_args(Remember))}, not {remember!r}")
        self.memory = memory
        self.namespace = tuple(namespace)
        self.k = k
        self.max_tokens = max_tokens
        self.keep = keep
        self.inject = inject
        self.remember: Remember = remember

    # Recall

    def before_agent(self, state: MemosState, runtime: Runtime[Any]) -> dict[str, Any]:
        chat = self._conversation(runtime)
        if self.inject == "off":
            return recalled_state(())
        context = chat.recall(spoken(state["messages"]), **self._asked(state))
        return recalled_state(context.references)

    async def abefore_agent(self, state: MemosState, runtime: Runtime[Any]) -> dict[str, Any]:
        chat = self._conversation(runtime)
        if self.inject == "off":
            return recalled_state(())
        context = await chat.arecall(spoken(state["messages"]), **self._asked(state))
        return recalled_state(context.references)

    def _asked(self, state: MemosState) -> dict[str, Any]:
        return {"k": self.k, "max_tokens": self.max_tokens, "keep": recalled_in(state) if self.keep else ()}

    # Inject

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        try:
            return self._call(request, handler)
        except CubeNotFound:  # forgotten by someone else just now: what is left of the recalled is asked for again
            return self._call(request, handler)

    def _call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        scope = self._conversation(request.runtime).scope
        context = scope.context_of(recalled_in(request.state))
        with traced(context, self._placing(request)):
            return handler(self._with_memory(request, scope, context))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        try:
            return await self._acall(request, handler)
        except CubeNotFound:
            return await self._acall(request, handler)

    async def _acall(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        scope = self._conversation(request.runtime).scope
        context = await scope.acontext_of(recalled_in(request.state))
        with traced(context, self._placing(request)):
            return await handler(self._with_memory(request, scope, context))

    def _with_memory(self, request: ModelRequest[Any], scope: Scope, context: MemoryContext) -> ModelRequest[Any]:
        if isinstance(request.model, ChatMemos):
            settings = {"memory_ids": list(context.references), "inject": self._placing(request), "remember": False}
            return request.override(
                model=bound(request.model, scope), model_settings={**request.model_settings, **settings}
            )
        if not context.text:
            return request
        return request.override(system_message=with_tail(request.system_message, context.text))

    def _placing(self, request: ModelRequest[Any]) -> str:
        """Return how memory is to enter the model of ``request``."""
        if self.inject == "off":
            return "off"
        if isinstance(request.model, ChatMemos):
            return self.inject or str(request.model_settings.get("inject", request.model.inject))
        return "text"

    # Remember

    def after_agent(self, state: MemosState, runtime: Runtime[Any]) -> dict[str, Any]:
        receipts = self._conversation(runtime).record(
            spoken(unrecorded(state)), recalled=state.get("memos_recalled", ())
        )
        return recorded_state(state["messages"], receipts)

    async def aafter_agent(self, state: MemosState, runtime: Runtime[Any]) -> dict[str, Any]:
        receipts = await self._conversation(runtime).arecord(
            spoken(unrecorded(state)), recalled=state.get("memos_recalled", ())
        )
        return recorded_state(state["messages"], receipts)

    def _conversation(self, runtime: Runtime[Any]) -> Conversation:
        """Return the memory of this run.

        Raises:
            InvalidName: The namespace needs a value that the run does not bring.
        """
        values = context_values(self.memory, self.namespace, getattr(runtime, "context", None))
        thread = ensure_config().get("configurable", {}).get("thread_id")
        scope = resolve_scope(self.memory, self.namespace, values)
        return Conversation(scope, thread=None if thread is None else str(thread), remember=self.remember)


def recalled_state(references: Sequence[str]) -> dict[str, Any]:
    return {"memos_recalled": list(references)}


def recalled_in(state: Mapping[str, Any]) -> Sequence[str]:
    references: Sequence[str] = state.get("memos_recalled") or ()
    return references


def recorded_state(messages: Sequence[BaseMessage], receipts: Sequence[Receipt]) -> dict[str, Any]:
    """Return how far the thread is stored, and what became of its newest turns."""
    return {
        "memos_remembered": [receipt.cube_id for receipt in receipts if receipt.cube_id],
        "memos_rejected": [receipt.reason or "" for receipt in receipts if receipt.cube_id is None],
        "memos_recorded": messages[-1].id if messages else None,
    }


def unrecorded(state: MemosState) -> Sequence[BaseMessage]:
    """Return the messages after the last one that was recorded; all, where that one is gone."""
    messages: Sequence[BaseMessage] = state["messages"]
    last = state.get("memos_recorded")
    places = [place for place, message in enumerate(messages) if last is not None and message.id == last]
    return messages[places[-1] + 1 :] if places else messages


def bound(model: ChatMemos, scope: Scope) -> ChatMemos:
    """Return ``model`` with its own weights and the memory of ``scope``."""
    engine = model.engine
    if engine is None and model.model is None and model.memory is not None:
        engine = model.memory.engine
    return model.model_copy(update={"memory": scope, "engine": engine})


def with_tail(system: SystemMessage | None, text: str) -> SystemMessage:
    """Return the system message with ``text`` after everything that it says; its blocks stay as they are."""
    if system is None or not system.content:
        return SystemMessage(text)
    if isinstance(system.content, str):
        return system.model_copy(update={"content": f"{system.content}\n\n{text}"})
    return system.model_copy(update={"content": [*system.content, {"type": "text", "text": text}]})


@contextmanager
def traced(context: MemoryContext, inject: str) -> Iterator[None]:
    """Add to the metadata of the runs within which memories take part, and how."""
    told = {"memos_cube_ids": list(context.references), "memos_inject": inject, "memos_tokens": context.tokens}
    config: RunnableConfig = ensure_config()
    token = var_child_runnable_config.set({**config, "metadata": {**config["metadata"], **told}})
    try:
        yield
    finally:
        var_child_runnable_config.reset(token)
