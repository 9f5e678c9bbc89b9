"""Superseding: what a new claim contradicts ceases to hold. It stays, can be seen as of then, and can be reinstated."""

from __future__ import annotations

from memos_core.cube import Link, MemCube, State, Trust
from memos_core.errors import InvalidInput
from memos_core.infrastructure.governance import MemGovernance
from memos_core.infrastructure.governance.governance import author_of
from memos_core.infrastructure.vault import WriteSession
from memos_core.infrastructure.vault.conditions import SUPERSEDED_BY
from memos_core.operation.claims import claim_of
from memos_core.operation.finding.words import words
from memos_core.principal import Principal
from memos_core.records import MemoryCall

__all__ = ["contradicted", "reinstated", "supersede"]

RANK = {Trust.UNTRUSTED: 0, Trust.NORMAL: 1, Trust.VERIFIED: 2}


def contradicted(
    session: WriteSession, governance: MemGovernance, principal: Principal, cube: MemCube
) -> list[MemCube]:
    """Return the memories that hold now and that ``cube`` contradicts by subject and relation.

    Not those that were said later, are trusted more, are frozen, or are bound to another agent. What an assistant said
    contradicts nothing.
    """
    claim = claim_of(cube)
    if claim is None or cube.header.descriptive.source.role == "assistant":
        return []
    seen = governance.search_filter(principal, MemoryCall(query="*"))
    near = {match.cube_id for match in session.word_matches(seen, list(words(claim.relation)))}
    near |= {match.cube_id for match in session.word_matches(seen, [*words("live moved work years")])}
    found = []
    for other in session.cubes(seen, sorted(near)):
        theirs = claim_of(other)
        if theirs is not None and claim.contradicts(theirs) and may_end(other, cube):
            found.append(other)
    return found


def may_end(other: MemCube, cube: MemCube) -> bool:
    mine, theirs = cube.header.governance, other.header.governance
    older = (other.at or other.created) <= (cube.at or cube.created)
    return older and not theirs.frozen and RANK[theirs.trust] <= RANK[mine.trust] and theirs.agent == mine.agent


def supersede(session: WriteSession, principal: Principal, old: MemCube, new: MemCube) -> None:
    """Let ``old`` hold until ``new`` was said, with a link to it. Its text may be said anew as another memory."""
    descriptive = old.header.descriptive
    links = (*descriptive.links, Link(target=new.id, relation=SUPERSEDED_BY))
    until = max(new.at or new.created, descriptive.valid_from or (new.at or new.created))
    changed = descriptive.model_copy(update={"valid_until": until, "links": links})
    ended = old.model_copy(update={"header": old.header.model_copy(update={"descriptive": changed})})
    session.set_header(ended, author=author_of(principal), reason=f"superseded by {new.id}")
    session.give_up_key(old.id)


def reinstated(cube: MemCube) -> MemCube:
    """Return a superseded memory as it was before.

    Raises:
        InvalidInput: It was not superseded.
    """
    descriptive = cube.header.descriptive
    kept = tuple(link for link in descriptive.links if link.relation != SUPERSEDED_BY)
    if len(kept) == len(descriptive.links) or cube.state is not State.ACTIVE:
        raise InvalidInput(f"memory {cube.id} was not superseded")
    changed = descriptive.model_copy(update={"valid_until": None, "links": kept})
    return cube.model_copy(update={"header": cube.header.model_copy(update={"descriptive": changed})})
