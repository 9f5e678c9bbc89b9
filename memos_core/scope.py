"""Scope: the handle that a caller holds. Bound to a user, and perhaps an agent and a session; it reaches no further.

Every method has an async twin, named with an ``a`` in front: ``await ada.asearch(...)``.
"""

from __future__ import annotations

import asyncio
import builtins
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal, Unpack

from memos_core.bound import BoundScope
from memos_core.collection import Collection, CollectionOptions, open_collection
from memos_core.cube import MemCube, MemoryType, State
from memos_core.engine.base import Engine, EngineRequest
from memos_core.errors import InvalidInput
from memos_core.events import Event
from memos_core.ids import checked_cursor
from memos_core.infrastructure.vault import UsageDelta, Visibility
from memos_core.interface.adapters import ScopeAdapters
from memos_core.interface.arguments import TypeName, header_filters, memory_state, memory_types
from memos_core.interface.chat import ChatCall, ChatOptions, default_budget
from memos_core.interface.context import MemoryContext, build_context, context_of
from memos_core.interface.exporting import write_lines
from memos_core.interface.items import Items
from memos_core.interface.reader import as_messages, as_turn
from memos_core.interface.tokens import hosted_counter
from memos_core.operation.background import as_ids, target_form
from memos_core.operation.items.items import ItemHandle, ItemIndex
from memos_core.operation.operator import found
from memos_core.operation.resolving import Resolution, resolve
from memos_core.operation.revision import revision_of
from memos_core.records import (
    Erasure,
    Hit,
    Message,
    Page,
    Receipt,
    Reply,
    ReplyChunk,
    Turn,
    TurnFields,
)
from memos_core.twins import in_thread

__all__ = ["Scope"]

Prompt = str | Sequence[Message | Mapping[str, Any]]

HOSTED_WINDOW = 8192
"""Context window that is assumed for a hosted model when ``context`` is asked for no certain size."""


