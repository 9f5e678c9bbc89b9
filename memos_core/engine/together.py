"""One token of several requests at once. A step that can be taken so is handed to the scheduling thread, which waits
until every request under way had its turn and then takes all such steps as one batch."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from transformers import DynamicCache

from memos_core.engine.kv.ragged import step
from memos_core.engine.kv.shared import SharedPrefixCache
from memos_core.engine.lora.plan import LoRAPlan, applied
from memos_core.errors import UnsupportedOption

if TYPE_CHECKING:
    from memos_core.engine.generate import Session

__all__ = ["NextToken", "joinable"]

FAILURES = (RuntimeError, UnsupportedOption)
"""What ends a step for the row that it happens to and for no other: no memory, or an adapter that cannot act there."""


def joinable(session: Session) -> bool:
    """Tell whether the session's steps can be taken together with others'."""
    cached = type(session.cache) in {SharedPrefixCache, DynamicCache}
    return cached and session.loaded.batch_refusal is None


class NextToken:
    """The step by which a session takes in its newest token.

    Attributes:
        piece: Text to deliver meanwhile.
        key: Steps of equal keys may be taken together: those of one model, whatever their adapters.
        error: What went wrong in the step, for the one request that it belongs to.
    """

    def __init__(self, piece: str, session: Session, token_id: int) -> None:
        self.piece = piece
        self.session = session
        self.token_id = token_id
        self.key: Hashable = id(session.loaded)
        self.error: Exception | None = None

    def take(self, steps: Sequence[NextToken]) -> None:
        """Take this step and the others of ``steps``, which it is one of, as one batch.

        A batch that fails, as one may for want of memory or where a model joins rows that adapters tell apart, is taken
        apart, and each step is taken alone.
        """
        if len(steps) == 1:
            self._alone()
            return
        caches = [each.session.join() for each in steps]
        lengths = [cache.get_seq_length() for cache in caches]
        try:
            # Every session is past the position from which its adapters act, so the furthest one speaks for all.
            with applied(shared_plan(steps), max(lengths), 1):
                logits = step(self.session.model, caches, [each.token_id for each in steps])
        except FAILURES:
            for each, cache, length in zip(steps, caches, lengths, strict=True):
                cache.crop_to(length)
                each._alone()
            return
        for each, row in zip(steps, logits, strict=True):
            each.session.token_ids.append(each.token_id)
            each.session.logits = row

    def _alone(self) -> None:
        try:
            self.session.feed([self.token_id])
        except FAILURES as error:
            self.error = error


def shared_plan(steps: Sequence[NextToken]) -> LoRAPlan | None:
    """Return the plan under which all of ``steps`` are taken: a row for each of them where their adapters differ."""
    first = steps[0].session
    plans = [each.session.lora for each in steps]
    identities = tuple(plan and plan.identity for plan in plans)
    if len(set(identities)) == 1:
        return first.lora
    # Joining the matrices takes about as long as a few tokens, so that is done when a request joins or leaves, and the
    # request that stands first holds the result: it goes with it, and no adapter outlives the requests under it.
    if first.batch_plan is None or first.batch_plan[0] != identities:
        first.batch_plan = identities, LoRAPlan([() if plan is None else plan.rows[0] for plan in plans])
    return first.batch_plan[1]
