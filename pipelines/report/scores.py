"""The numbers of a report: scores of evaluations, targets, counts, rejects, stages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from markupsafe import Markup

from pipelines.charts import interval_bar
from pipelines.evaluation.records import Score, Variant
from pipelines.report.inputs import Target
from pipelines.report.zoo import Slice
from storage.corpus import Corpus
from storage.manifest import Manifest

__all__ = [
    "Examined",
    "Promise",
    "RejectGroup",
    "count_table",
    "examined",
    "gap_lines",
    "promises",
    "reject_groups",
    "relabelled_splits",
    "score_bar",
    "score_rows",
    "variant_text",
]

_HEADLINE_METRICS = ("overall", "cIoU", "attribute_accuracy", "accuracy", "METEOR")
_METRIC_TEXT = {
    "cIoU": "pixels shared by answer and truth over pixels of either, summed over all pictures; 1 is perfect",
    "attribute_accuracy": "colour and shape words of the truth that the description has",
    "accuracy": "share of right answers",
    "METEOR": "words in common with what people wrote, stems and synonyms included",
    "overall": "mean of METEOR, accuracy and the mean of cIoU and gIoU",
}
_VARIANT_TEXT = {
    Variant.STANDARD: "the trained student",
    Variant.SWAPPED: "same answers against another object of the picture",
    Variant.MOVED: "visual prompt moved to another object",
    Variant.RELEASED: "the same answers by the rules of the released evaluation",
    Variant.UNTRAINED: "the same student before training",
}
_DETAIL_LENGTH = 300
_EXAMPLES_PER_REASON = 3


@dataclass(frozen=True, slots=True)
class Examined:
    """The main score of one benchmark, with its variants."""

    benchmark: str
    metric: str
    meaning: str
    main: Score
    variants: tuple[Score, ...]
    """The main score first, then the controls."""


@dataclass(frozen=True, slots=True)
class Promise:
    """A target and what became of it; `met` is None where the score isn't there."""

    label: str
    bound: str
    value: str
    met: bool | None


@dataclass(frozen=True, slots=True)
class RejectGroup:
    """Rejects of one reason: how many, and some of them as (file, locator, detail)."""

    reason: str
    count: int
    examples: tuple[tuple[str, str, str], ...]


def score_bar(row: Score | Slice) -> Markup:
    """A score with its interval, drawn."""
    return interval_bar(row.value, row.low, row.high)


def variant_text(row: Score) -> str:
    """The variant of a score in words."""
    return _VARIANT_TEXT[row.variant]


def gap_lines(evaluations: Iterable[Manifest]) -> list[str]:
    """What the benchmarks asked about and the corpus doesn't have, a line for each that is concerned."""
    lines: list[str] = []
    for manifest in evaluations:
        for fact in cast("Sequence[Mapping[str, object]]", manifest.facts.get("gaps", ())):
            lines.append(f"{fact['benchmark']}{' has no score' if fact['whole'] else ', in part'}: {fact['reason']}")
    return lines


def score_rows(evaluations: Iterable[Manifest]) -> list[Score]:
    """All scores of some evaluations, as their manifests tell them."""
    rows: list[Score] = []
    for manifest in evaluations:
        for fact in cast("Sequence[Mapping[str, object]]", manifest.facts.get("scores", ())):
            value = cast(float, fact["value"])
            low, high = (value if fact[end] is None else cast(float, fact[end]) for end in ("low", "high"))
            rows.append(
                Score(
                    benchmark=str(fact["benchmark"]),
                    variant=Variant(fact["variant"]),
                    family=cast("str | None", fact["family"]),
                    task=cast("str | None", fact["task"]),
                    split=cast("str | None", fact["split"]),
                    metric=str(fact["metric"]),
                    value=value,
                    low=low,
                    high=high,
                    num_samples=cast(int, fact["num_samples"]),
                    num_images=cast(int, fact["num_images"]),
                )
            )
    return rows


