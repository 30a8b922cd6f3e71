"""What the templates of the review show: plain values, made from items, decisions and outcomes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.benchmark_building.drafts import Drafts
from pipelines.benchmark_building.records import BenchmarkTask, Code, Finding, Item, Texts
from pipelines.benchmark_building.review.decisions import Decision, Verdict
from pipelines.benchmark_building.review.outcomes import Outcome, State
from pipelines.benchmark_building.review.queue import Desk

__all__ = ["FINDING_WORDS", "TASK_WORDS", "Cell", "ReviewerRow", "TaskRow", "cells", "reviewers", "set_aside", "tasks"]

TASK_WORDS: Mapping[BenchmarkTask, tuple[str, str]] = {
    BenchmarkTask.DETAILED_CAPTION: (
        "Detailed caption",
        "Does the caption say what is seen in the yellow region, all of it right, in detail?",
    ),
    BenchmarkTask.MULTIPLE_CHOICE: (
        "Multiple choice",
        "Is the marked option right for the yellow region, and every other one wrong?",
    ),
    BenchmarkTask.VISUAL_TEXT_REFERRING: (
        "Visual-text referring",
        "Does the expression lead from the yellow region to the green one, and to nothing else in the picture?",
    ),
}
"""Title of a task, and the question that its reviewer answers."""

FINDING_WORDS: Mapping[Code, str] = {code: code.value.replace("_", " ") for code in Code}


@dataclass(frozen=True, slots=True)
class TaskRow:
    """Counts of one task."""

    title: str
    num: int
    by_state: Mapping[str, int]
    num_set_aside: int


@dataclass(frozen=True, slots=True)
class ReviewerRow:
    """Counts of one reviewer's decisions that stand."""

    name: str
    by_verdict: Mapping[str, int]

    @property
    def num(self) -> int:
        """All of them."""
        return sum(self.by_verdict.values())


@dataclass(frozen=True, slots=True)
class Cell:
    """One item in the map of all."""

    item_id: str
    number: int
    task: str
    state: str
    is_own: bool
    is_open: bool
    text: str

    @property
    def label(self) -> str:
        """For those who hear the page."""
        yours = "waits for you" if self.is_open else "decided by you" if self.is_own else "needs nothing from you"
        return f"Item {self.number}, {self.task}: {self.state}, {yours}"


def tasks(drafts: Drafts, found: Mapping[str, Outcome]) -> list[TaskRow]:
    """Counts by task."""
    rows: list[TaskRow] = []
    for task in BenchmarkTask:
        own = [item for item in drafts.items if item.task is task]
        if own:
            passing = [item for item in own if item.passes]
            states = Counter(found[item.item_id].state.value for item in passing)
            by_state = {state.value: states[state.value] for state in State}
            rows.append(TaskRow(TASK_WORDS[task][0], len(passing), by_state, len(own) - len(passing)))
    return rows


def reviewers(found: Mapping[str, Outcome]) -> list[ReviewerRow]:
    """Counts by reviewer, in order of their names."""
    names: dict[str, str] = {}
    counts: dict[str, Counter[str]] = {}
    for outcome in found.values():
        for key, decision in outcome.decisions.items():
            names[key] = decision.reviewer
            counts.setdefault(key, Counter())[decision.verdict.value] += 1
    verdicts = [verdict.value for verdict in Verdict if verdict is not Verdict.UNDONE]
    return [
        ReviewerRow(names[key], {verdict: counts[key][verdict] for verdict in verdicts})
        for key in sorted(counts, key=lambda key: (names[key].casefold(), key))
    ]


def cells(desk: Desk) -> list[Cell]:
    """The map of all items before a reviewer."""
    return [
        Cell(
            item.item_id,
            number,
            TASK_WORDS[item.task][0],
            # Whether others have decided would colour a first look as little as it can: accepted and rejected are shown
            # once they are settled, which needs no further look.
            desk.found[item.item_id].state.value,
            desk.own(item.item_id) is not None,
            desk.is_open(item.item_id),
            item.texts.caption or item.texts.question,
        )
        for number, item in enumerate(desk.items, 1)
    ]


def set_aside(drafts: Drafts) -> list[tuple[str, list[tuple[Item, Finding]]]]:
    """Items that a check objects to, by what it is."""
    groups: dict[Code, list[tuple[Item, Finding]]] = {}
    for item in drafts.items:
        for finding in item.findings:
            if not item.passes and not finding.code.is_note:
                groups.setdefault(finding.code, []).append((item, finding))
    return [(FINDING_WORDS[code], groups[code]) for code in sorted(groups)]


def texts_before(item: Item, desk: Desk) -> Texts:
    """The texts in the fields: those that the reviewer accepted, else the draft's."""
    own: Decision | None = desk.own(item.item_id)
    return item.texts if own is None or own.texts is None else own.texts


def lines_of(item: Item, texts: Texts) -> Sequence[str]:
    """Texts in lines, for a decision of somebody else."""
    if item.task is BenchmarkTask.DETAILED_CAPTION:
        return [texts.caption]
    if item.task is BenchmarkTask.MULTIPLE_CHOICE:
        marks = [("✓ " if place == texts.right else "") + option for place, option in enumerate(texts.options)]
        return [texts.question, *marks]
    return [texts.question, texts.answer]
