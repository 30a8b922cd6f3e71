"""What follows from the decisions on an item, and how far two reviewers agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations

from pipelines.benchmark_building.records import Texts
from pipelines.benchmark_building.review.decisions import Decision, Verdict, standing

__all__ = ["REVIEWERS_PER_ITEM", "Agreement", "Outcome", "State", "agreement", "cohens_kappa", "outcome", "outcomes"]

REVIEWERS_PER_ITEM = 2
"""By default."""


class State(StrEnum):
    """Where an item stands."""

    OPEN = "open"
    """Fewer decisions than there have to be."""
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    DISPUTED = "disputed"
    """As many decisions as there have to be, which differ: a third look is needed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where an item stands, and on what.

    Attributes:
        state: of the item.
        texts: those that are accepted, if it is.
        decisions: that stand, by reviewer's key.
    """

    state: State
    texts: Texts | None
    decisions: Mapping[str, Decision]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far decisions on the same items are equal.

    Attributes:
        num_pairs: pairs of decisions of two reviewers on one item.
        equal_share: share of the pairs that are equal, edits with their texts; None without a pair.
        kappa: Cohen's, on accepted, edited and rejected; None where it isn't defined, see `cohens_kappa`.
        num_reviewers: who decided anything.
    """

    num_pairs: int
    equal_share: float | None
    kappa: float | None
    num_reviewers: int


def outcome(decisions: Mapping[str, Decision], reviewers_per_item: int = REVIEWERS_PER_ITEM) -> Outcome:
    """Where an item stands.

    It is settled when as many reviewers as there have to be have decided and all say the same, edits with the same
    texts. If they differ, whoever looks after them decides: the answer that most give counts; while there is no such
    one, the item stays disputed.

    Args:
        decisions: that stand, by reviewer's key.
        reviewers_per_item: how many have to decide.
    """
    if len(decisions) < reviewers_per_item:
        return Outcome(State.OPEN, None, decisions)
    votes = Counter(_answer(decision) for decision in decisions.values())
    (best, most), *rest = votes.most_common()
    if rest and (rest[0][1] == most or len(decisions) == reviewers_per_item):
        return Outcome(State.DISPUTED, None, decisions)
    return Outcome(State.REJECTED if best is None else State.ACCEPTED, best, decisions)


def outcomes(
    acts: Mapping[str, Sequence[Decision]], item_ids: Iterable[str], reviewers_per_item: int = REVIEWERS_PER_ITEM
) -> dict[str, Outcome]:
    """Where each item stands, after all acts by reviewer's key."""
    by_item: dict[str, dict[str, Decision]] = {item_id: {} for item_id in item_ids}
    for reviewer, own in acts.items():
        for item_id, decision in standing(own).items():
            if item_id in by_item:
                by_item[item_id][reviewer] = decision
    return {item_id: outcome(decisions, reviewers_per_item) for item_id, decisions in by_item.items()}


def agreement(found: Iterable[Outcome]) -> Agreement:
    """How far reviewers agree, over each pair of decisions on one item; of two reviewers, each item is one pair.

    Reviewers don't see each other's decisions before their own, but for a third look, which isn't counted: of each item
    the pair of the first two reviewers counts.
    """
    pairs: list[tuple[Decision, Decision]] = []
    reviewers: set[str] = set()
    for item in found:
        reviewers.update(item.decisions)
        earliest = sorted(item.decisions.items(), key=lambda entry: (entry[1].decided_at, entry[0]))[
            :REVIEWERS_PER_ITEM
        ]
        # In order of the reviewers' names, so that the two sides of kappa are people where there are two.
        pairs += combinations([decision for _, decision in sorted(earliest)], 2)
    if not pairs:
        return Agreement(0, None, None, len(reviewers))
    equal = sum(_label(first) == _label(second) for first, second in pairs)
    kappa = cohens_kappa([(first.verdict.value, second.verdict.value) for first, second in pairs])
    return Agreement(len(pairs), equal / len(pairs), kappa, len(reviewers))


def cohens_kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Cohen's kappa of pairs of labels: agreement beyond what chance gives with the same shares of labels.

    Returns:
        None without a pair, or where both sides give one label alone: then chance explains everything.

    >>> cohens_kappa([("a", "a"), ("a", "a"), ("b", "b"), ("b", "a")])
    0.5
    """
    if not pairs:
        return None
    first, second = Counter(left for left, _ in pairs), Counter(right for _, right in pairs)
    observed = sum(left == right for left, right in pairs) / len(pairs)
    expected = sum(first[label] * second[label] for label in first) / len(pairs) ** 2
    return None if expected == 1 else (observed - expected) / (1 - expected)


def _answer(decision: Decision) -> Texts | None:
    """What a decision wants to be exported; None: nothing."""
    return decision.texts if decision.verdict in (Verdict.ACCEPTED, Verdict.EDITED) else None


def _label(decision: Decision) -> tuple[Verdict, Texts | None]:
    return decision.verdict, _answer(decision)
