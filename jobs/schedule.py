"""`sailloft schedule`: a recipe again and again, on this machine or as manifests for Kubernetes."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import cast

from jobs.config import Recipe
from jobs.cron import Cron, parse_cron
from jobs.kubernetes.config import KubernetesConfig
from jobs.kubernetes.manifests import Manifests, as_yaml
from jobs.kubernetes.pods import Tree
from jobs.loading import merge, read_recipe_tree, read_yaml, validate_recipe
from jobs.scheduler import Runs, keep_schedule, time_zone
from jobs.submission.order import COMMANDS, Order
from jobs.submission.runtime_env import read_runtime_env
from jobs.submit import check_workspace
from jobs.told import Told
from storage.errors import UsageError
from storage.keys import Json

__all__ = [
    "Turn",
    "describe_manifests",
    "describe_turns",
    "local_command",
    "make_manifests",
    "schedule_here",
    "write_manifests",
]

_SHOWN_TURNS = 5


@dataclass(frozen=True, slots=True)
class Turn:
    """What is done each time."""

    recipe: str
    """Path or packaged name."""
    overrides: tuple[str, ...]
    """Of its fields."""
    command: str
    """That takes the recipe, such as `retrain`."""

    def __post_init__(self) -> None:
        if self.command not in COMMANDS:
            raise UsageError(f"--command {self.command}: expected one of {', '.join(COMMANDS)}")


def local_command(turn: Turn) -> list[str]:
    """Program and arguments of a turn on this machine."""
    return [sys.executable, "-m", "jobs", turn.command, turn.recipe, *turn.overrides]


def schedule_here(turn: Turn, cron: str, zone: str | None, at_once: bool, write: Callable[[str], None]) -> None:
    """Keeps a schedule in the foreground until SIGTERM or Ctrl-C, which also end the run at work.

    Args:
        turn: what is done.
        cron: when, as five fields.
        zone: name of the time zone; None: this machine's.
        at_once: whether one run begins now.
        write: receives a line when a run begins and ends.

    Raises:
        UsageError: a wrong recipe, expression or time zone, or the extra `schedule` isn't installed.
    """
    validate_recipe(Recipe, read_recipe_tree(turn.recipe, turn.overrides), turn.recipe)
    when = parse_cron(cron)
    keep_schedule(when, Runs(local_command(turn), write), time_zone(zone), at_once)


def describe_turns(turn: Turn, cron: str, zone: str | None, at_once: bool) -> Told:
    """What a schedule would run on this machine and when next; runs nothing. Raises as `schedule_here`."""
    validate_recipe(Recipe, read_recipe_tree(turn.recipe, turn.overrides), turn.recipe)
    now = datetime.now(time_zone(zone)).replace(tzinfo=None)
    turns = [moment.isoformat(" ", "minutes") for moment in parse_cron(cron).following(now, _SHOWN_TURNS)]
    shown = [*(["at once"] if at_once else []), *turns]
    place = zone or "this machine's time"
    lines = [shlex.join(local_command(turn)), f"next turns ({place}):", *(f"  {item}" for item in shown)]
    data: dict[str, Json] = {"dry_run": True, "command": list[Json](local_command(turn)), "at_once": at_once}
    return Told("\n".join(lines), {**data, "time_zone": zone, "next": list[Json](turns)})


def describe_manifests(files: Mapping[str, list[Tree]], folder: Path | None, dry_run: bool) -> Told:
    """Manifests as files by their names, and where they were or would be written."""
    names = [str(name if folder is None else folder / name) for name in files]
    data: dict[str, Json] = {"dry_run": dry_run, "folder": None if folder is None else str(folder)}
    head = [] if folder is None else [f"would be written to {folder}:"]
    return Told("\n".join([*head, *names]), {**data, "manifests": cast("Json", dict(files))})


def make_manifests(
    turn: Turn, cron: str | None, settings: Path | None, zone: str | None, form: str
) -> dict[str, list[Tree]]:
    """Manifests for KubeRay, by the name of the file that they belong in, in the order in which they are applied.

    Args:
        turn: what is done.
        cron: when, as five fields; None: once.
        settings: YAML file whose fields go above those of the recipe's section `kubernetes`.
        zone: name of the time zone; None: that of the settings.
        form: of the schedule: `cronjob` of plain Kubernetes, or `raycronjob`.

    Raises:
        UsageError: wrong settings, or a recipe that Kubernetes can't run.
    """
    recipe, config = _resolve(turn, settings)
    if zone is not None:
        time_zone(zone)
        config = config.model_copy(update={"schedule": config.schedule.model_copy(update={"time_zone": zone})})
    check_workspace(recipe.workspace)
    runtime_env = {} if recipe.cluster.runtime_env is None else read_runtime_env(recipe.cluster.runtime_env)
    manifests = Manifests(Order(recipe, turn.command, None, (), {}, runtime_env, None), config)
    return dict(_files(manifests, None if cron is None else parse_cron(cron), form))


def write_manifests(files: dict[str, list[Tree]], folder: Path) -> list[Path]:
    """Writes each file of manifests into a folder, in the place of an older one.

    Returns:
        Paths, in order.

    Raises:
        UsageError: the folder can't be written.
    """
    paths: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, documents in files.items():
            path = folder / name
            path.write_text(as_yaml(documents), encoding="utf-8")
            paths.append(path)
    except OSError as error:
        raise UsageError(f"--to {folder}: {error}; name a folder that can be written") from error
    return paths


def _resolve(turn: Turn, settings: Path | None) -> tuple[Recipe, KubernetesConfig]:
    tree = read_recipe_tree(turn.recipe, turn.overrides)
    if settings is not None:
        own = cast("dict[str, object]", tree.get("kubernetes") or {})
        tree = {**tree, "kubernetes": merge(own, read_yaml(settings))}
    recipe = validate_recipe(Recipe, tree, turn.recipe)
    if recipe.kubernetes is None:
        raise UsageError(
            f"recipe {turn.recipe}: expected a section kubernetes with an image, found none; write it there, in a "
            "file (--settings FILE), or give kubernetes.image=NAME:TAG"
        )
    return recipe, recipe.kubernetes


def _files(manifests: Manifests, cron: Cron | None, form: str) -> Iterator[tuple[str, list[Tree]]]:
    plain = cron is not None and form == "cronjob"
    accounts = [*manifests.accounts(), *(manifests.schedule_accounts() if plain else [])]
    if accounts:
        yield "accounts.yaml", accounts
    yield "recipe.yaml", [manifests.recipe_map()]
    yield "raycluster.yaml", [manifests.cluster()]
    yield "rayjob.yaml", [manifests.job()]
    if cron is not None:
        yield f"{form}.yaml", manifests.cron_job(cron) if plain else [manifests.ray_cron_job(cron)]
