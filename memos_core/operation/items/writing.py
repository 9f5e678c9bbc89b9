"""Changes to items, within one transaction of the vault."""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from memos_core.cube import Descriptive, Governance, Header, MemCube, MemoryType, PlaintextPayload, Source
from memos_core.embedding.base import Embedder
from memos_core.errors import CubeFrozen, InvalidInput, QuotaReached
from memos_core.ids import UlidFactory
from memos_core.infrastructure.governance import MemGovernance
from memos_core.infrastructure.governance.governance import author_of
from memos_core.infrastructure.vault import NewCube, Passage, WriteSession, items
from memos_core.item import Item, ItemAddress, decoded_value, encoded_value, texts_at
from memos_core.principal import Principal

__all__ = ["ItemTransaction", "ItemWriter", "Removal", "Value", "as_item", "checked_value", "pieces_of"]

KIND = "item"

PART = 100
"""Items that wait to be sent together. The more objects wait, the longer Python searches them for cycles."""


@dataclass(frozen=True, slots=True)
class Value:
    """A value that is to be kept: checked, as JSON, with what of it is searched."""

    path: tuple[str, ...]
    key: str
    text: str
    ttl_seconds: float | None = None
    fields: tuple[str, ...] = ()
    passages: tuple[Passage, ...] = ()


@dataclass(frozen=True, slots=True)
class Removal:
    """An item that is to go."""

    path: tuple[str, ...]
    key: str


class ItemWriter:
    """Writes the items of one principal within one transaction; ``finish`` leaves the trace in the audit.

    Args:
        history: Keep the earlier versions of what is put again.
        collection: Takes the vectors.
    """

    def __init__(
        self,
        session: WriteSession,
        principal: Principal,
        governance: MemGovernance,
        ids: UlidFactory,
        *,
        history: bool,
        collection: str,
    ) -> None:
        self.session = session
        self.principal = principal
        self.governance = governance
        self.ids = ids
        self.history = history
        self.collection = collection
        self.now = session.now
        self.source = Source(session=principal.session)
        self.governed = Governance(owner=principal.user, namespace=principal.namespace, agent=principal.agent)
        self.put_ids: list[str] = []
        self.gone_ids: list[str] = []
        self.derived_ids: list[str] = []

    def apply(self, changes: Sequence[Value | Removal]) -> list[Item | bool]:
        """Make the changes, each of another item, and return what was put, or whether there was something to remove.

        Raises:
            QuotaReached: The values do not fit the namespace any more.
        """
        keys = [items.item_key(self.principal, change.path, change.key) for change in changes]
        stored, lapsed = items.holders(self.session, self.principal, keys, self.now)
        self.erase(lapsed)
        self.check_quota(changes, [stored[key] for key in keys if key in stored])
        pairs = list(zip(changes, keys, strict=True))
        self.erase([stored[key] for change, key in pairs if isinstance(change, Removal) and key in stored])
        done: list[Item | bool] = []
        for change, key in pairs:
            done.append(self.put(change, key, stored.get(key)) if isinstance(change, Value) else key in stored)
            if len(done) % PART == 0:
                self.session.flush()
        return done

    def check_quota(self, changes: Sequence[Value | Removal], replaced: Sequence[str]) -> None:
        """Check that the values fit, counting what goes for them."""
        size = sum(len(change.text.encode()) for change in changes if isinstance(change, Value))
        if size and self.governance.limits.max_bytes is not None:
            freed = 0 if self.history else items.bytes_of(self.session, replaced)
            if reason := self.governance.over_quota(self.session, self.principal.namespace, size - freed):
                raise QuotaReached(reason)

    def put(self, value: Value, key: str, cube_id: str | None) -> Item:
        """Store a value as a new cube, or as the next version of the cube that holds its key."""
        author = author_of(self.principal)
        if cube_id is None:
            cube = self.first_version(value)
            self.session.collect(NewCube(cube, value.passages, key, author, collection=self.collection))
        else:
            before = items.stored_cube(self.session, cube_id)
            if before.header.governance.frozen:
                raise CubeFrozen(cube_id)
            cube = self.next_version(before, value)
            self.session.replace(
                cube, passages=value.passages, dedup_key=key, author=author, reason="put", collection=self.collection
            )
            if not self.history:
                items.forget_versions(self.session, cube)
        self.put_ids.append(cube.id)
        return as_item(cube)

    def first_version(self, value: Value) -> MemCube:
        descriptive = Descriptive(
            id=self.ids.new(self.now),
            type=MemoryType.PLAINTEXT,
            kind=KIND,
            created=self.now,
            updated=self.now,
            source=self.source,
            item=ItemAddress(path=value.path, key=value.key, fields=value.fields),
        )
        governance = self.governed
        if value.ttl_seconds is not None:
            retention = self.governance.retention(value.ttl_seconds, self.now)
            governance = governance.model_copy(update={"retention": retention})
        header = Header(descriptive=descriptive, governance=governance)
        return MemCube(header=header, payload=PlaintextPayload(text=value.text))

    def next_version(self, before: MemCube, value: Value) -> MemCube:
        version = before.version + 1
        was = before.header.descriptive.item
        oldest = was.oldest if was and self.history else version
        address = ItemAddress(path=value.path, key=value.key, fields=value.fields, oldest=oldest)
        descriptive = before.header.descriptive.model_copy(update={"updated": self.now, "item": address})
        retention = self.governance.retention(value.ttl_seconds, self.now)
        governance = before.header.governance.model_copy(update={"retention": retention})
        header = before.header.model_copy(update={"descriptive": descriptive, "governance": governance})
        return before.model_copy(
            update={"header": header, "payload": PlaintextPayload(text=value.text), "version": version}
        )

    def erase(self, cube_ids: Sequence[str]) -> None:
        """Delete items, all their versions and what was made from them."""
        if cube_ids:
            gone = items.erase_items(self.session, self.principal, cube_ids)
            self.gone_ids += gone.cube_ids
            self.derived_ids += gone.derived_ids

    def finish(self) -> None:
        """Tell the audit what was done."""
        for action, cube_ids in (("forget", self.gone_ids), ("put", self.put_ids)):
            if cube_ids:
                self.governance.audit(self.session, self.principal, action, list(dict.fromkeys(cube_ids)))


