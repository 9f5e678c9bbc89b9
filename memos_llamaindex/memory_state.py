"""A memory as JSON values, and back: what a saved ``Context`` holds of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from memos_core import Address, Scope, address_of, scope_at
from memos_core.errors import InvalidInput, MissingExtra, UnsupportedOption
from memos_llamaindex.chat_stores import MemosAsyncChatStore
from memos_llamaindex.home import scope_for
from memos_llamaindex.memory_block import MemosMemoryBlock

try:
    from llama_index.core.memory import BaseMemoryBlock, InsertMethod, StaticMemoryBlock
    from llama_index.core.storage.chat_store.base_db import AsyncDBChatStore
    from llama_index.core.storage.chat_store.sql import SQLAlchemyChatStore
except ImportError as error:
    raise MissingExtra("llama-index-core", extra="llamaindex") from error

if TYPE_CHECKING:
    from memos_llamaindex.memory import MemosMemory

__all__ = ["dumped", "identity_of", "loaded", "with_store"]

SETTINGS = (
    "session_id",
    "token_limit",
    "token_flush_size",
    "chat_history_token_ratio",
    "image_token_size_estimate",
    "audio_token_size_estimate",
    "video_token_size_estimate",
    "document_token_size_estimate",
    "k",
    "max_memory_tokens",
    "write",
    "remember",
    "per_session",
    "per_agent",
)
"""Fields that are JSON values."""

SQL_OPTIONS = ("table_name", "async_database_uri", "async_engine", "db_schema")
"""Arguments of LlamaIndex's own store."""

SQL_TABLE = "llama_index_memory"


class SavedMemory(BaseModel):
    """What ``MemosMemory.to_dict`` returns.

    Attributes:
        class_name: LlamaIndex's name of the class.
        format: Version of this.
        settings: Fields that are JSON values.
        insert_method: Where the text of other blocks goes.
        blocks: Each block's class, fields and, for one of MemOS, where its memory lies.
        history: Where the history lies, or the history itself where it lies in RAM.
    """

    model_config = ConfigDict(extra="forbid")

    class_name: str
    format: Literal[1]
    settings: dict[str, Any]
    insert_method: str
    blocks: list[dict[str, Any]]
    history: dict[str, Any]


def identity_of(store: AsyncDBChatStore) -> str:
    """Return a text that is the same for stores that hold the same histories in this process."""
    if isinstance(store, MemosAsyncChatStore):
        return f"{address_of(scope_of(store)).model_dump_json()} {store.name}"
    if isinstance(store, SQLAlchemyChatStore) and not store._is_in_memory_uri(store.async_database_uri):
        return f"{store.async_database_uri} {store.db_schema} {store.table_name}"
    return f"object {id(store)}"


def scope_of(store: MemosAsyncChatStore) -> Scope:
    return scope_for(store.memory, store.namespace, store.namespace_values)


def with_store(options: Mapping[str, Any], store: AsyncDBChatStore | None, home: Scope | None) -> dict[str, Any]:
    """Return ``options`` with the store of the history in the place of what describes it.

    Args:
        options: Fields of a memory, and arguments of LlamaIndex's own store.
        store: The store that was asked for.
        home: Where the history lies if nothing was asked for; None: in LlamaIndex's own store, in RAM.
    """
    fields = {name: value for name, value in options.items() if name not in SQL_OPTIONS}
    given = {name: options[name] for name in SQL_OPTIONS if name in options}
    if store is None and home is not None and not given:
        store = MemosAsyncChatStore(home)
    return {**fields, "sql_store": store or SQLAlchemyChatStore(**{"table_name": SQL_TABLE, **given})}


def dumped(memory: MemosMemory) -> dict[str, Any]:
    """Return ``memory`` as JSON values."""
    saved = SavedMemory(
        class_name=memory.class_name(),
        format=1,
        settings={name: getattr(memory, name) for name in SETTINGS},
        insert_method=memory.insert_method.value,
        blocks=[dumped_block(block, memory.session_id) for block in memory.memory_blocks],
        history=dumped_store(memory.sql_store, memory.session_id),
    )
    return saved.model_dump(mode="json")


def loaded(data: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the memory that ``data`` describes, with those that are ``given`` instead.

    Raises:
        InvalidInput: It is not what ``dumped`` returns.
    """
    try:
        saved = SavedMemory.model_validate(data)
    except ValidationError as error:
        raise InvalidInput(f"this is no saved memory, or one of a later release: {error.errors()[0]['msg']}") from error
    fields: dict[str, Any] = {**saved.settings, "insert_method": InsertMethod(saved.insert_method)}
    if "memory_blocks" not in given and "memory" not in given:
        fields["memory_blocks"] = [loaded_block(block, saved.settings["session_id"]) for block in saved.blocks]
    if "sql_store" not in given:
        fields["sql_store"] = loaded_store(saved.history)
    own = next((block for block in fields.get("memory_blocks", ()) if isinstance(block, MemosMemoryBlock)), None)
    if own is not None:
        fields["memory"] = own.memory
        if own.memory.engine is not None:
            fields["tokenizer_fn"] = own.memory.engine.encode
    return {**fields, **given}


def dumped_block(block: BaseMemoryBlock[Any], session_id: str) -> dict[str, Any]:
    if isinstance(block, MemosMemoryBlock):
        own = block.model_dump(mode="json", exclude={"memory", "namespace", "namespace_values"})
        address = address_of(block.home(session_id)).model_dump()
        return {"kind": "memos", "address": address, "given": block.given(session_id), **own}
    if isinstance(block, StaticMemoryBlock):
        return {"kind": "static", **block.model_dump(mode="json")}
    raise UnsupportedOption(
        f"the block {block.name!r} ({type(block).__name__}) cannot be saved with its memory; "
        "build the memory anew and pass it to the run"
    )


def loaded_block(data: Mapping[str, Any], session_id: str) -> BaseMemoryBlock[Any]:
    fields = dict(data)
    if fields.pop("kind") == "static":
        return StaticMemoryBlock(**fields)
    given = fields.pop("given")
    block = MemosMemoryBlock(memory=scope_at(Address(**fields.pop("address"))), **fields)
    block.take_up(session_id, given)
    return block


def dumped_store(store: AsyncDBChatStore, session_id: str) -> dict[str, Any]:
    if isinstance(store, MemosAsyncChatStore):
        return {"kind": "memos", "address": address_of(scope_of(store)).model_dump(), "name": store.name}
    if isinstance(store, SQLAlchemyChatStore):
        held = store.model_dump()
        if "db_data" in held:  # one in RAM writes down all conversations that it holds
            held["db_data"] = [row for row in held["db_data"] if row["key"] == session_id]
        return {"kind": "sql", **held}
    raise UnsupportedOption(f"a history in a {type(store).__name__} cannot be saved; pass the memory to the run")


def loaded_store(data: Mapping[str, Any]) -> AsyncDBChatStore:
    fields = dict(data)
    if fields.pop("kind") == "memos":
        return MemosAsyncChatStore(scope_at(Address(**fields["address"])), name=fields["name"])
    return SQLAlchemyChatStore(**fields)
