"""What a study is: a recipe with one thing changed at a time, over several seeds, and what is asked of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from jobs.config import Recipe
from jobs.loading import absent_file, apply_override, merge, read_recipe_tree, read_yaml, validate_recipe
from pipelines.evaluation.records import Variant
from storage.errors import UsageError
from storage.recipe import RecipeModel

__all__ = [
    "STUDIES_FOLDER",
    "Expectation",
    "Study",
    "StudyChart",
    "StudyClaim",
    "StudyMetric",
    "StudyRun",
    "load_study",
    "packaged_studies",
    "parse_names",
    "parse_seeds",
]

STUDIES_FOLDER = Path(__file__).parent / "studies"
"""Folder of the studies that come with the package."""

Tree = dict[str, object]


class StudyRun(RecipeModel):
    """One way to run the recipe."""

    name: str = Field(pattern=r"^[a-z0-9+][a-z0-9._+-]*$", max_length=48)
    """What the table calls it."""
    changes: Tree = Field(default_factory=dict)
    """Settings that are laid over the recipe, as in a recipe that extends it."""
    starts_from: str | None = None
    """Name of the run whose student, with the same seed, this one starts from; it stands further up. Null: the
    recipe's own `training.init`."""
    scored: bool = True
    """Whether it is evaluated and stands in the table; false for stages that others start from."""
    more_seeds: tuple[int, ...] = ()
    """Seeds beside those of the study: where a small difference to another run of the same is asked for."""


class StudyMetric(RecipeModel):
    """A column of the table."""

    label: str
    """Its heading."""
    benchmark: str = "referring"
    """Name of the benchmark."""
    metric: str = "cIoU"
    """Name of the score."""
    variant: Variant = Variant.STANDARD
    """Variant whose score is taken."""


class Expectation(StrEnum):
    """What a claim says of the difference between two runs, by its 95 % interval."""

    MORE = "more"
    """All of it lies above 0."""
    LESS = "less"
    """All of it lies below 0."""
    WITHIN = "within"
    """All of it lies within `margin` of 0."""
    NOT_LESS = "not_less"
    """All of it lies above `margin` below 0: no loss worth the name."""
    NOT_MORE = "not_more"
    """All of it lies below `margin` above 0."""
    STATED = "stated"
    """Nothing; the difference is told."""


class StudyClaim(RecipeModel):
    """Something that the study is to show or to refute."""

    text: str
    """The claim, in a few words."""
    run: str
    """The run that it is about."""
    than: str
    """The run that it is compared with, seed by seed."""
    metric: str | None = None
    """Label of the score that is compared; null: the steps in which both reach the last validation score of `than`."""
    expects: Expectation
    """What is claimed of `run` less `than`."""
    margin: float | None = Field(default=None, gt=0)
    """Of `within`, `not_less` and `not_more`, in units of the score."""

    @property
    def bounds(self) -> tuple[float, float]:
        """What the whole interval has to lie between; of `stated` nothing."""
        margin, expects = self.margin or 0.0, self.expects
        from_below = expects in (Expectation.MORE, Expectation.WITHIN, Expectation.NOT_LESS)
        from_above = expects in (Expectation.LESS, Expectation.WITHIN, Expectation.NOT_MORE)
        low = 0.0 - margin if from_below else -math.inf  # not -0.0, which would be shown so
        high = margin if from_above else math.inf
        return low, high

    @model_validator(mode="after")
    def _has_margin(self) -> Self:
        wanted = self.expects in (Expectation.WITHIN, Expectation.NOT_LESS, Expectation.NOT_MORE)
        if (self.margin is not None) != wanted:
            raise ValueError(f"margin: expected one with `within`, `not_less` and `not_more` alone, got {self.margin}")
        return self


class StudyChart(RecipeModel):
    """Runs whose curves and scores are drawn together."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=32)
    """Part of the file's name."""
    title: str
    """What stands above it."""
    runs: tuple[str, ...] = Field(min_length=1, max_length=8)
    """Which, in order."""