class ItemTransaction:
    """Reads and changes of items that are one: nobody writes in between, and all of it happens or none.

    Made by ``Items.transaction``. What it reads includes what it has changed. Puts are not searched by meaning.
    """

    def __init__(self, writer: ItemWriter) -> None:
        self._writer = writer

    def list(self, path: Sequence[str]) -> builtins.list[Item]:
        """Return the items at exactly ``path``, in the order in which they were first put."""
        writer = self._writer
        within = items.below(writer.principal, path, writer.now)
        return [item for item in items.items(writer.session, within) if item.path == tuple(path)]

    def put(self, path: Sequence[str], key: str, value: JsonValue, *, ttl_seconds: float | None = None) -> Item:
        """Keep ``value`` under ``key``.

        Raises:
            InvalidInput: The path, the key, the value or the time to live cannot be kept.
            QuotaReached: The namespace is full.
        """
        checked = checked_value(self._writer.governance, path, key, value, ttl_seconds)
        (put,) = self._writer.apply([checked])
        assert isinstance(put, Item)
        return put

    def get(self, path: Sequence[str], key: str) -> Item | None:
        """Return the item, or None if there is none."""
        writer = self._writer
        return items.by_key(writer.session, writer.principal, path, key, writer.now)

    def put_all(self, path: Sequence[str], values: Mapping[str, JsonValue]) -> None:
        """Keep many values at ``path``, each under its key."""
        governance = self._writer.governance
        self._writer.apply([checked_value(governance, path, key, value, None) for key, value in values.items()])

    def append(self, path: Sequence[str], values: Sequence[JsonValue]) -> builtins.list[Item]:
        """Keep ``values`` at ``path``, in order after all that is there, under new keys."""
        writer = self._writer
        new = [checked_value(writer.governance, path, writer.ids.new(writer.now), value, None) for value in values]
        return [item for item in writer.apply(new) if isinstance(item, Item)]

    def delete(self, path: Sequence[str], *keys: str) -> int:
        """Let go of items and return how many there were."""
        return sum(map(bool, self._writer.apply([Removal(tuple(path), key) for key in dict.fromkeys(keys)])))


def checked_value(
    governance: MemGovernance,
    path: Sequence[str],
    key: str,
    value: object,
    ttl_seconds: float | None,
    *,
    fields: Sequence[str] = (),
) -> Value:
    """Return a value that may be kept.

    Raises:
        InvalidInput: It may not.
    """
    text = encoded_value(value)
    governance.check_item(path, key, text)
    if ttl_seconds is not None:
        governance.retention(ttl_seconds, governance.clock.now())
    return Value(tuple(path), key, text, ttl_seconds, tuple(fields))


def pieces_of(value: JsonValue, fields: Sequence[str], embedder: Embedder | None) -> tuple[str, ...]:
    """Return the parts of a value that get a vector each: its fields, cut where they exceed the embedder's window.

    Raises:
        InvalidInput: A field is malformed.
    """
    texts = [text for field in fields for text in texts_at(value, field) if text.strip()]
    if embedder is None:
        return ()
    return tuple(dict.fromkeys(text[start:end] for text in texts for start, end in embedder.passages(text)))


def as_item(cube: MemCube) -> Item:
    """Return the item that a cube holds."""
    what = cube.header.descriptive
    if what.item is None:
        raise InvalidInput(f"memory {cube.id} is no item")
    return Item(
        path=what.item.path,
        key=what.item.key,
        value=decoded_value(cube.text),
        created=what.created,
        updated=what.updated,
        expires_at=cube.header.governance.retention.expires_at,
        cube_id=cube.id,
        version=cube.version,
    )
