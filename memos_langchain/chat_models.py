"""ChatMemos: a local chat model with memory in it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr

from memos_core import Binding, ChatOptions, Engine, Inject, MemOS, Reply, ReplyChunk, Scope
from memos_core.errors import InvalidInput, MissingExtra, UnsupportedOption
from memos_langchain import structured
from memos_langchain.messages import as_core_messages, last_chunk, reply_message, text_chunk
from memos_langchain.runs import auntil, run_values, until

try:
    from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
    from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput, ModelProfile
    from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
    from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
    from langchain_core.runnables import Runnable, RunnableConfig
    from langchain_core.tools import BaseTool
    from langchain_core.utils.function_calling import convert_to_openai_tool
except ImportError as error:
    raise MissingExtra("langchain-core", extra="langchain") from error

__all__ = ["ChatMemos"]

DEFAULTS = ("inject", "temperature", "max_tokens", "seed", "memory_budget", "strict", "remember")
"""Options of a chat that have a field here."""

OWN = frozenset({"namespace_values", "model", "stream", "parallel_tool_calls"})
"""Keyword arguments of a call that are no options of a chat."""

RunManager = CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun | None


class ChatMemos(BaseChatModel):
    """A chat model that runs here, with memory that enters its prompts as text or as stored KV.

    Setup:
        ```bash
        pip install 'memos-mag[local,embedder,langchain]'
        ```

    Instantiate and invoke:
        ```python
        from memos_core import MemOS
        from memos_langchain import ChatMemos

        memos = MemOS.open("memory/")
        memos.scope(user="ada").add("My cat is called Biscuit.")
        llm = ChatMemos(memory=memos, namespace=("users", "{user_id}"), max_tokens=64)
        ada = {"configurable": {"user_id": "ada"}}
        answer = llm.invoke("What is my cat called?", config=ada)
        answer.response_metadata["memos"]["cube_ids"]  # which memories took part
        answer.usage_metadata["input_token_details"]["cache_read"]  # prompt tokens that came from stored KV
        ```

    Stream:
        ```python
        for chunk in llm.stream("What is my cat called?", config=ada):
            print(chunk.text, end="")
        ```

    Structured output, which keeps to its schema whatever the model:
        ```python
        from pydantic import BaseModel

        class Cat(BaseModel):
            name: str

        cat = llm.with_structured_output(Cat).invoke("What is my cat called?", config=ada)
        assert isinstance(cat, Cat)
        ```

    Tool calling:
        ```python
        def look_up(name: str) -> str:
            '''Look a cat up by its name.'''
            return f"{name} sleeps."

        calling = llm.bind_tools([look_up], tool_choice="look_up")
        print(calling.invoke("What does Biscuit do?", config=ada).tool_calls)
        ```

    A call takes these keyword arguments besides `stop`: all of `ChatOptions` (`inject`, `memory_ids`, `adapter`,
    `memory_budget`, `strict`, `remember`, `seed`, `temperature`, `max_tokens`, `tools`, `tool_choice`,
    `response_format` ...), `model` (ask another model this once) and `namespace_values`. `bind` fixes them.
    `response_metadata["memos"]` tells which memories took part, how, and why. LangChain's cache of answers takes a
    change of the memory for a change of the question.

    Attributes:
        model: `memos-reader`, a folder or a hub id. None: `engine`, else the engine of `memory`, else
            `memos-reader`. Weights load at first use, and are shared by path.
        engine: The engine to ask.
        memory: A scope, a MemOS together with `namespace`, or None: no memory.
        namespace: Template of the namespace within a MemOS. Its variables are taken from `namespace_values` of a
            call, else from the run's `config["configurable"]`, else from its metadata.
        inject: How memory enters: `off`, `text`, `kv`, `lora` or `auto`.
        temperature: 0 takes the most likely token always.
        max_tokens: Most tokens of an answer.
        seed: Makes sampling repeatable.
        memory_budget: Most prompt tokens that memory may take; None: a quarter of the context window, at most 2048.
        strict: Raise instead of falling back to text.
        remember: Store the last user message and the answer as memories.
        stop: Strings that end an answer.
        timeout: Most seconds for an answer; looked at after each token.
        streaming: Stream whenever possible, also under `invoke`.
        max_retries: Accepted as every chat model does; a local model has nothing to retry.
        api_key: Accepted as every chat model does; a local model needs none.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", protected_namespaces=())

    model: str | None = None
    engine: Engine | None = Field(default=None, exclude=True, repr=False)
    memory: Scope | MemOS | None = Field(default=None, exclude=True, repr=False)
    namespace: tuple[str, ...] = ("users", "{user_id}")
    inject: Inject = "auto"
    temperature: float | None = 0.0
    max_tokens: int | None = 256
    seed: int | None = None
    memory_budget: int | None = None
    strict: bool = False
    remember: bool = False
    stop: list[str] | None = None
    timeout: float | None = None
    streaming: bool = False
    max_retries: int | None = None
    api_key: SecretStr | None = Field(default=None, exclude=True)

    _made: Binding = PrivateAttr(default_factory=Binding)

    @property
    def _binding(self) -> Binding:
        # Fields may be changed, by model_copy(update=...) too: a binding to what they were must not be used.
        wanted = Binding(self.memory, self.namespace, self.engine, self.model)
        if self._made != wanted:
            self._made = wanted
        return self._made

    # What LangChain asks for

    @property
    def _llm_type(self) -> str:
        return "memos"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in DEFAULTS}
        return {"model": self._binding.model_name, **fields, "default_stop": self.stop}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop or self.stop, **kwargs)
        params["ls_provider"] = "memos"
        params["ls_model_name"] = kwargs.get("model") or self._binding.model_name
        return params

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        described = super()._get_llm_string(stop=stop, **kwargs)
        if kwargs.get("inject", self.inject) == "off":
            return described
        return f"{described}---memory:{self._binding.revision(self._values(kwargs))}"

    def _resolve_model_profile(self) -> ModelProfile | None:
        profile = ModelProfile(
            open_weights=True,
            text_inputs=True,
            text_outputs=True,
            image_inputs=False,
            audio_inputs=False,
            video_inputs=False,
            pdf_inputs=False,
            tool_calling=True,
            tool_choice=True,
            structured_output=True,
        )
        window = self._binding.context_window
        if window is not None:
            profile["max_input_tokens"] = window
        if self.max_tokens is not None:
            profile["max_output_tokens"] = self.max_tokens
        return profile

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: dict[str, Any] | str | bool | None = None,
        strict: bool | None = None,
        response_format: dict[str, Any] | type | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return this model with tools that it may, or must, call.

        Args:
            tools: Anything that LangChain makes a tool of.
            tool_choice: ``auto``, ``none``, ``any`` or ``required``, True, the name of a tool, or OpenAI's dict. A call
                that must be made keeps to the schema of its tool.
            strict: Passed on into the tools' schemas, as with other models.
            response_format: What an answer without a call must look like.
            kwargs: Further arguments of the calls, such as ``memory_ids`` or ``inject``.
        """
        if response_format is not None:
            kwargs["response_format"] = structured.response_format(response_format)
        made = [convert_to_openai_tool(tool, strict=strict) for tool in tools]
        return self.bind(tools=made, tool_choice=tool_choice, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type | None = None,
        *,
        method: structured.Method = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """Return a chain whose answers are of ``schema``, by constrained decoding.

        Args:
            schema: A class of pydantic, a TypedDict, or a JSON schema; None: any JSON object (``json_mode``).
            method: ``json_schema`` and ``json_mode`` answer in JSON, ``function_calling`` by the call of a tool.
            include_raw: Return a dict of ``raw``, ``parsed`` and ``parsing_error`` instead.
            strict: Accepted as with other models; an answer always keeps to its schema.
            kwargs: Further arguments of the calls.

        Raises:
            InvalidInput: There is no such method, or it needs a schema.
        """
        if method not in get_args(structured.Method):
            raise InvalidInput(f"method is {', '.join(get_args(structured.Method))}, not {method!r}")
        if schema is None and method != "json_mode":
            raise InvalidInput(f"the method {method} needs a schema")
        told = {"kwargs": {"method": method, "strict": strict}, "schema": schema}
        llm: Runnable[LanguageModelInput, AIMessage]
        if schema is not None and method == "function_calling":
            parser = structured.tool_parser(schema)
            llm = self.bind_tools([schema], tool_choice=True, ls_structured_output_format=told, **kwargs)
        else:
            parser = structured.output_parser(schema)
            form = structured.json_format(schema, method)
            llm = self.bind(response_format=form, ls_structured_output_format=told, **kwargs)
        return structured.with_raw(llm, parser) if include_raw else llm | parser

    def get_token_ids(self, text: str) -> list[int]:
        """Return the ids that the model's own tokenizer makes of ``text``."""
        return self._binding.engine().encode(text)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        target = self._binding.target(self._values(kwargs, run_manager), model=kwargs.get("model"))
        chunks = target.stream(as_core_messages(messages), **self._options(stop, kwargs))
        *_, last = until(chunks, self.timeout)
        return self._result(last, kwargs)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        target = await self._binding.atarget(self._values(kwargs, run_manager), model=kwargs.get("model"))
        chunks = target.astream(as_core_messages(messages), **self._options(stop, kwargs))
        *_, last = [chunk async for chunk in auntil(chunks, self.timeout)]
        return self._result(last, kwargs)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        target = self._binding.target(self._values(kwargs, run_manager), model=kwargs.get("model"))
        chunks = target.stream(as_core_messages(messages), **self._options(stop, kwargs))
        for chunk in until(chunks, self.timeout):
            piece = self._piece(chunk, kwargs)
            if run_manager:
                run_manager.on_llm_new_token(chunk.text, chunk=piece)
            yield piece

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        target = await self._binding.atarget(self._values(kwargs, run_manager), model=kwargs.get("model"))
        chunks = target.astream(as_core_messages(messages), **self._options(stop, kwargs))
        async for chunk in auntil(chunks, self.timeout):
            piece = self._piece(chunk, kwargs)
            if run_manager:
                await run_manager.on_llm_new_token(chunk.text, chunk=piece)
            yield piece

    # The configuration of a run does not reach the methods above, so its values travel as a keyword argument

    def invoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        return super().invoke(input, config, stop=stop, **self._with_values(config, kwargs))

    async def ainvoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        return await super().ainvoke(input, config, stop=stop, **self._with_values(config, kwargs))

    def stream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        return super().stream(input, config, stop=stop, **self._with_values(config, kwargs))

    def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        return super().astream(input, config, stop=stop, **self._with_values(config, kwargs))

    def stream_events(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        return super().stream_events(input, config, **self._with_values(config, kwargs))

    def astream_events(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        return super().astream_events(input, config, **self._with_values(config, kwargs))

    # Translation

    def _with_values(self, config: RunnableConfig | None, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        values = run_values(self._binding.variables, kwargs.get("namespace_values"), config)
        return {**kwargs, "namespace_values": values} if values else dict(kwargs)

    def _values(self, kwargs: Mapping[str, Any], run_manager: RunManager = None) -> dict[str, Any]:
        metadata = run_manager.metadata if run_manager else None
        return run_values(self._binding.variables, kwargs.get("namespace_values"), metadata=metadata)

    def _options(self, stop: list[str] | None, kwargs: Mapping[str, Any]) -> ChatOptions:
        """Return the options of a chat: the call's, else this model's; None is the core's default.

        Raises:
            UnsupportedOption: A keyword argument is not known.
        """
        unknown = sorted(kwargs.keys() - ChatOptions.__annotations__.keys() - OWN)
        if unknown:
            raise UnsupportedOption(f"ChatMemos does not know the argument {', '.join(unknown)}")
        given = {name: value for name, value in kwargs.items() if name not in OWN}
        if "response_format" in given:
            given["response_format"] = structured.response_format(given["response_format"])
        options = {name: getattr(self, name) for name in DEFAULTS} | {"stop": self.stop} | given
        if stop:
            options["stop"] = stop
        return cast(ChatOptions, {name: value for name, value in options.items() if value is not None})

    def _model_name(self, kwargs: Mapping[str, Any]) -> str:
        return str(kwargs.get("model") or self._binding.model_name)

    def _result(self, chunk: ReplyChunk, kwargs: Mapping[str, Any]) -> ChatResult:
        message = reply_message(cast(Reply, chunk.reply), self._model_name(kwargs))
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _piece(self, chunk: ReplyChunk, kwargs: Mapping[str, Any]) -> ChatGenerationChunk:
        if chunk.reply is None:
            return text_chunk(chunk.text)
        return last_chunk(chunk.reply, self._model_name(kwargs))