class Study(RecipeModel):
    """A question, the runs that answer it, and what is measured."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=48)
    """Short name."""
    question: str
    """What the study asks, in a sentence."""
    recipe: str
    """Packaged recipe or path that all runs have in common."""
    changes: Tree = Field(default_factory=dict)
    """Settings that are laid over it in all runs."""
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    """Values of `training.seed`; each run is made once with each, and with its `more_seeds`."""
    baseline: str
    """Run that the others are compared with, seed by seed."""
    runs: tuple[StudyRun, ...] = Field(min_length=1)
    """In the order in which they are made."""
    metrics: tuple[StudyMetric, ...] = Field(min_length=1)
    """What is measured."""
    steps_to: tuple[str, ...] = ()
    """Runs whose last validation score is a target: of each run it is told in how many steps it gets there. Needs
    `training.validation`."""
    claims: tuple[StudyClaim, ...] = ()
    """What is to be shown; the table ends with a verdict on each."""
    charts: tuple[StudyChart, ...] = ()
    """What is drawn, beside the table."""

    @model_validator(mode="after")
    def _runs_follow_their_starts(self) -> Self:
        for run in self.runs:
            if len(set(seeds := self.seeds_of(run))) < len(seeds):
                raise ValueError(f"seeds of {run.name}: expected each once, got {list(seeds)}")
        above: dict[str, StudyRun] = {}
        for place, run in enumerate(self.runs):
            if run.name in above:
                raise ValueError(f"runs.{place}.name: expected another than of a run further up, got {run.name!r}")
            start = None if run.starts_from is None else above.get(run.starts_from)
            if run.starts_from is not None and start is None:
                raise ValueError(f"runs.{place}.starts_from: expected a run further up, got {run.starts_from!r}")
            lacking = set() if start is None else set(run.more_seeds) - set(self.seeds_of(start))
            if lacking:
                raise ValueError(f"runs.{place}.more_seeds: expected seeds of {run.starts_from}, got {min(lacking)}")
            above[run.name] = run
        return self

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        scored = {run.name for run in self.runs if run.scored}
        for field, name in self._named():
            if name not in scored:
                raise ValueError(f"{field}: expected the name of a run that is scored, got {name!r}")
        labels = {metric.label for metric in self.metrics}
        for place, claim in enumerate(self.claims):
            if claim.metric is not None and claim.metric not in labels:
                raise ValueError(f"claims.{place}.metric: expected the label of a metric, got {claim.metric!r}")
        return self

    def _named(self) -> Iterator[tuple[str, str]]:
        """Fields that name a run which is scored."""
        yield "baseline", self.baseline
        yield from ((f"steps_to.{place}", name) for place, name in enumerate(self.steps_to))
        for place, claim in enumerate(self.claims):
            yield from ((f"claims.{place}.run", claim.run), (f"claims.{place}.than", claim.than))
        for place, chart in enumerate(self.charts):
            yield from ((f"charts.{place}.runs", name) for name in chart.runs)

    def seeds_of(self, run: StudyRun) -> tuple[int, ...]:
        """All seeds of a run."""
        return (*self.seeds, *run.more_seeds)

    def by_seed(self, only: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[tuple[int, list[StudyRun]]]:
        """The runs in the order in which they are made: seed by seed, each behind the one that it starts from.

        Args:
            only: names of runs, which bring those that they start from; empty: all.
            seeds: some of the study's; empty: all.

        Raises:
            UsageError: a name or a seed that the study hasn't.
        """
        runs = self._chosen(only)
        known = list(dict.fromkeys(seed for run in self.runs for seed in self.seeds_of(run)))
        unknown = [seed for seed in seeds if seed not in known]
        if unknown:
            raise UsageError(f"--seeds: expected seeds of study {self.name} {known}, got {unknown[0]}")
        own = [(seed, [run for run in runs if seed in self.seeds_of(run)]) for seed in (dict.fromkeys(seeds) or known)]
        return [(seed, made) for seed, made in own if made]

    def _chosen(self, only: Sequence[str]) -> list[StudyRun]:
        by_name = {run.name: run for run in self.runs}
        unknown = [name for name in only if name not in by_name]
        if unknown:
            raise UsageError(f"--only: expected runs of study {self.name} ({', '.join(by_name)}), got {unknown[0]!r}")
        wanted = set(only or by_name)
        for run in reversed(self.runs):  # what a run starts from stands further up
            if run.name in wanted and run.starts_from is not None:
                wanted.add(run.starts_from)
        return [run for run in self.runs if run.name in wanted]

    def recipe_of(self, run: StudyRun, seed: int, init: str | None, overrides: Sequence[str]) -> Recipe:
        """The recipe of one run.

        Args:
            run: which.
            seed: of its training.
            init: URL of the checkpoint it starts from, if another run made it.
            overrides: `FIELD=VALUE` for all runs; what a run changes itself stays changed.

        Raises:
            UsageError: the recipe can't be read, a field is wrong, or it doesn't measure what the study asks for.
        """
        tree = merge(read_recipe_tree(self.recipe), self.changes)
        for override in overrides:
            tree = apply_override(tree, override)
        tree = merge(tree, run.changes)
        training: Tree = {"seed": seed} if init is None else {"seed": seed, "init": init}
        recipe = validate_recipe(Recipe, merge(tree, {"training": training}), f"{self.recipe} of study {self.name}")
        if run.scored:
            self._require_measured(recipe)
        return recipe

    def _require_measured(self, recipe: Recipe) -> None:
        """Finds a score that no run would give before the first run is made."""
        benchmarks = recipe.evaluation.by_name()
        for place, metric in enumerate(self.metrics):
            asked = benchmarks.get(metric.benchmark)
            if asked is None:
                raise UsageError(
                    f"study {self.name}: metrics.{place}.benchmark: expected one of the recipe's "
                    f"({', '.join(benchmarks)}), got {metric.benchmark!r}; add it to evaluation.benchmarks"
                )
            variants: Sequence[Variant] = getattr(asked, "variants", (Variant.STANDARD,))
            if metric.variant not in variants:
                raise UsageError(
                    f"study {self.name}: metrics.{place}.variant: expected one that {metric.benchmark} asks in "
                    f"({', '.join(variants)}), got {metric.variant.value!r}; add it to the benchmark's variants"
                )


def packaged_studies() -> dict[str, Path]:
    """Studies that come with the package: name to file."""
    return {path.stem: path for path in sorted(STUDIES_FOLDER.glob("*.yaml"))}


def load_study(study: str) -> Study:
    """Reads a study.

    Args:
        study: name of a packaged one, or path of a YAML file.

    Raises:
        UsageError: it can't be read or has a wrong field; the message names each one.
    """
    packaged = packaged_studies()
    path = packaged.get(study, Path(study))
    if not path.is_file():
        raise UsageError(absent_file("study", study, path, packaged))
    return validate_recipe(Study, read_yaml(path), study)


def parse_names(text: str) -> tuple[str, ...]:
    """Names from a list with commas.

    Raises:
        UsageError: commas alone, which name nothing, where an empty text stands for all.

    >>> parse_names("plain, +sam2")
    ('plain', '+sam2')
    """
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    if text and not names:
        raise UsageError(f"--only and --seeds: expected some with commas between, got {text!r}")
    return names


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds from a list with commas.

    Raises:
        UsageError: one of them is no whole number.

    >>> parse_seeds("0,2")
    (0, 2)
    """
    try:
        return tuple(int(part) for part in parse_names(text))
    except ValueError:
        raise UsageError(f"--seeds: expected whole numbers with commas between, got {text!r}") from None
