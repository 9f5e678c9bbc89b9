"""Schemas and tools of LangChain in the core's words, and what reads the answers."""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import Any, Literal

from memos_core.errors import InvalidInput, MissingExtra

try:
    from langchain_core.output_parsers import BaseOutputParser, JsonOutputParser, PydanticOutputParser
    from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
    from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
    from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
    from langchain_core.utils.pydantic import is_basemodel_subclass
except ImportError as error:
    raise MissingExtra("langchain-core", extra="langchain") from error

from pydantic import BaseModel

__all__ = ["Method", "Schema", "json_format", "output_parser", "response_format", "tool_parser", "with_raw"]

Method = Literal["json_schema", "function_calling", "json_mode"]
Schema = dict[str, Any] | type
FORMATS = frozenset({"json_schema", "json_object", "regex", "text"})
FUNCTION = frozenset({"parameters", "input_schema"})
"""Keys by which the dict of a tool differs from a JSON schema."""


def json_format(schema: Schema | None, method: Method) -> dict[str, Any]:
    """Return the response format that holds an answer to ``schema``; without one, to any JSON object."""
    if schema is None:
        return {"type": "json_object"}
    plain = plain_schema(schema)
    if method == "json_mode":
        return {"type": "json_object", "schema": plain}
    return {"type": "json_schema", "json_schema": {"name": plain.get("title", "answer"), "schema": plain}}


def plain_schema(schema: Schema) -> dict[str, Any]:
    # LangChain's conversion drops what a function of OpenAI has no place for: references, arrays, unions.
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return schema.model_json_schema()
    if isinstance(schema, dict) and schema.get("type") != "function" and not FUNCTION & schema.keys():
        return schema
    return convert_to_json_schema(schema)


def response_format(value: Any) -> Any:
    """Return ``value`` as the core takes it: a response format as it is, or that of a schema.

    Raises:
        InvalidInput: It is neither.
    """
    if value is None or (isinstance(value, Mapping) and value.get("type") in FORMATS):
        return value
    if isinstance(value, type | Mapping):
        return json_format(dict(value) if isinstance(value, Mapping) else value, "json_schema")
    raise InvalidInput(f"response_format is a response format of OpenAI or a schema, not {value!r}")


def output_parser(schema: Schema | None) -> BaseOutputParser[Any]:
    """Return what reads an answer in JSON: an object of the schema's class, or a dict."""
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        return PydanticOutputParser(pydantic_object=schema)
    return JsonOutputParser()


def tool_parser(schema: Schema) -> BaseOutputParser[Any]:
    """Return what reads the call of the tool that ``schema`` was made into."""
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        return PydanticToolsParser(tools=[schema], first_tool_only=True)
    name = convert_to_openai_tool(schema)["function"]["name"]
    return JsonOutputKeyToolsParser(key_name=name, first_tool_only=True)


def with_raw(llm: Runnable[Any, Any], parser: Runnable[Any, Any]) -> Runnable[Any, Any]:
    """Return a chain that gives ``raw``, ``parsed`` and ``parsing_error`` instead of raising what does not parse."""
    parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=llm) | parsed.with_fallbacks([failed], exception_key="parsing_error")
