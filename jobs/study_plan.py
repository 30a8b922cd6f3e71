"""What a study would run, without running it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from jobs.runner import describe_plan
from jobs.study import Study
from jobs.told import Told
from pipelines.text_table import table
from storage.keys import Json

__all__ = ["describe_study"]


def describe_study(study: Study, overrides: Sequence[str], only: Sequence[str] = (), seeds: Sequence[int] = ()) -> Told:
    """Every run of a study with every seed, and which of its stages are there.

    Args:
        study: what would run.
        overrides: `FIELD=VALUE` for the recipe of all runs.
        only: names of the runs to make, with those that they start from; empty: all.
        seeds: of the study's seeds those to make; empty: all.

    Raises:
        UsageError: a recipe of the study can't be used, or a run or seed that the study hasn't.
    """
    runs: list[dict[str, Json]] = []
    for seed, made in study.by_seed(only, seeds):
        checkpoints: dict[str, str | None] = {}
        for run in made:
            init = None if run.starts_from is None else checkpoints[run.starts_from]
            recipe = study.recipe_of(run, seed, init, overrides)
            plan = describe_plan(recipe, "evaluate" if run.scored else "train")
            stages = cast("list[dict[str, Any]]", plan.data["stages"])
            if run.starts_from is not None and init is None:  # its address follows from a student not trained yet
                stages = [stage for stage in stages if stage["name"] not in ("train", "evaluate")]
                names = ["train", "evaluate"] if run.scored else ["train"]
                stages += [{"name": name, "state": "missing", "key": None, "url": None} for name in names]
            checkpoints[run.name] = next((stage["url"] for stage in stages if stage["name"] == "train"), None)
            runs.append({"run": run.name, "seed": seed, "stages": cast("Json", stages)})
    rows = [(str(run["run"]), cast("int", run["seed"]), _missing(run)) for run in runs]
    num_whole = sum(not missing for _, _, missing in rows)
    head = [study.question, "", f"{len(rows)} runs, {num_whole} of them whole; nothing was run"]
    shown = [(name, seed, missing or "nothing") for name, seed, missing in rows]
    return Told(
        "\n".join([*head, *table(("run", "seed", "missing"), shown)]),
        {"dry_run": True, "name": study.name, "question": study.question, "runs": cast("Json", runs)},
    )


def _missing(run: dict[str, Json]) -> str:
    stages = cast("list[dict[str, str]]", run["stages"])
    return ", ".join(stage["name"] for stage in stages if stage["state"] == "missing")
