"""The table of an evaluation: one's own scores with intervals, published ones beside them, leakage in the header."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from pipelines.evaluation.published import PublishedScore, published_scores
from pipelines.evaluation.records import Score, Variant
from storage.keys import Json

__all__ = ["SHEET_NAME", "Line", "PublishedAs", "Sheet", "leakage_status", "score_sheet"]

SHEET_NAME = "scores.txt"
"""Where an evaluation keeps the table as a terminal shows it."""
PUBLISHED_MARK = "published, not measured"
"""What stands beside every number that isn't ours."""
_OWN = "this student"
_VARIANTS = {
    Variant.SWAPPED: "expressions swapped",
    Variant.MOVED: "prompt moved",
    Variant.UNTRAINED: "untrained student",
}
_HEAD = ("benchmark", "metric", "system", "value", "interval", "samples", "source")
_CSV_HEAD = (
    *("benchmark", "variant", "family", "task", "split", "metric", "system", "value", "low", "high"),
    *("num_samples", "num_images", "measured", "source"),
)

PublishedAs = Mapping[str, Mapping[str, tuple[str, str, str]]]
"""For a benchmark and a score of it: benchmark, split and metric of the published rows that stand beside it."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table: a score of ours, or a published one."""

    score: Score
    published: PublishedScore | None = None
    """The published number that stands beside `score`; None: the line is `score` itself."""

    @property
    def cells(self) -> tuple[str, ...]:
        """The line as people read it, scores of 0 to 1 in percent (CIDEr as it is)."""
        if self.published is not None:
            value = cast(float, self.published.value)
            size = "" if self.published.llm_size == "-" else f" {self.published.llm_size}"
            system = f"{self.published.model}{size}"
            return (
                "",
                "",
                system,
                _shown(value, self.score.metric),
                "",
                "",
                f"{PUBLISHED_MARK}: {self.published.source}",
            )
        score = self.score
        group = "" if score.overall else f" [{score.family} {score.task} {score.split}]"
        system = _VARIANTS.get(score.variant, _OWN)
        interval = f"{_shown(score.low, score.metric)} to {_shown(score.high, score.metric)}"
        value = _shown(score.value, score.metric)
        return score.benchmark + group, score.metric, system, value, interval, f"{score.num_samples:,}", "measured"


@dataclass(frozen=True, slots=True)
class Sheet:
    """The whole table.

    Attributes:
        header: what has to be known first: leakage, and what numbers mean.
        lines: each score, the published ones of the same benchmark and metric below it.
    """

    header: tuple[str, ...]
    lines: tuple[Line, ...]

    def text(self) -> str:
        """For a terminal: columns padded with blanks."""
        rows = [_HEAD, *(line.cells for line in self.lines)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
        right = {3, 5}
        padded = [
            "  ".join(
                cell.rjust(width) if column in right else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        return "\n".join([*self.header, "", *padded])

    def markdown(self) -> str:
        """As a Markdown document."""
        rows = [_HEAD, ("---", "---", "---", "---:", "---", "---:", "---"), *(line.cells for line in self.lines)]
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        return "\n".join(["# Scores", "", *(f"- {text}" for text in self.header), "", *lines, ""])

    def csv(self) -> str:
        """As a CSV file: values as fractions, `measured` true or false."""
        sink = io.StringIO()
        writer = csv.writer(sink, lineterminator="\n")
        writer.writerow(_CSV_HEAD)
        for line in self.lines:
            s, p = line.score, line.published
            place = [s.benchmark, s.variant.value, s.family or "", s.task or "", s.split or "", s.metric]
            if p is None:
                writer.writerow([*place, _OWN, s.value, s.low, s.high, s.num_samples, s.num_images, "true", "measured"])
            else:
                writer.writerow([*place, f"{p.model} {p.llm_size}", p.value, "", "", "", "", "false", p.source])
        return sink.getvalue()


def score_sheet(
    scores: Sequence[Score], published_as: PublishedAs, corpus_facts: Mapping[str, Json], level: float = 0.95
) -> Sheet:
    """The table of some scores.

    Args:
        scores: of an evaluation.
        published_as: which published rows stand beside which score.
        corpus_facts: facts of the manifest of the corpus, for the leakage status.
        level: coverage of the intervals.
    """
    by_place: dict[tuple[str, str, str], list[PublishedScore]] = {}
    for row in published_scores():
        if row.value is not None:
            by_place.setdefault((row.benchmark, row.split, row.metric), []).append(row)
    lines: list[Line] = []
    for score in scores:
        lines.append(Line(score))
        if score.overall and score.variant in (Variant.STANDARD, Variant.RELEASED):
            place = published_as.get(score.benchmark, {}).get(score.metric)
            lines += [Line(score, row) for row in by_place.get(place, ())] if place is not None else []
    header = [f"leakage: {leakage_status(corpus_facts)}"]
    relabelled = cast("Mapping[str, Mapping[str, str]]", corpus_facts.get("relabelled_splits") or {})
    if relabelled:
        names = ", ".join(sorted(relabelled))
        header.append(f"splits of {names} were given another name: not to be compared with published scores")
    if any(line.published for line in lines):
        header.append(f"lines marked “{PUBLISHED_MARK}” are numbers of papers; no interval is known of them")
    header.append(f"values in percent, CIDEr as defined (0 to 10); {level:.0%} intervals from resampling pictures")
    return Sheet(tuple(header), tuple(lines))


def leakage_status(facts: Mapping[str, Json]) -> str:
    """What the corpus says of evaluation pictures among its training samples, in a few words."""
    gate = facts.get("leakage_gate")
    if gate is None:
        return "unknown, the corpus doesn't say whether training was kept apart from evaluation pictures"
    if gate == "off":
        return "NOT CHECKED, the gate of this corpus was off: training may have seen the pictures of these benchmarks"
    by_family = cast("Mapping[str, Mapping[str, int]]", facts.get("leakage") or {})
    removed = sum(counts.get("samples_removed", 0) for counts in by_family.values())
    what = f"{removed:,} training samples on evaluation pictures were removed" if removed else "none found"
    return f"checked (gate: {gate}), {what}; this says nothing of what a base model was trained on before"


def _shown(value: float, metric: str) -> str:
    return f"{value:.2f}" if metric == "CIDEr" else f"{100 * value:.1f}"
