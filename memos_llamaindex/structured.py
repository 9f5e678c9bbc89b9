"""Tools and output classes of LlamaIndex in the core's words, and what reads the answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from memos_core.errors import MissingExtra

try:
    from llama_index.core.base.llms.types import ChatResponse, ToolCallBlock
    from llama_index.core.bridge.pydantic import BaseModel
    from llama_index.core.llms.llm import ToolSelection
    from llama_index.core.program.streaming_utils import process_streaming_content_incremental
    from llama_index.core.tools.types import BaseTool
except ImportError as error:
    raise MissingExtra("llama-index-core", extra="llamaindex") from error

__all__ = ["Growing", "held_to", "read", "tool_arguments", "tool_selections"]

ModelT = TypeVar("ModelT", bound=BaseModel)

OF_PROGRAMS = frozenset({"tool_required", "tool_choice", "allow_parallel_tool_calls", "response_format"})
"""Arguments by which LlamaIndex's programs get their form, and which say nothing here."""


def held_to(output_cls: type[BaseModel], llm_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the arguments of a chat whose answer is of ``output_cls``."""
    kept = {name: value for name, value in (llm_kwargs or {}).items() if name not in OF_PROGRAMS}
    form = {"name": output_cls.__name__, "schema": output_cls.model_json_schema()}
    return {**kept, "response_format": {"type": "json_schema", "json_schema": form}}


def read(response: ChatResponse, output_cls: type[ModelT]) -> ModelT:
    """Return the answer as an object.

    Raises:
        ValidationError: A validator of the class, which no grammar knows, refuses it.
    """
    return output_cls.model_validate_json(response.message.content or "")


class Growing:
    """Reads an answer while it grows: objects with all fields optional, until it is whole.

    Args:
        output_cls: Its class.
    """

    def __init__(self, output_cls: type[BaseModel]) -> None:
        self._output_cls = output_cls
        self._so_far: Any = None

    def add(self, response: ChatResponse) -> Iterator[Any]:
        """Yield the object after ``response``, if it says anything yet."""
        if response.message.content:
            whole = response.raw is not None
            self._so_far = (
                read(response, self._output_cls)
                if whole
                else process_streaming_content_incremental(response, self._output_cls, self._so_far)
            )
            yield self._so_far


def tool_arguments(tools: Sequence[BaseTool], kwargs: Mapping[str, Any], *, tool_required: bool) -> dict[str, Any]:
    """Return the arguments of a chat with ``tools``. A ``tool_choice`` among ``kwargs`` goes first."""
    given = dict(kwargs)
    choice = given.pop("tool_choice", None) or ("required" if tool_required else "auto")
    if not tools:
        return given
    specified = [tool.metadata.to_openai_tool(skip_length_check=True) for tool in tools]
    return {**given, "tools": specified, "tool_choice": choice}


def arguments_of(block: ToolCallBlock) -> dict[str, Any]:
    arguments = json.loads(block.tool_kwargs) if isinstance(block.tool_kwargs, str) else block.tool_kwargs
    return dict(arguments)


def tool_selections(response: ChatResponse) -> list[ToolSelection]:
    """Return the calls that stand in a response."""
    return [
        ToolSelection(tool_id=block.tool_call_id or "", tool_name=block.tool_name, tool_kwargs=arguments_of(block))
        for block in response.message.blocks
        if isinstance(block, ToolCallBlock)
    ]
