"""The table of an evaluation: one's own scores with intervals, published ones beside them, leakage in the header."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from pipelines.evaluation.published import PublishedScore, published_scores
from pipelines.evaluation.records import Gap, Score, Variant, shown_scale
from pipelines.text_table import aligned
from storage.keys import Json

__all__ = ["SHEET_NAME", "Line", "PublishedAs", "Sheet", "leakage_status", "score_sheet"]

SHEET_NAME = "scores.txt"
"""Where an evaluation keeps the table as a terminal shows it."""
PUBLISHED_MARK = "published, not measured"
"""What stands beside every number that isn't ours."""
_OWN = "this student"
_GAP = {True: "no score", False: "in part"}
"""What is said of a benchmark without a question, and of one that lacks some."""
_VARIANTS = {
    Variant.SWAPPED: "expressions swapped",
    Variant.MOVED: "prompt moved",
    Variant.UNTRAINED: "untrained student",
}
_OWN_RULES = {
    "METEOR": "nltk's METEOR",
    "mask_recall_word_F1": "phrases by the F1 of their words, not by BERT",
}
"""Scores that are taken otherwise than published ones of the same kind, and how."""
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
        """The line as people read it, scores of 0 to 1 in percent (CIDEr and losses as they are)."""
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
                f"{PUBLISHED_MARK}: {self.source}",
            )
        score = self.score
        group = "" if score.overall else f" [{score.family} {score.task} {score.split}]"
        system = _VARIANTS.get(score.variant, _OWN)
        interval = f"{_shown(score.low, score.metric)} to {_shown(score.high, score.metric)}"
        value = _shown(score.value, score.metric)
        return score.benchmark + group, score.metric, system, value, interval, f"{score.num_samples:,}", self.source

    @property
    def source(self) -> str:
        """Where the number is from: measured, by which rule if it isn't the published one, or read from a paper."""
        if self.published is not None:
            return self.published.source
        rule = _OWN_RULES.get(self.score.metric)
        return "measured" if rule is None else f"measured: {rule}"


@dataclass(frozen=True, slots=True)
class Sheet:
    """The whole table.

    Attributes:
        header: what has to be known first: leakage, and what numbers mean.
        lines: each score, the published ones of the same benchmark and metric below it.
        gaps: benchmarks that the corpus has no samples for, or not all.
    """

    header: tuple[str, ...]
    lines: tuple[Line, ...]
    gaps: tuple[Gap, ...] = ()

    def text(self) -> str:
        """For a terminal: columns padded with blanks."""
        table = aligned([_HEAD, *(line.cells for line in self.lines)], right={3, 5})
        return "\n".join([*self.header, "", *table, *self._footer()])

    def markdown(self) -> str:
        """As a Markdown document."""
        rows = [_HEAD, ("---", "---", "---", "---:", "---", "---:", "---"), *(line.cells for line in self.lines)]
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        return "\n".join(["# Scores", "", *(f"- {text}" for text in self.header), "", *lines, *self._footer("- "), ""])

    def _footer(self, mark: str = "") -> list[str]:
        """What the corpus lacks, a line for each benchmark that is concerned."""
        lines = [f"{mark}{_GAP[gap.whole]}: {gap.benchmark}: {gap.reason}" for gap in self.gaps]
        return ["", *lines] if lines else []

    def csv(self) -> str:
        """As a CSV file: values as fractions, `measured` true or false."""
        sink = io.StringIO()
        writer = csv.writer(sink, lineterminator="\n")
        writer.writerow(_CSV_HEAD)
        for line in self.lines:
            s, p = line.score, line.published
            place = [s.benchmark, s.variant.value, s.family or "", s.task or "", s.split or "", s.metric]
            if p is None:
                writer.writerow(
                    [*place, _OWN, s.value, s.low, s.high, s.num_samples, s.num_images, "true", line.source]
                )
            else:
                writer.writerow([*place, f"{p.model} {p.llm_size}", p.value, "", "", "", "", "false", line.source])
        for gap in self.gaps:
            empty = [""] * (len(_CSV_HEAD) - 3)
            writer.writerow([gap.benchmark, *empty, "false", f"{_GAP[gap.whole]}: {gap.reason}"])
        return sink.getvalue()


def score_sheet(
    scores: Sequence[Score],
    published_as: PublishedAs,
    corpus_facts: Mapping[str, Json],
    level: float = 0.95,
    gaps: Sequence[Gap] = (),
) -> Sheet:
    """The table of some scores.

    Args:
        scores: of an evaluation.
        published_as: which published rows stand beside which score.
        corpus_facts: facts of the manifest of the corpus, for the leakage status.
        level: coverage of the intervals.
        gaps: see `find_gaps`.
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
    header.append(
        "values in percent, CIDEr as defined (0 to 10), text_loss in nats; "
        f"{level:.0%} intervals from resampling pictures"
    )
    return Sheet(tuple(header), tuple(lines), tuple(gaps))


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
    scale = shown_scale(metric)
    return f"{value:.2f}" if scale == 1 else f"{scale * value:.1f}"
