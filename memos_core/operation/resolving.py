"""From ids that a caller holds to the memories behind them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from memos_core.cube import MemCube
from memos_core.infrastructure.governance import MemGovernance
from memos_core.infrastructure.vault import MemVault, ReadSession, SearchFilter, collections
from memos_core.operation.scheduler import line_tokens
from memos_core.principal import Principal
from memos_core.records import MemoryCall
from memos_core.render import NOTES_V1

__all__ = ["Resolution", "resolve"]


@dataclass(frozen=True, slots=True)
class Resolution:
    """What ids stand for.

    Attributes:
        memories: Id, as it was given, to the memory, in the order given.
        left_out: Id to the reason why there is none.
        over_budget: Those of the latter whose memory only does not fit any more.
        tokens: What the memories take in a prompt, with their heading.
    """

    memories: Mapping[str, MemCube]
    left_out: Mapping[str, str]
    over_budget: frozenset[str]
    tokens: int


def resolve(
    vault: MemVault,
    governance: MemGovernance,
    principal: Principal,
    ids: Sequence[str],
    *,
    max_tokens: int | None,
    count_tokens: Callable[[str], int],
) -> Resolution:
    """Return the text memories that may be used now; see ``Scope.resolve``."""
    wanted = list(dict.fromkeys(ids))
    own = governance.search_filter(principal, MemoryCall(query="*"))
    seen = governance.search_filter(principal, MemoryCall(query="*"), granted=True)
    with vault.read() as session:
        found = {**documents(session, own, wanted), **memories(session, seen, wanted)}
    chosen = Chosen(max_tokens, count_tokens)
    for name in wanted:
        chosen.take(name, found.get(name))
    return Resolution(chosen.kept, chosen.left_out, frozenset(chosen.over_budget), chosen.tokens)


@dataclass
class Chosen:
    """Memories taken one after the other, as long as they fit."""

    max_tokens: int | None
    count_tokens: Callable[[str], int]
    kept: dict[str, MemCube] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    over_budget: list[str] = field(default_factory=list)
    tokens: int = 0

    def take(self, name: str, cube: MemCube | None) -> None:
        if cube is None:
            self.left_out[name] = "no memory or single document of this id may be used here"
            return
        heading = 0 if self.kept else self.count_tokens(NOTES_V1.heading)
        tokens = heading + line_tokens(cube, self.count_tokens)
        if self.max_tokens is not None and self.tokens + tokens > self.max_tokens:
            self.over_budget.append(name)
            left = max(0, self.max_tokens - self.tokens)
            self.left_out[name] = f"it takes {tokens} tokens, and {left} of {self.max_tokens} are left"
            return
        self.tokens += tokens
        self.kept[name] = cube


def memories(session: ReadSession, seen: SearchFilter, ids: Sequence[str]) -> dict[str, MemCube]:
    """Return the live text cubes of these ids, documents of any collection among them."""
    held = {cube.header.descriptive.collection for cube in session.cubes(seen.visibility, ids)}
    live = [cube for name in held for cube in session.cubes(collections.within(seen, name), ids)]
    return {cube.id: cube for cube in live}


def documents(session: ReadSession, seen: SearchFilter, ids: Sequence[str]) -> dict[str, MemCube]:
    """Return the documents of these ids in any collection within reach; none for an id that several have."""
    found: dict[str, list[MemCube]] = {}
    for name in collections.names(session, seen.visibility):
        for document_id, cube in collections.by_ids(session, collections.within(seen, name), ids).items():
            found.setdefault(document_id, []).append(cube)
    return {document_id: cubes[0] for document_id, cubes in found.items() if len(cubes) == 1}
