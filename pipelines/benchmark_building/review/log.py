"""The log of decisions in the store: an object per act, create-only, below each reviewer's own prefix.

    decisions/<reviewer>/<number>.json

A server that is killed loses nothing that it confirmed, and several people or servers can work at once: two acts of one
reviewer that want the same number are told apart by the create-only write, and the later one takes the next number.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from pydantic import ValidationError

from pipelines.benchmark_building.records import Finding, Texts
from pipelines.benchmark_building.review.decisions import (
    Decision,
    Verdict,
    clean_name,
    last_undoable,
    reviewer_key,
)
from storage.errors import CorruptObject
from storage.objects import Objects

__all__ = ["PREFIX", "DecisionLog"]

PREFIX = "decisions"
"""Below the drafts."""
_NUM_READ_AT_ONCE = 16
_DIGITS = 6


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class DecisionLog:
    """All decisions on some drafts. Safe to use from several threads.

    Args:
        drafts: their prefix.
        now: tells the moment that decisions are stamped with.
    """

    def __init__(self, drafts: Objects, now: Callable[[], str] = _now) -> None:
        self._objects = drafts
        self._now = now
        self._known: dict[str, Decision] = {}
        self._lock = threading.Lock()

    def refresh(self) -> None:
        """Reads what others have decided since the last time; what is known already isn't read again.

        Raises:
            CorruptObject: something that is no decision lies there.
        """
        with self._lock:
            new = [info.key for info in self._objects.list(PREFIX) if info.key not in self._known]
            if not new:
                return
            with ThreadPoolExecutor(min(_NUM_READ_AT_ONCE, len(new)), thread_name_prefix="decisions") as pool:
                self._known.update(zip(new, pool.map(self._read, new), strict=True))

    def by_reviewer(self) -> Mapping[str, Sequence[Decision]]:
        """Acts in their order by reviewer's key, as known by the last `refresh`."""
        with self._lock:
            acts: dict[str, list[Decision]] = {}
            for key in sorted(self._known):
                acts.setdefault(key.split("/")[1], []).append(self._known[key])
            return acts

    def decide(
        self,
        reviewer: str,
        item_id: str,
        verdict: Verdict,
        texts: Texts | None = None,
        reason: str = "",
        despite: Sequence[Finding] = (),
    ) -> Decision:
        """Keeps a decision; when this returns, it is in the store.

        Raises:
            InfrastructureError: it couldn't be written.
        """
        return self._append(
            Decision(
                reviewer=clean_name(reviewer),
                number=0,
                item_id=item_id,
                verdict=verdict,
                texts=texts,
                reason=reason,
                despite=tuple(despite),
                decided_at=self._now(),
            )
        )

    def undo(self, reviewer: str) -> Decision | None:
        """Takes back the reviewer's latest decision, and returns it; None if there is none."""
        self.refresh()
        last = last_undoable(self.by_reviewer().get(reviewer_key(reviewer), []))
        if last is None:
            return None
        self._append(
            Decision(
                reviewer=clean_name(reviewer),
                number=0,
                item_id=last.item_id,
                verdict=Verdict.UNDONE,
                undoes=last.number,
                decided_at=self._now(),
            )
        )
        return last

    def _append(self, decision: Decision) -> Decision:
        own = f"{PREFIX}/{reviewer_key(decision.reviewer)}"
        with self._lock:
            number = sum(key.startswith(f"{own}/") for key in self._known)
            while True:
                numbered = decision.model_copy(update={"number": number})
                key = f"{own}/{number:0{_DIGITS}d}.json"
                if self._objects.create(key, numbered.model_dump_json().encode()):
                    self._known[key] = numbered
                    return numbered
                number += 1

    def _read(self, key: str) -> Decision:
        try:
            decision = Decision.model_validate_json(self._objects.read(key))
        except ValidationError as error:
            first = error.errors()[0]
            raise CorruptObject(
                f"{self._objects.url}/{key}: expected a decision, got {'.'.join(map(str, first['loc']))}: "
                f"{first['msg']}; move it away"
            ) from error
        if key != f"{PREFIX}/{reviewer_key(decision.reviewer)}/{decision.number:0{_DIGITS}d}.json":
            raise CorruptObject(f"{self._objects.url}/{key}: names another reviewer or number; move it away")
        return decision
