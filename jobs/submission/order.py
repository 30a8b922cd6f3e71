"""What is handed to a cluster: the recipe's text, the command, its id and what is noted of it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from jobs.config import Recipe
from jobs.submission.code_folder import RECIPE_NAME, CodeFolder
from storage.errors import UsageError
from storage.keys import Json, content_key

__all__ = ["COMMANDS", "STOP_GRACE_S", "Order", "check_job_id"]

COMMANDS = ("run", "retrain", "curate", "teach", "train", "evaluate")
"""Commands that take a recipe and may run on a cluster."""

STOP_GRACE_S = 60
"""Seconds between SIGTERM and SIGKILL when a job is stopped; training writes a state meanwhile."""

_KEY_DIGITS = 12
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def check_job_id(job_id: str) -> None:
    """Makes sure that a job's id is one.

    Raises:
        UsageError: signs that no id has.
    """
    if _ID.fullmatch(job_id) is None:
        raise UsageError(f"job {job_id!r}: expected an id such as smoke-0123456789ab-1; see sailloft jobs list")


@dataclass(frozen=True, slots=True)
class Order:
    """One job: a command on a recipe, with all that travels."""

    recipe: Recipe
    command: str
    stages: tuple[str, ...] | None
    """Stages of `run` that may do work; None: all."""
    after: tuple[str, ...]
    """Jobs that have to succeed before it begins."""
    variables: Mapping[str, str]
    """Of its environment."""
    runtime_env: Mapping[str, object]
    """What is laid over the cluster's libraries."""
    code: CodeFolder | None
    """The user's own modules."""

    def __post_init__(self) -> None:
        if self.command not in COMMANDS:
            raise UsageError(f"--command {self.command}: expected one of {', '.join(COMMANDS)}")
        if self.stages is not None and self.command != "run":
            raise UsageError(f"--stages: expected beside the command run, got {self.command}; leave one of them out")
        for job_id in self.after:
            check_job_id(job_id)

    @property
    def tree(self) -> dict[str, object]:
        """The recipe as it travels: without what says where it runs, since the job runs inside its cluster."""
        return {**self.recipe.model_dump(mode="json"), "cluster": {}, "kubernetes": None}

    @property
    def entrypoint(self) -> str:
        """The shell command of the job; what it waits for comes first, with that job's exit code."""
        waits = [f"python -m jobs jobs wait {shlex.quote(job_id)}" for job_id in self.after]
        return " && ".join([*waits, f"exec {self.command_on(RECIPE_NAME)}"])

    def command_on(self, recipe: str) -> str:
        """The command as a shell takes it.

        Args:
            recipe: path of the recipe's file.
        """
        chosen = "" if self.stages is None else f" --stages {','.join(self.stages)}"
        return f"python -m jobs {self.command} {shlex.quote(recipe)}{chosen}"

    @property
    def series(self) -> str:
        """What the ids of all jobs begin with that would make the same outputs: the recipe's address.

        Neither sizes of pools nor code nor variables are in it: two jobs that differ in these alone would work on
        the same outputs. Where sources lie stands for what they hold, which isn't read before a job is handed in.
        """
        address: dict[str, Json] = {
            "recipe": cast("Json", self.recipe.hashed_fields()),
            "workspace": self.recipe.workspace,
            "sources": _places(self.recipe),
            "command": self.command,
            "stages": None if self.stages is None else list(self.stages),
        }
        return f"{self.recipe.name}-{content_key(address)[:_KEY_DIGITS]}"

    @property
    def settings_key(self) -> str:
        """Key of all that travels, but for values of variables."""
        return content_key(
            {
                "tree": cast("Json", self.tree),
                "after": list(self.after),
                "variables": sorted(self.variables),
                "runtime_env": cast("Json", dict(self.runtime_env)),
                "code": None if self.code is None else self.code.key,
            }
        )

    def job_runtime_env(self, working_dir: str | None) -> dict[str, object]:
        """The runtime environment that Ray gets.

        Args:
            working_dir: folder that is uploaded; None: nothing is.
        """
        declared = cast("Mapping[str, str]", self.runtime_env.get("env_vars") or {})
        grace = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_GRACE_S)}
        uploaded = {} if working_dir is None else {"working_dir": working_dir}
        return {**self.runtime_env, **uploaded, "env_vars": {**grace, **declared, **self.variables}}

    def metadata(self, version: str) -> dict[str, str]:
        """What the job server notes of the job, and shows."""
        return {
            "sailloft": version,
            "recipe": self.recipe.name,
            "workspace": self.recipe.workspace,
            "command": self.command,
            "stages": "all" if self.stages is None else ",".join(self.stages),
            "after": ",".join(self.after),
            "settings": self.settings_key,
        }

    def job_id(self, ids: Sequence[str]) -> str:
        """The id of a new job.

        Args:
            ids: of the jobs there are.
        """
        return f"{self.series}-{max([0, *self.attempts(ids).values()]) + 1}"

    def attempts(self, ids: Sequence[str]) -> dict[str, int]:
        """Those of some ids that belong to this order, with their numbers."""
        numbers = {job_id: job_id.removeprefix(f"{self.series}-") for job_id in ids if job_id.startswith(self.series)}
        return {job_id: int(number) for job_id, number in numbers.items() if number.isdigit()}


def _places(recipe: Recipe) -> list[Json]:
    """Where the sources lie, and the corpus that is gone on from."""
    curation = recipe.curation
    return [curation.root, curation.parent, *([source.root, source.image_root] for source in curation.sources)]
