"""What a recipe's benchmarks ask about and the corpus has no question for: named, so that nothing drops out unseen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import TypeAlias

from pipelines.evaluation.benchmarks.base import BenchmarkConfig
from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.records import Gap, Question
from storage.corpus import Corpus

__all__ = ["find_gaps"]

_Held: TypeAlias = "Counter[tuple[str, str, str]]"
"""Samples of the corpus by family, split and task."""


def find_gaps(corpus: Corpus, config: EvaluationConfig, questions: Sequence[Question]) -> list[Gap]:
    """The benchmarks that got no question, or none of a family, split or task that they name.

    Args:
        corpus: what was asked about.
        config: the benchmarks.
        questions: all questions that they ask.
    """
    asked: dict[str, _Held] = {}
    for question in questions:
        asked.setdefault(question.benchmark, Counter())[question.family, question.split, question.task] += 1
    table = corpus.sample_table(["family", "split", "task"])
    held: _Held = Counter(zip(*(table[name].to_pylist() for name in table.column_names), strict=True))
    gaps: list[Gap] = []
    for name, benchmark in config.by_name().items():
        if name not in asked:
            gaps.append(Gap(benchmark=name, whole=True, reason=_why_nothing(benchmark, held)))
        elif missing := _missing_parts(benchmark, asked[name]):
            gaps.append(Gap(benchmark=name, whole=False, reason=f"no question of {', '.join(missing)}"))
    return gaps


def _why_nothing(benchmark: BenchmarkConfig, held: _Held) -> str:
    left = held
    for place, (what, wanted) in enumerate(_wanted(benchmark)):
        if wanted is not None:
            found = {key[place] for key in left}
            left = Counter({key: count for key, count in left.items() if key[place] in wanted})
            if not left:
                where = "the corpus has" if place == 0 else "there are"
                return f"no sample of {what} {_listed(wanted)}; {where} {_listed(found)}"
    return (
        f"{sum(left.values()):,} samples of {_listed({key[2] for key in left})}, none of which can be asked about: "
        "without a picture, a prompt or a target"
    )


def _missing_parts(benchmark: BenchmarkConfig, asked: _Held) -> list[str]:
    return [
        f"{what} {name}"
        for place, (what, wanted) in enumerate(_wanted(benchmark))
        for name in sorted(wanted or ())
        if name not in {key[place] for key in asked}
    ]


def _wanted(benchmark: BenchmarkConfig) -> tuple[tuple[str, Collection[str] | None], ...]:
    tasks = [task.value for task in benchmark.asked_tasks()]
    return ("family", benchmark.families), ("split", benchmark.splits), ("task", tasks)


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "none"
