"""The table of a study in Markdown: scores, differences to the baseline, steps to a target, verdicts, each seed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from jobs.study import Expectation, Study, StudyClaim
from jobs.study_table import LEVEL, Estimate, StudyResult, mean_interval

__all__ = ["markdown", "verdict"]


def markdown(study: Study, result: StudyResult) -> list[str]:
    """Lines of the table, with what its intervals mean and what isn't finished yet.

    Args:
        study: what was asked.
        result: what has been measured of it so far.
    """
    lines = [result.question, "", *_missing(result)]
    finished = result.finished_runs()
    if not finished:
        return lines
    lines += _table(["run", "seeds", *result.metrics], [_scores_of(result, run) for run in finished])
    others = [run for run in finished if run != result.baseline]
    if result.of(result.baseline) and others:
        lines += ["", f"Less {result.baseline}, seed by seed:", ""]
        lines += _table(["run", *result.metrics], [_differences_of(result, run) for run in others])
    if study.steps_to:
        lines += [
            "",
            "Training steps until the validation cIoU reaches the last one of another run with the same seed:",
            "",
        ]
        headings = [f"that of {target}" for target in study.steps_to]
        lines += _table(["run", *headings], [_steps_of(study, result, run) for run in finished])
    lines += ["", *_captions(result)]
    if study.claims:
        lines += ["", *(f"- {verdict(claim, result)}" for claim in study.claims)]
    return [*lines, *_by_seed(result)]


def verdict(claim: StudyClaim, result: StudyResult) -> str:
    """What the study says of a claim: the difference with its interval, and whether that bears it out."""
    if claim.metric is None:
        found, trouble, digits, what = *_fewer_steps(claim, result), 0, f"steps to {claim.than}'s last validation cIoU"
    else:
        found, digits, what = result.difference(claim.run, claim.metric, claim.than), 3, claim.metric
        trouble = "not measured yet" if found is None else None
    subject = f"**{claim.text}**: {what}, {claim.run} less {claim.than}"
    if trouble is not None or found is None:
        return f"{subject}: {trouble}"
    number = f"{subject}: {found.text(digits)}"
    if claim.expects is Expectation.STATED:
        return number
    return f"{number}: {_judged(claim, found)}"


def _judged(claim: StudyClaim, found: Estimate) -> str:
    if math.isnan(found.low):
        return "one seed, so that nothing can be said yet"
    low, high = claim.bounds
    bound = " and ".join(
        f"{word} {limit:g}" for word, limit in (("above", low), ("below", high)) if math.isfinite(limit)
    )
    if low < found.low and found.high < high:
        return f"holds, all {bound}"
    if found.low >= high or found.high <= low:
        return f"does not hold, nothing is {bound}"
    return f"not shown, not all is {bound}"


def _fewer_steps(claim: StudyClaim, result: StudyResult) -> tuple[Estimate | None, str | None]:
    """The difference in steps, or why there is none."""
    own, other = result.steps_to(claim.run, claim.than), result.steps_to(claim.than, claim.than)
    reached = [(steps, other[seed]) for seed, steps in own.items()]
    if not reached:
        return None, "not measured yet"
    pairs = [(one, two) for one, two in reached if one is not None and two is not None]
    if len(pairs) < len(reached):
        return None, f"does not hold, it is reached with {len(pairs)} of {len(reached)} seeds"
    return mean_interval([one - two for one, two in pairs]), None


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [headings, ["---"] * len(headings), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _scores_of(result: StudyResult, run: str) -> list[str]:
    return [run, str(len(result.of(run))), *(str(result.estimate(run, metric)) for metric in result.metrics)]


def _differences_of(result: StudyResult, run: str) -> list[str]:
    found = [result.difference(run, metric) for metric in result.metrics]
    return [run, *("" if one is None else str(one) for one in found)]


def _steps_of(study: Study, result: StudyResult, run: str) -> list[str]:
    return [run, *(_steps_text(list(result.steps_to(run, target).values())) for target in study.steps_to)]


def _steps_text(steps: Sequence[float | None]) -> str:
    reached = [one for one in steps if one is not None]
    if not steps:
        return ""
    if not reached:
        return "never"
    text = mean_interval(reached).text(0)
    if len(reached) < len(steps):
        values = ", ".join(f"{one:.0f}" for one in reached)
        return f"{values}; never with {len(steps) - len(reached)} of {len(steps)} seeds"
    return text


def _missing(result: StudyResult) -> Iterator[str]:
    if not result.missing:
        return
    by_run: dict[str, list[str]] = {}
    for run, seed in result.missing:
        by_run.setdefault(run, []).append(str(seed))
    told = "; ".join(f"{run}: seed {', '.join(seeds)}" for run, seeds in by_run.items())
    total = len(result.planned)
    yield f"{total - len(result.missing)} of {total} runs are finished. Missing: {told}."
    yield ""


def _captions(result: StudyResult) -> Iterator[str]:
    counts = {len(result.of(run)) for run in result.finished_runs()}
    if max(counts) > 1:
        yield (
            f"Means over seeds of training on the same pictures; {LEVEL:.0%} intervals by Student's t over seeds, "
            "differences paired by seed."
        )
    if 1 in counts:
        yield (
            f"Of one seed: {LEVEL:.0%} intervals are over the evaluated pictures alone and say nothing of how far "
            "another seed would lie."
        )


def _by_seed(result: StudyResult) -> Iterator[str]:
    if result.has_one_seed:
        return
    yield ""
    for metric in result.metrics:
        for run in result.finished_runs():
            values = ", ".join(f"{value:.3f}" for value in result.values(run, metric).values())
            yield f"- {metric}, {run}: {values}"
