"""What one reviewer has before them: which items wait, in which order, and what they may see of others' decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.benchmark_building.records import BenchmarkTask, Item
from pipelines.benchmark_building.review.decisions import Decision
from pipelines.benchmark_building.review.outcomes import Outcome, State

__all__ = ["Desk", "review_order"]


def review_order(items: Sequence[Item]) -> tuple[Item, ...]:
    """Items by task, each task in the order of its drafts: who reviews stays with one kind of question."""
    tasks = list(BenchmarkTask)
    return tuple(sorted(items, key=lambda item: tasks.index(item.task)))


@dataclass(frozen=True, slots=True)
class Desk:
    """The items before one reviewer.

    Attributes:
        items: in order.
        found: where each stands.
        reviewer: the reviewer's key.
        reviewers_per_item: how many have to decide.
    """

    items: Sequence[Item]
    found: Mapping[str, Outcome]
    reviewer: str
    reviewers_per_item: int

    def own(self, item_id: str) -> Decision | None:
        """The reviewer's own decision that stands."""
        return self.found[item_id].decisions.get(self.reviewer)

    def others(self, item_id: str) -> list[Decision]:
        """Decisions of others, once they can't influence the reviewer's first look: after it, or in a dispute."""
        outcome = self.found[item_id]
        if self.own(item_id) is None and outcome.state is not State.DISPUTED:
            return []
        return [decision for key, decision in sorted(outcome.decisions.items()) if key != self.reviewer]

    def is_open(self, item_id: str) -> bool:
        """Whether it waits for this reviewer: a first look that is still wanted, or a third one."""
        outcome = self.found[item_id]
        return self.own(item_id) is None and outcome.state in (State.OPEN, State.DISPUTED)

    def place(self, item_id: str) -> int:
        """Place of an item; raises ValueError."""
        return [item.item_id for item in self.items].index(item_id)

    def next_open(self, after: int = -1) -> Item | None:
        """The first open item behind a place, else from the beginning; None if nothing waits."""
        ordered = [*self.items[after + 1 :], *self.items[: after + 1]]
        return next((item for item in ordered if self.is_open(item.item_id)), None)

    @property
    def num_decided(self) -> int:
        """Items that the reviewer has decided on."""
        return sum(self.own(item.item_id) is not None for item in self.items)

    @property
    def num_open(self) -> int:
        """Items that wait for the reviewer."""
        return sum(self.is_open(item.item_id) for item in self.items)
