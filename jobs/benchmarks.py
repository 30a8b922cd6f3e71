"""What the command line says and does about benchmarks in the making."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import cast

import yaml

from jobs.config import load_recipe
from jobs.display import Display
from jobs.loading import apply_override, packaged_recipes, read_yaml, validate_recipe
from jobs.new_folder import make_folder, target_folder
from jobs.runner import run_recipe
from jobs.told import Told
from pipelines.benchmark_building.build import build_drafts, build_key
from pipelines.benchmark_building.drafts import Drafts
from pipelines.benchmark_building.export import accepted_items, export_benchmark
from pipelines.benchmark_building.records import BenchmarkTask
from pipelines.benchmark_building.review.log import DecisionLog
from pipelines.benchmark_building.review.outcomes import Agreement, Outcome, State, agreement, outcomes
from pipelines.benchmark_building.settings import BuildConfig
from pipelines.progress import Progress
from storage.corpus import Corpus
from storage.errors import UsageError
from storage.keys import Json
from storage.manifest import read_manifest
from storage.objects import Objects

__all__ = [
    "benchmark_json",
    "build_benchmark",
    "corpus_url",
    "describe_benchmark",
    "describe_build",
    "export_reviewed",
    "load_settings",
]


def load_settings(file: Path | None, overrides: Sequence[str]) -> BuildConfig:
    """The builder's settings.

    Args:
        file: YAML; None: all as by default.
        overrides: items `field=value`, applied in order.

    Raises:
        UsageError: a file that can't be read, or a wrong field.
    """
    tree = {} if file is None else read_yaml(file)
    for override in overrides:
        tree = apply_override(tree, override)
    return validate_recipe(BuildConfig, tree, "of the benchmark" if file is None else str(file))


def is_recipe(source: str) -> bool:
    """Whether a recipe is meant and not the address of a corpus."""
    return source in packaged_recipes() or source.endswith((".yaml", ".yml"))


def corpus_url(source: str, display: Display) -> str:
    """Address of the corpus that is meant; that of a recipe is curated first, if it isn't there.

    Args:
        source: a recipe or the address of a corpus.
        display: where progress is shown.
    """
    if not is_recipe(source):
        return source
    return run_recipe(load_recipe(source), display, "curate").outcomes[-1].url


def describe_build(source: str, file: Path | None, overrides: Sequence[str], output: str) -> Told:
    """The resolved settings, the address of the drafts, and whether they are there; makes nothing."""
    config = load_settings(file, overrides)
    settings = config.model_dump(mode="json")
    lines = [yaml.safe_dump(settings, sort_keys=False, width=100).rstrip(), ""]
    lines.append(f"captioner  {config.captioner.description()}")
    data: dict[str, Json] = {"dry_run": True, "settings": settings, "captioner": config.captioner.description()}
    if is_recipe(source):
        text = "\n".join([*lines, "drafts     (their address follows from the corpus of the recipe)"])
        return Told(text, {**data, "url": None, "state": "missing"})
    target = Objects.open(output).child(build_key(config, Corpus.open(source).manifest.key))
    state = "missing" if read_manifest(target) is None else "present"
    return Told("\n".join([*lines, f"drafts     {state}  {target.url}"]), {**data, "url": target.url, "state": state})


def build_benchmark(url: str, file: Path | None, overrides: Sequence[str], output: str, progress: Progress) -> Told:
    """Makes drafts on a corpus.

    Args:
        url: prefix of the corpus.
        file: settings.
        overrides: of the settings.
        output: prefix below which the drafts go.
        progress: told about drafts.

    Returns:
        What there is now, and what comes next.
    """
    config = load_settings(file, overrides)
    corpus = Corpus.open(url)
    target = Objects.open(output).child(build_key(config, corpus.manifest.key))
    drafts = build_drafts(corpus, config, target, progress)
    lines = [*_draft_lines(drafts), f"review them:  sailloft view {drafts.objects.url}"]
    missing = sum(config.num_per_task for _ in config.tasks) - len(drafts.to_review)
    if missing > 0:
        lines.insert(-1, f"  {missing} fewer than asked for: the corpus has no more candidates")
    data: dict[str, Json] = {"url": drafts.objects.url, "key": drafts.manifest.key, **drafts.manifest.facts}
    return Told("\n".join(lines), {**data, "num_missing": max(0, missing)})


def describe_benchmark(url: str, reviewers: int) -> str:
    """Drafts and their review, in lines.

    Args:
        url: prefix of the drafts.
        reviewers: who have to decide on each item.
    """
    drafts, found = _reviewed(url, reviewers)
    lines = _draft_lines(drafts)
    for state in State:
        lines.append(f"  {state.value:<9} {sum(outcome.state is state for outcome in found.values()):>6}")
    return "\n".join([*lines, f"  {_agreement_line(agreement(found.values()))}"])


def benchmark_json(url: str, reviewers: int) -> str:
    """The same as one JSON object."""
    drafts, found = _reviewed(url, reviewers)
    by_task = {
        task.value: {
            state.value: sum(found[item.item_id].state is state for item in drafts.to_review if item.task is task)
            for state in State
        }
        for task in BenchmarkTask
    }
    shown: dict[str, Json] = {
        "url": drafts.objects.url,
        "key": drafts.manifest.key,
        **drafts.manifest.facts,
        "review": by_task,
        "agreement": cast("Json", asdict(agreement(found.values()))),
    }
    return json.dumps(shown, indent=2, sort_keys=True)


def export_reviewed(
    url: str, output: Path, num_per_task: int, reviewers: int, progress: Progress, dry_run: bool = False
) -> Told:
    """Writes the accepted items into a new folder.

    Args:
        url: prefix of the drafts.
        output: folder to make.
        num_per_task: items of each task, at most.
        reviewers: who have to decide on each item.
        progress: told about pictures.
        dry_run: only count.

    Raises:
        UsageError: the folder holds something.
        DataError: no item is accepted.
    """
    target = target_folder(output)
    drafts, found = _reviewed(url, reviewers)
    waiting = sum(outcome.state in (State.OPEN, State.DISPUTED) for outcome in found.values())
    data: dict[str, Json] = {"folder": str(target), "dry_run": dry_run, "num_waiting": waiting}
    if dry_run:
        accepted = {task.value: len(items) for task, items in accepted_items(drafts, found, num_per_task).items()}
        counts = ", ".join(f"{number} {task}" for task, number in accepted.items()) or "no item"
        text = f"{target}: {counts} would be written; {waiting} items are open or disputed"
        return Told(text, {**data, "num_items": cast("Json", accepted)})
    with make_folder(target) as folder:
        done = export_benchmark(drafts, found, folder, progress, num_per_task, reviewers)
    counts = ", ".join(f"{number} {task.value}" for task, number in done.num_items.items())
    lines = [f"{target}: {counts} on {done.num_pictures} pictures; {_agreement_line(done.agreement)}"]
    short = {task: num_per_task - number for task, number in done.num_items.items() if number < num_per_task}
    if short or len(done.num_items) < len(BenchmarkTask):
        lines.append(f"  fewer than {num_per_task} of a task; {waiting} items are open or disputed")
    data |= {
        "num_items": {task.value: number for task, number in done.num_items.items()},
        "num_pictures": done.num_pictures,
        "agreement": cast("Json", asdict(done.agreement)),
    }
    return Told("\n".join(lines), data)


def _reviewed(url: str, reviewers: int) -> tuple[Drafts, dict[str, Outcome]]:
    if reviewers < 1:
        raise UsageError(f"--reviewers: expected 1 or more, got {reviewers}")
    drafts = Drafts.open(Objects.open(url))
    log = DecisionLog(drafts.objects)
    log.refresh()
    return drafts, outcomes(log.by_reviewer(), [item.item_id for item in drafts.to_review], reviewers)


def _draft_lines(drafts: Drafts) -> list[str]:
    facts = drafts.manifest.facts
    lines = [f"{drafts.objects.url}: {facts['num_items']} drafts on {facts['num_pictures']} pictures"]
    lines.append(f"  captioner: {facts['captioner']}")
    passing, objected = (cast("dict[str, int]", facts[name]) for name in ("passing", "objected"))
    lines += [f"  {task}: {number} pass, {objected[task]} set aside" for task, number in passing.items()]
    findings = cast("dict[str, int]", facts["findings"])
    return [*lines, *(f"    {code}: {number}" for code, number in findings.items())]


def _agreement_line(found: Agreement) -> str:
    if found.equal_share is None:
        return "no item is decided on by two reviewers yet"
    kappa = "not defined" if found.kappa is None else f"{found.kappa:.2f}"
    return f"{found.equal_share:.0%} of {found.num_pairs} pairs of decisions are equal, kappa {kappa}"