class Scope(BoundScope):
    """The memory of one user (agent, session). Made by ``MemOS.scope``; thread-safe; cheap.

    Ids that are malformed, absent or another's all raise ``CubeNotFound``.
    """

    def scope(self, *, agent: str | None = None, session: str | None = None) -> Scope:
        """Return a scope that is bound further.

        Raises:
            ScopeConflict: This one is bound to another agent or session.
            InvalidName: A name is malformed.
        """
        return Scope(self._layers, self._principal.narrow(agent=agent, session=session))

    def with_engine(self, engine: Engine) -> Scope:
        """Return this scope with another model to ask; a vault opened without an engine gets one this way."""
        if engine is self._layers.engine:
            return self
        self._layers.engines.add(engine)
        return Scope(replace(self._layers, engine=engine, chat=self._layers.chat.with_engine(engine)), self._principal)

    # Write

    def add(self, text: str, **fields: Unpack[TurnFields]) -> Receipt:
        """Remember one text. ``fields`` are those of ``Turn``: speaker, session, at, ref, tags, ttl_seconds ...

        Raises:
            InvalidMemory: The text or a field cannot be a memory.
            ScopeConflict: ``session`` is not the scope's own.
        """
        return self._add([as_turn({"text": text, **fields}, None)])[0]

    def add_many(self, items: Sequence[Turn | Mapping[str, Any] | str]) -> builtins.list[Receipt]:
        """Remember many, in one transaction and one embedding batch; a receipt for each, in order.

        Args:
            items: Turns, dicts of their fields, or OpenAI-style ``{"role", "content"}``.

        Raises:
            InvalidMemory: One cannot be a memory; its ``index`` tells which, and nothing was written.
        """
        return self._add([as_turn(item, number) for number, item in enumerate(items)])

    def _add(self, turns: Sequence[Turn]) -> builtins.list[Receipt]:
        if not turns:
            return []
        receipts = self._layers.operator.add(self._principal, turns)
        committed = tuple(r.cube_id for r in receipts if r.outcome in ("committed", "superseded") and r.cube_id)
        if committed:
            self._emit("memory.added", committed)
            self._layers.retention.added(self._principal, len(committed))
        return receipts

    def forget(self, cube_id: str | Sequence[str]) -> Erasure:
        """Erase a memory (or several), all its versions and everything made from it. There is no way back."""
        cube_ids = [cube_id] if isinstance(cube_id, str) else list(dict.fromkeys(cube_id))
        erasure = self._layers.lifecycle.forget(self._principal, cube_ids)
        self._forgotten(erasure)
        return erasure

    def _forgotten(self, erasure: Erasure) -> None:
        for engine in list(self._layers.engines):
            engine.drop(self._layers.activations(self._principal, ()).owner, erasure.derived_ids)
        self._emit("memory.forgotten", erasure.cube_ids)

    def collection(self, name: str, **options: Unpack[CollectionOptions]) -> Collection:
        """Return a collection of documents of this scope, beside its memories; see ``CollectionOptions``.

        It exists from its first document on.
        """
        return open_collection(self._layers, self._principal, name, options, forgotten=self._forgotten)

    # Read

    def search(
        self,
        query: str,
        *,
        k: int = 10,
        filters: Mapping[str, Any] | None = None,
        before: datetime | None = None,
        as_of: datetime | None = None,
        include_superseded: bool = False,
    ) -> builtins.list[Hit]:
        """Return the ``k`` best memories for ``query``, best first.

        Args:
            query: What is asked.
            k: Most hits.
            filters: Conditions on the header: ``{"speaker": "Ben", "at": {"$gte": moment}}``; see docs/search.md.
            before: Only what was said before this moment.
            as_of: Only what held at this moment; by default now.
            include_superseded: Also what another memory took the place of.

        Raises:
            InvalidInput: The query is empty, k is not positive, or a filter is malformed.
            UnknownField: A filter names a field that there is not.
        """
        conditions = {"before": before, "as_of": as_of, "include_superseded": include_superseded}
        where = header_filters(filters, self._layers.lifecycle)
        call = self._layers.chat.call(query, k=k, filters=where, **conditions)
        hits = self._layers.operator.search(self._principal, call)
        self._searched(hits)
        return hits

    def context(
        self,
        query: str,
        *,
        max_tokens: int | None = None,
        k: int = 12,
        filters: Mapping[str, Any] | None = None,
        known: Sequence[str] = (),
        keep: Sequence[str] = (),
    ) -> MemoryContext:
        """Return the best memories for ``query`` as text that fits ``max_tokens``, for a model that you call.

        Tokens are counted by the engine's tokenizer, or tiktoken's where there is no engine.

        Args:
            query: What is asked.
            max_tokens: Size of the text at most.
            k: Most memories that are new to the conversation.
            filters: As for ``search``.
            known: Texts that the prompt holds already: what says the same is left out.
            keep: Ids of memories that the conversation was given before. They stay in the room that is left, as long
                as they can be seen, so that the prompt begins alike from turn to turn.
        """
        engine, count = self._layers.engine, self._count_tokens
        if max_tokens is None:
            max_tokens = default_budget(engine.capabilities.context_window if engine else HOSTED_WINDOW)
        layers, where = self._layers, header_filters(filters, self._layers.lifecycle)
        call = layers.chat.call(query, k=k, max_tokens=max_tokens, filters=where)
        found = build_context(
            layers.operator, layers.scheduler, self._principal, call, count_tokens=count, known=known, keep=keep
        )
        self._searched(found.hits)
        layers.feedback.note(self._principal, found.plan)
        layers.chat.read_ahead(self._principal, found.plan)
        return found

    def context_of(self, references: Sequence[str]) -> MemoryContext:
        """Return the named memories (ids, or ``MemoryContext.references``) as text, without those that are gone."""
        named = self._layers.chat.live(self._principal, references)
        return context_of(named, self._layers.scheduler, self._count_tokens)

    def get(self, cube_id: str) -> MemCube:
        """Return a memory by id, in any state; of another user's, what was granted, while it is active."""
        self._layers.lifecycle.flush()
        with self._layers.vault.read() as session:
            return found(session.cube(self._reach, cube_id), cube_id)

    def resolve(self, ids: Sequence[str], *, max_tokens: int | None = None) -> Resolution:
        """Return the memories that may enter a prompt now, by their own ids or by those of documents of collections.

        Args:
            ids: Which, the more important first.
            max_tokens: Leave out what does not fit any more.
        """
        layers, counter = self._layers, self._layers.engine
        count = counter.count_tokens if counter else hosted_counter()
        return resolve(layers.vault, layers.governance, self._principal, ids, max_tokens=max_tokens, count_tokens=count)

    def list(
        self,
        *,
        limit: int = 50,
        cursor: str | None = None,
        type: TypeName = "plaintext",
        state: State | str = State.ACTIVE,
        session: str | None = None,
        newest: bool = False,
        include_shared: bool = False,
        filters: Mapping[str, Any] | None = None,
    ) -> Page:
        """Return memories in the order in which they were stored, ``limit`` at a time.

        Args:
            limit: Most cubes of the page.
            cursor: ``page.cursor`` of the page before.
            type: Memory type, or ``any``.
            state: ``active`` (default), ``archived`` or ``expired``.
            session: Only what belongs to this session.
            newest: Begin with what was stored last, and go back.
            include_shared: Also what other users have granted to this one.
            filters: As for ``search``.
        """
        if limit < 1:
            raise InvalidInput("limit must be at least 1")
        where = header_filters(filters, self._layers.lifecycle)
        with self._layers.vault.read() as ledger:
            cubes = ledger.listing(
                self._reach,
                limit=limit + 1,
                after=checked_cursor(cursor),
                types=memory_types(type),
                states=(memory_state(state),),
                now=self._now(),
                belonging=session,
                newest=newest,
                shared=include_shared,
                filters=where,
            )
        more = len(cubes) > limit
        return Page(tuple(cubes[:limit]), cubes[limit - 1].id if more else None)

    def count(
        self,
        *,
        type: TypeName = "plaintext",
        state: State | str = State.ACTIVE,
        include_shared: bool = False,
        filters: Mapping[str, Any] | None = None,
    ) -> int:
        """Return how many memories there are; see ``list`` for the arguments."""
        where = header_filters(filters, self._layers.lifecycle)
        types, states, now = memory_types(type), (memory_state(state),), self._now()
        with self._layers.vault.read() as session:
            return session.count(self._reach, types=types, states=states, now=now, shared=include_shared, filters=where)

    def revision(self) -> str:
        """Return a digest that changes whenever what this scope finds may have changed, as key for a cache."""
        return revision_of(self._layers.vault, self._layers.governance, self._principal)

    def export(self, path: str | os.PathLike[str]) -> int:
        """Write all text memories and items to ``path``, one cube as JSON a line, and return how many.

        The file appears whole or not at all.

        Raises:
            VaultWriteFailed: The disk refused.
        """
        return write_lines(path, (cube.to_json() for cube in self._all()))

    def _all(self) -> Iterator[MemCube]:
        cursor = None
        while True:
            page = self.list(limit=500, cursor=cursor, type="any")
            yield from (cube for cube in page.cubes if cube.type is MemoryType.PLAINTEXT)
            cursor = page.cursor
            if cursor is None:
                return

    def items(self, *, index: ItemIndex | None = None, history: bool = True) -> Items:
        """Return this scope's store of JSON values under keys, which ``search`` and ``chat`` do not look into.

        Args:
            index: How they are searched by meaning; None: not at all.
            history: Keep the earlier versions of what is put again.
        """
        return Items(self._layers.items, ItemHandle(self._principal, index, history), self._layers.emit)

    # Inject

    def transform(
        self,
        cube_id: str | Sequence[str],
        *,
        to: Literal["activation", "parametric", "plaintext", "cartridge"],
        progress: Callable[[int, int], None] | None = None,
    ) -> MemCube:
        """Make another form of a memory (or of several together) and return the derived cube.

        ``to="activation"`` computes the KV cache of the prompt prefix that carries these memories, under an adapter
        that acts on every token if one is named (alone: with the memories that it was made from). ``to="parametric"``
        distils them into a LoRA adapter and examines it. ``to="cartridge"`` trains a few positions of KV that stand for
        all of them. ``to="plaintext"`` reads a KV cache back, or asks an adapter
        what it knows. What did not pass its gates is not stored.
        ``transform_each`` makes a form of each memory alone, ``transform_later`` leaves it to a worker.

        Args:
            progress: Is told how much of how much is done; what it raises ends the work, and nothing is stored.

        Raises:
            EngineMissing: The vault was opened without an engine.
            GateFailed: It is not good enough to serve; the text stays and says what it said.
            InjectionUnavailable: The engine's model does not allow it; the reason is named.
            InvalidInput: There is no such form, or no way to it.
        """
        engine, target = self._layers.chat.engine, target_form(to)
        transforms = self._layers.transforms
        return self.get(transforms.transform(self._principal, engine, as_ids(cube_id), target, progress=progress))

    def transform_each(
        self,
        cube_ids: Sequence[str],
        *,
        to: Literal["activation", "parametric", "plaintext", "cartridge"],
        progress: Callable[[int, int], None] | None = None,
    ) -> builtins.list[MemCube]:
        """``transform`` for each memory alone; ``progress`` counts memories. What is done when one fails stays done."""
        derived = []
        for number, cube_id in enumerate(as_ids(cube_ids), start=1):
            derived.append(self.transform(cube_id, to=to))
            if progress is not None:
                progress(number, len(cube_ids))
        return derived

    @property
    def adapters(self) -> ScopeAdapters:
        """LoRA adapters as files: those of PEFT come in, and parametric memories go out."""
        layers = self._layers
        parts = layers.adapters, layers.transforms, self._principal
        return ScopeAdapters(*parts, engine=lambda: layers.chat.engine, get=self.get)

    def chat(self, messages: Prompt, **options: Unpack[ChatOptions]) -> Reply:
        """Ask the engine's model, with memory. See ``ChatOptions`` for the options.

        Raises:
            EngineMissing: The vault was opened without an engine.
            ContextOverflow: Messages and memory do not fit the model.
            InjectionUnavailable: ``strict=True`` and memory cannot enter as asked.
        """
        call, request = self._prepare(messages, options)
        reply = self._layers.chat.engine.generate(request)
        self._finish(call, request, reply)
        return reply

    def stream(self, messages: Prompt, **options: Unpack[ChatOptions]) -> Iterator[ReplyChunk]:
        """``chat``, piece by piece. The last chunk has empty text and carries the whole ``reply``."""
        call, request = self._prepare(messages, options)
        return self._streamed(call, request)

    def _streamed(self, call: ChatCall, request: EngineRequest) -> Iterator[ReplyChunk]:
        for chunk in self._layers.chat.engine.stream(request):
            if chunk.reply is not None:
                self._finish(call, request, chunk.reply)
            yield chunk

    async def achat(self, messages: Prompt, **options: Unpack[ChatOptions]) -> Reply:
        call, request = await asyncio.to_thread(self._prepare, messages, options)
        reply = await self._layers.chat.engine.agenerate(request)
        await asyncio.to_thread(self._finish, call, request, reply)
        return reply

    async def astream(self, messages: Prompt, **options: Unpack[ChatOptions]) -> AsyncIterator[ReplyChunk]:
        call, request = await asyncio.to_thread(self._prepare, messages, options)
        async for chunk in self._layers.chat.engine.astream(request):
            if chunk.reply is not None:
                await asyncio.to_thread(self._finish, call, request, chunk.reply)
            yield chunk

    def _prepare(self, messages: Prompt, options: ChatOptions) -> tuple[ChatCall, EngineRequest]:
        call = ChatCall(**options)
        return call, self._layers.chat.prepare(self._principal, messages, call)

    def _finish(self, call: ChatCall, request: EngineRequest, reply: Reply) -> None:
        self._layers.chat.finish(self._principal, as_messages(request.messages), reply, remember=call.remember)

    # Async twins

    aadd = in_thread(add)
    aadd_many = in_thread(add_many)
    aforget = in_thread(forget)
    asearch = in_thread(search)
    acontext = in_thread(context)
    acontext_of = in_thread(context_of)
    aget = in_thread(get)
    aresolve = in_thread(resolve)
    alist = in_thread(list)
    acount = in_thread(count)
    aexport = in_thread(export)
    atransform = in_thread(transform)
    atransform_each = in_thread(transform_each)

    # Small things

    @property
    def _reach(self) -> Visibility:
        return self._layers.governance.reach(self._principal)

    @property
    def _count_tokens(self) -> Callable[[str], int]:
        return self._layers.engine.count_tokens if self._layers.engine else hosted_counter()

    def _now(self) -> datetime:
        return self._layers.governance.clock.now()

    def _searched(self, hits: Sequence[Hit]) -> None:
        cube_ids = tuple(hit.cube.id for hit in hits)
        own = [hit.cube.id for hit in hits if not hit.shared]  # reading what others own changes nothing of theirs
        self._layers.lifecycle.count(own, UsageDelta(reads=1, last_used=self._now()))
        self._emit("memory.searched", cube_ids)

    def _emit(self, name: str, cube_ids: tuple[str, ...]) -> None:
        self._layers.emit(Event(name, self._now(), self._principal.namespace, cube_ids, {"count": len(cube_ids)}))
