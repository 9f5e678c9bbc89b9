"""MemosLLM: a local model with memory in it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar, cast

from memos_core import Binding, ChatOptions, Engine, Inject, MemOS, Scope
from memos_core.errors import InvalidInput, MissingExtra, UnsupportedOption
from memos_llamaindex import structured
from memos_llamaindex.home import Handle
from memos_llamaindex.messages import Cumulative, as_completion, as_core_messages
from memos_llamaindex.options import options_in_force, using

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
    from llama_index.core.bridge.pydantic import BaseModel, ConfigDict, Field, PrivateAttr
    from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
    from llama_index.core.instrumentation.events.llm import LLMStructuredPredictEndEvent, LLMStructuredPredictStartEvent
    from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
    from llama_index.core.llms.function_calling import FunctionCallingLLM
    from llama_index.core.llms.llm import ToolSelection
    from llama_index.core.prompts import PromptTemplate
    from llama_index.core.tools.types import BaseTool
    from llama_index.core.types import PydanticProgramMode
except ImportError as error:
    raise MissingExtra("llama-index-core", extra="llamaindex") from error

__all__ = ["MemosLLM"]

DEFAULTS = ("inject", "temperature", "max_tokens", "seed", "memory_budget", "strict", "remember", "stop")
"""Options of a chat that have a field here."""

OWN = frozenset({"namespace_values", "memory"})
"""Keyword arguments of a call that are no options of a chat."""

ModelT = TypeVar("ModelT", bound=BaseModel)
dispatcher = get_dispatcher(__name__)


class MemosLLM(Handle, FunctionCallingLLM):
    """A model that runs here, with memory that enters its prompts as text or as stored KV.

    A call takes all of `ChatOptions` as keyword arguments (`inject`, `memory_ids`, `adapter`, `memory_budget`,
    `strict`, `remember`, `seed`, `temperature`, `max_tokens`, `stop`, `tools`, `tool_choice`, `response_format` ...),
    `namespace_values`, and `memory` for `memory_ids`. `using` lets them hold for a stretch of code. Memories are passed
    by id, never as tensors.

    A message with `additional_kwargs={"memos": {"cube_ids": [...]}}` stands for these memories: they enter as `inject`
    says, in place of the message's own text.

    `additional_kwargs["memos"]` of a response tells which memories took part, how, and why, the tokens that came from
    stored KV (`memory_tokens`), and the time to the first token.

    Args:
        model: `memos-reader`, a folder or a hub id. None: `engine`, else the engine of `memory`, else `memos-reader`.
            Weights load at first use, and are shared by path.
        engine: The engine to ask.
        memory: A scope, a MemOS together with `namespace`, or None: no memory.
        namespace: Template of the namespace within a MemOS.
        namespace_values: What its variables stand for.
        inject: How memory enters: `off`, `text`, `kv`, `lora` or `auto`.
        temperature: 0 takes the most likely token always.
        max_tokens: Most tokens of an answer.
        seed: Makes sampling repeatable.
        memory_budget: Most prompt tokens that memory may take; None: a quarter of the context window, at most 2048.
        strict: Raise instead of falling back to text.
        remember: Store the last user message and the answer as memories.
        stop: Strings that end an answer.
        is_function_calling_model: Whether agents and programs may call tools. A call that is required is always made;
            whether a model calls of itself depends on the model.

    Examples:
        `pip install 'memos-mag[local,embedder,llamaindex]'`

        ```python
        from llama_index.core.llms import ChatMessage
        from memos_core import MemOS
        from memos_llamaindex import MemosLLM

        memos = MemOS.open("memory/")
        ada = memos.scope(user="ada")
        cube_id = ada.add("My cat is called Biscuit.").cube_id
        llm = MemosLLM(memory=ada, max_tokens=64)
        response = llm.chat([ChatMessage(role="user", content="What is my cat called?")])
        print(response, response.additional_kwargs["memos"]["cube_ids"])
        ```

        An answer in a form, which it keeps to whatever the model:

        ```python
        from llama_index.core.prompts import PromptTemplate
        from pydantic import BaseModel

        class Cat(BaseModel):
            name: str

        cat = llm.structured_predict(Cat, PromptTemplate("{question}"), question="What is my cat called?")
        assert isinstance(cat, Cat)
        ```

        Memories by id, for code that passes no options on:

        ```python
        with llm.using(memory=[cube_id], inject="kv"):
            llm.predict(PromptTemplate("{question}"), question="What is my cat called?")
        ```
    """

    model_config = ConfigDict(extra="forbid")

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
    is_function_calling_model: bool = Field(default=True, description="Whether agents and programs may call tools.")

    _key: object = PrivateAttr(default_factory=object)
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
            is_function_calling_model=self.is_function_calling_model,
            model_name=self._binding.model_name,
        )

    def to_payload(self) -> dict[str, Any]:
        # Called on the event loop at the start of every call: nothing may be loaded for it.
        return {
            "class_name": self.class_name(),
            "model": self._binding.named_model,
            "model_name": self._binding.named_model,
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

    # Tools

    def _prepare_chat_with_tools(  # noqa: PLR0917 - the signature is LlamaIndex's
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        asked = ChatMessage(role=MessageRole.USER, content=user_msg) if isinstance(user_msg, str) else user_msg
        messages = [*(chat_history or []), *([asked] if asked is not None else [])]
        return {"messages": messages, **structured.tool_arguments(tools, kwargs, tool_required=tool_required)}

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """Return the calls that stand in ``response``.

        Raises:
            InvalidInput: There are none, and ``error_on_no_tool_call``.
        """
        calls = structured.tool_selections(response)
        if not calls and error_on_no_tool_call:
            raise InvalidInput("the response calls no tool; tool_required=True makes the model call one")
        return calls

    # Structured prediction: the answer itself is held to the class, unless another mode of program is asked for

    @dispatcher.span
    def structured_predict(
        self,
        output_cls: type[ModelT],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> ModelT:
        """Return an object of ``output_cls``; its fields keep to their types and bounds whatever the model."""
        if self._by_program:
            return cast(ModelT, super().structured_predict(output_cls, prompt, llm_kwargs=llm_kwargs, **prompt_args))
        dispatcher.event(self._predicting(output_cls, prompt, prompt_args))
        messages = self._formatted(prompt, prompt_args)
        result = structured.read(self.chat(messages, **structured.held_to(output_cls, llm_kwargs)), output_cls)
        dispatcher.event(LLMStructuredPredictEndEvent(output=result))
        return result

    @dispatcher.span
    async def astructured_predict(
        self,
        output_cls: type[ModelT],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> ModelT:
        """``structured_predict`` for asyncio."""
        if self._by_program:
            predicted = await super().astructured_predict(output_cls, prompt, llm_kwargs=llm_kwargs, **prompt_args)
            return cast(ModelT, predicted)
        dispatcher.event(self._predicting(output_cls, prompt, prompt_args))
        messages = self._formatted(prompt, prompt_args)
        response = await self.achat(messages, **structured.held_to(output_cls, llm_kwargs))
        result = structured.read(response, output_cls)
        dispatcher.event(LLMStructuredPredictEndEvent(output=result))
        return result

    def _structured_stream_call(
        self,
        output_cls: type[ModelT],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Any, None, None]:
        if self._by_program:
            yield from super()._structured_stream_call(output_cls, prompt, llm_kwargs=llm_kwargs, **prompt_args)
            return
        growing = structured.Growing(output_cls)
        messages = self._formatted(prompt, prompt_args)
        for response in self.stream_chat(messages, **structured.held_to(output_cls, llm_kwargs)):
            yield from growing.add(response)

    async def _structured_astream_call(
        self,
        output_cls: type[ModelT],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Any, None]:
        if self._by_program:
            return await super()._structured_astream_call(output_cls, prompt, llm_kwargs=llm_kwargs, **prompt_args)
        messages = self._formatted(prompt, prompt_args)
        responses = await self.astream_chat(messages, **structured.held_to(output_cls, llm_kwargs))

        async def objects() -> AsyncGenerator[Any, None]:
            growing = structured.Growing(output_cls)
            async for response in responses:
                for grown in growing.add(response):
                    yield grown

        return objects()

    @property
    def _by_program(self) -> bool:
        return self.pydantic_program_mode is not PydanticProgramMode.DEFAULT

    def _formatted(self, prompt: PromptTemplate, prompt_args: Mapping[str, Any]) -> list[ChatMessage]:
        return self._extend_messages(prompt.format_messages(llm=self, **prompt_args))

    def _predicting(
        self, output_cls: type[BaseModel], prompt: PromptTemplate, prompt_args: dict[str, Any]
    ) -> LLMStructuredPredictStartEvent:
        return LLMStructuredPredictStartEvent(output_cls=output_cls, template=prompt, template_args=prompt_args)

    # Options

    def using(self, **options: Any) -> AbstractContextManager[None]:
        """Let options of a call hold for every call of this model, or of a copy of it, within a block.

        For code that passes none on, such as ``llm.predict`` or a query engine. Options of a call itself go first.

        Examples:
            `with llm.using(memory=[cube_id], inject="kv"): query_engine.query(...)`

        Raises:
            UnsupportedOption: An option is not known.
        """
        self._options(options)
        return using(self._key, options)

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
        in_force = options_in_force(self._key).get("namespace_values") or {}
        return {**self.namespace_values, **in_force, **(kwargs.get("namespace_values") or {})}

    def _options(self, kwargs: Mapping[str, Any]) -> ChatOptions:
        """Return the options of a chat: the call's, else this model's; None is the core's default.

        Raises:
            UnsupportedOption: A keyword argument is not known.
        """
        unknown = sorted(kwargs.keys() - ChatOptions.__annotations__.keys() - OWN)
        if unknown:
            raise UnsupportedOption(f"MemosLLM does not know the argument {', '.join(unknown)}")
        options = {name: getattr(self, name) for name in DEFAULTS}
        for layer in (options_in_force(self._key), kwargs):
            if layer.get("memory") is not None:
                options["memory_ids"] = layer["memory"]
            options |= {name: value for name, value in layer.items() if name not in OWN and value is not None}
        return cast(ChatOptions, {name: value for name, value in options.items() if value is not None})