def examined(rows: Sequence[Score]) -> list[Examined]:
    """The main score of each benchmark, in the order of the recipe."""
    found: list[Examined] = []
    for benchmark in dict.fromkeys(row.benchmark for row in rows):
        own = [row for row in rows if row.benchmark == benchmark and row.overall]
        for metric in _HEADLINE_METRICS:
            variants = sorted((r for r in own if r.metric == metric), key=lambda row: list(Variant).index(row.variant))
            if variants and variants[0].variant is Variant.STANDARD:
                found.append(Examined(benchmark, metric, _METRIC_TEXT[metric], variants[0], tuple(variants)))
                break
    return found


def promises(targets: Sequence[Target], rows: Sequence[Score]) -> list[Promise]:
    """What became of the targets."""
    return [_promise(target, rows) for target in targets]


def _promise(target: Target, rows: Sequence[Score]) -> Promise:
    def score_of(variant: Variant) -> float | None:
        place = (target.benchmark, variant, target.metric)
        found = [r.value for r in rows if r.overall and (r.benchmark, r.variant, r.metric) == place]
        return found[0] if found else None

    relative = target.relative_to is not None
    bounds = [
        f"{words} {limit:.0%}" if relative else f"{words} {limit:.2f}"
        for words, limit in (("at least", target.at_least), ("at most", target.at_most))
        if limit is not None
    ]
    value = score_of(target.variant)
    if target.relative_to is not None and value is not None:
        whole = score_of(target.relative_to)
        value = None if not whole else value / whole
    if value is None:
        return Promise(target.label, " and ".join(bounds), "not measured", None)
    met = (target.at_least is None or value >= target.at_least) and (target.at_most is None or value <= target.at_most)
    return Promise(target.label, " and ".join(bounds), f"{value:.0%}" if relative else f"{value:.3f}", met)


def count_table(corpus: Corpus) -> tuple[list[str], list[tuple[str, str, list[int], int]]]:
    """Samples by family and task, over splits.

    Returns:
        The splits, and rows of (family, task, samples per split, sum).
    """
    table = corpus.sample_table(["family", "task", "split"])
    grouped = table.group_by(["family", "task", "split"]).aggregate([([], "count_all")]).to_pylist()
    counts = {(row["family"], row["task"], row["split"]): int(row["count_all"]) for row in grouped}
    splits = sorted({split for _, _, split in counts}, key=lambda split: (split != "train", split))
    rows: list[tuple[str, str, list[int], int]] = []
    for family, task in sorted({(family, task) for family, task, _ in counts}):
        numbers = [counts.get((family, task, split), 0) for split in splits]
        rows.append((family, task, numbers, sum(numbers)))
    return splits, rows


def reject_groups(corpus: Corpus) -> list[RejectGroup]:
    """Rejects by reason, the most frequent first, each with a few examples."""
    counts: dict[str, int] = {}
    examples: dict[str, list[tuple[str, str, str]]] = {}
    for reject in corpus.rejects():
        counts[reject.reason.value] = counts.get(reject.reason.value, 0) + 1
        kept = examples.setdefault(reject.reason.value, [])
        if len(kept) < _EXAMPLES_PER_REASON:
            kept.append((reject.source_file, reject.locator, reject.detail[:_DETAIL_LENGTH]))
    order = sorted(counts, key=lambda reason: (-counts[reason], reason))
    return [RejectGroup(reason, counts[reason], tuple(examples[reason])) for reason in order]


def relabelled_splits(corpus: Corpus) -> list[str]:
    """Splits that the recipe gave another name, in words."""
    by_file = corpus.manifest.facts.get("relabelled_splits")
    if not isinstance(by_file, Mapping):
        return []
    return [
        f"{name}: {old} is used as {new}"
        for name, splits in sorted(cast("Mapping[str, Mapping[str, str]]", by_file).items())
        for old, new in sorted(splits.items())
    ]
