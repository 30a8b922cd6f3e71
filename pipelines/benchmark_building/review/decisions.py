"""Decisions of reviewers as records, and what stands after all of one reviewer's: nothing is ever overwritten."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from enum import StrEnum

from pydantic import Field, field_validator

from pipelines.benchmark_building.records import Finding, Record, Texts

__all__ = ["Decision", "Verdict", "clean_name", "last_undoable", "reviewer_key", "standing"]

_MAX_NAME = 60
_MAX_REASON = 500


class Verdict(StrEnum):
    """What a reviewer says of an item."""

    ACCEPTED = "accepted"
    EDITED = "edited"
    """Accepted with other texts than the draft's."""
    REJECTED = "rejected"
    UNDONE = "undone"
    """Takes back the decision that `undoes` names."""


class Decision(Record):
    """One act of one reviewer."""

    reviewer: str
    """The name that the reviewer gave."""
    number: int = Field(ge=0)
    """Place in the reviewer's sequence of acts."""
    item_id: str
    verdict: Verdict
    texts: Texts | None = None
    """Texts as they are accepted; None if rejected or undone."""
    reason: str = Field(default="", max_length=_MAX_REASON)
    """Why it was rejected, if said."""
    despite: tuple[Finding, ...] = ()
    """What the checks object to in texts that are accepted all the same."""
    undoes: int | None = None
    """Number of the decision that is taken back."""
    decided_at: str
    """Moment in UTC, ISO 8601, by the reviewing machine's clock; nothing depends on it."""

    @field_validator("reviewer")
    @classmethod
    def _is_clean(cls, name: str) -> str:
        return clean_name(name)


def clean_name(name: str) -> str:
    """A reviewer's name: white space collapsed.

    Raises:
        ValueError: empty, too long, or with characters that can't be shown.

    >>> clean_name("  Ada   Lovelace ")
    'Ada Lovelace'
    """
    cleaned = " ".join(name.split())
    if not cleaned or len(cleaned) > _MAX_NAME or not cleaned.isprintable():
        raise ValueError(f"name: expected 1 to {_MAX_NAME} characters that can be shown, got {ascii(name)[:80]}")
    return cleaned


def reviewer_key(name: str) -> str:
    """What stands for a reviewer in the store: the same for any case of the letters, and safe in a path.

    >>> reviewer_key("Ada Lovelace") == reviewer_key("ada lovelace")
    True
    """
    folded = clean_name(name).casefold()
    readable = re.sub(r"[^a-z0-9]+", "-", folded).strip("-")[:24]
    return f"{readable or 'reviewer'}-{hashlib.sha256(folded.encode()).hexdigest()[:10]}"


def standing(decisions: Iterable[Decision]) -> dict[str, Decision]:
    """The decision that counts for each item, after one reviewer's acts in their order.

    What was taken back uncovers the decision before it.
    """
    stacks: dict[str, list[Decision]] = {}
    for decision in decisions:
        stack = stacks.setdefault(decision.item_id, [])
        if decision.verdict is Verdict.UNDONE:
            stacks[decision.item_id] = [kept for kept in stack if kept.number != decision.undoes]
        else:
            stack.append(decision)
    return {item_id: stack[-1] for item_id, stack in stacks.items() if stack}


def last_undoable(decisions: Sequence[Decision]) -> Decision | None:
    """The latest of one reviewer's decisions that isn't taken back yet."""
    gone = {decision.undoes for decision in decisions if decision.verdict is Verdict.UNDONE}
    for decision in reversed(decisions):
        if decision.verdict is not Verdict.UNDONE and decision.number not in gone:
            return decision
    return None
