"""MemosLLM: a local model with memory in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from memos_core import Binding, ChatOptions, Engine, Inject, MemOS, Scope
from memos_core.errors import MissingExtra, UnsupportedOption
from memos_llamaindex.messages import Cumulative, as_completion, as_core_messages

try:
    from llama_index.core.base.llms.types import (
        ChatMessage,
        ChatResponse,
        ChatResponseAsyncGen,
        ChatResponseGen,
        CompletionResponse,
        CompletionResponseAsyncGen,
        CompletionResponseGen,
        LLMMetadata,
        MessageRole,
    )
    from llama_index.core.bridge.pydantic import Field, PrivateAttr
    from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
    from llama_index.core.llms.llm import LLM
except ImportError as error:
    raise MissingExtra("llama-index-core", extra="llamaindex") from error

__all__ = ["MemosLLM"]

DEFAULTS = ("inject", "temperature", "max_tokens", "seed", "memory_budget", "strict", "remember", "stop")
"""Options of a chat that have a field here."""

OWN = frozenset({"namespace_values"})
"""Keyword arguments of a call that are no options of a chat."""


class MemosLLM(LLM):
    """A model that runs here, with memory that enters its prompts as text or as stored KV.

        llm = MemosLLM(memory=memos.scope(user="ada"))
        response = llm.chat([ChatMessage(role="user", content="What is my cat called?")])
        response.additional_kwargs["memos"]["cube_ids"]

    A call takes all of ``ChatOptions`` as keyword arguments (``inject``, ``memory_ids``, ``memory_budget``, ``strict``,
    ``remember``, ``seed``, ``temperature``, ``max_tokens``, ``stop`` ...) and ``namespace_values``. Memories are passed
    by id, never as tensors.

    A message with ``additional_kwargs={"memos": {"cube_ids": [...]}}`` stands for these memories: they enter as
    ``inject`` says, in place of the message's own text.

    ``additional_kwargs["memos"]`` of a response tells which memories took part, how, and why, the tokens that came from
    stored KV (``memory_tokens``), and the time to the first token.

    Args:
        model: ``memos-reader``, a folder or a hub id. None: ``engine``, else the engine of ``memory``, else
            ``memos-reader``. Weights load at first use, and are shared by path.
        engine: The engine to ask.
        memory: A scope, a MemOS together with ``namespace``, or None: no memory.
        namespace: Template of the namespace within a MemOS.
        namespace_values: What its variables stand for.
        inject: How memory enters: ``off``, ``text``, ``kv``, ``lora`` or ``auto``.
        temperature: 0 takes the most likely token always.
        max_tokens: Most tokens of an answer.
        seed: Makes sampling repeatable.
        memory_budget: Most prompt tokens that memory may take; None: a quarter of the context window, at most 2048.
        strict: Raise instead of falling back to text.
        remember: Store the last user message and the answer as memories.
        stop: Strings that end an answer.
    """

    model: str | None = Field(default=None, description="Folder, hub id or name of the model.")
    engine: Engine | None = Field(default=None, exclude=True, repr=False, description="The engine to ask.")
    memory: Scope | MemOS | None = Field(default=None, exclude=True, repr=False, description="Whose memory enters.")
    namespace: tuple[str, ...] = Field(default=("users", "{user_id}"), description="Namespace within a MemOS.")
    namespace_values: dict[str, Any] = Field(default_factory=dict, description="Values of the namespace's variables.")
    inject: Inject = Field(default="auto", description="How memory enters.")
    temperature: float = Field(default=0.0, description="0 takes the most likely token always.")
    max_tokens: int = Field(default=256, description="Most tokens of an answer.")
    seed: int | None = Field(default=None, description="Makes sampling repeatable.")
    memory_budget: int | None = Field(default=None, description="Most prompt tokens that memory may take.")
    strict: bool = Field(default=False, description="Raise instead of falling back to text.")
    remember: bool = Field(default=False, description="Store the exchange as memories.")
    stop: list[str] | None = Field(default=None, description="Strings that end an answer.")

    _made: Binding = PrivateAttr(default_factory=Binding)

    @classmethod
    def class_name(cls) -> str:
        return "MemosLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """What the model is. Loads its configuration, not its weights."""
        return LLMMetadata(
            context_window=self._binding.engine().capabilities.context_window,
            num_output=self.max_tokens,
            is_chat_model=True,
            is_function_calling_model=False,
            model_name=self._binding.model_name,
        )

    def to_payload(self) -> dict[str, Any]:
        # Called on the event loop at the start of every call: nothing may be loaded for it.
        return {
            "class_name": self.class_name(),
            "model": self.model,
            **{name: getattr(self, name) for name in DEFAULTS},
        }

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> MemosLLM:
        # Memory and engine are handles, and a copy of the settings is what is wanted.
        return self.model_copy()

    # Chat

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        reply = self._binding.target(self._values(kwargs)).chat(as_core_messages(messages), **self._options(kwargs))
        return Cumulative(self._binding.model_name).whole(reply)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        target = await self._binding.atarget(self._values(kwargs))
        reply = await target.achat(as_core_messages(messages), **self._options(kwargs))
        return Cumulative(self._binding.model_name).whole(reply)

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        target = self._binding.target(self._values(kwargs))
        chunks = target.stream(as_core_messages(messages), **self._options(kwargs))
        so_far = Cumulative(self._binding.model_name)
        return (so_far.add(chunk) for chunk in chunks)

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        target = await self._binding.atarget(self._values(kwargs))
        chunks = target.astream(as_core_messages(messages), **self._options(kwargs))
        so_far = Cumulative(self._binding.model_name)
        return (so_far.add(chunk) async for chunk in chunks)

    # Completion: a prompt is a chat of one message

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return as_completion(self.chat(self._asked(prompt, formatted), **kwargs))

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return as_completion(await self.achat(self._asked(prompt, formatted), **kwargs))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        responses = self.stream_chat(self._asked(prompt, formatted), **kwargs)
        return (as_completion(response) for response in responses)

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        responses = await self.astream_chat(self._asked(prompt, formatted), **kwargs)
        return (as_completion(response) async for response in responses)

    # Translation

    @property
    def _binding(self) -> Binding:
        # Fields may be changed: a binding to what they were must not be used.
        wanted = Binding(self.memory, self.namespace, self.engine, self.model)
        if self._made != wanted:
            self._made = wanted
        return self._made

    def _asked(self, prompt: str, formatted: bool) -> list[ChatMessage]:
        wrap = None if formatted else self.completion_to_prompt
        text = wrap(prompt) if wrap else prompt
        return [ChatMessage(role=MessageRole.USER, content=text)]

    def _values(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        return {**self.namespace_values, **(kwargs.get("namespace_values") or {})}

    def _options(self, kwargs: Mapping[str, Any]) -> ChatOptions:
        """Return the options of a chat: the call's, else this model's; None is the core's default.

        Raises:
            UnsupportedOption: A keyword argument is not known.
        """
        unknown = sorted(kwargs.keys() - ChatOptions.__annotations__.keys() - OWN)
        if unknown:
            raise UnsupportedOption(f"MemosLLM does not know the argument {', '.join(unknown)}")
        given = {name: value for name, value in kwargs.items() if name not in OWN and value is not None}
        options = {name: getattr(self, name) for name in DEFAULTS} | given
        return cast(ChatOptions, {name: value for name, value in options.items() if value is not None})
