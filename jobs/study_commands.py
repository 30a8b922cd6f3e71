"""The command `sailloft study`."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from jobs.arguments import DryRunOption, JsonOption, OverridesArgument
from jobs.completion import study_names
from jobs.told import Told, tell
from storage.errors import UsageError

__all__ = ["STUDY_EXAMPLES", "study"]

logger = logging.getLogger(__name__)

STUDY_EXAMPLES = (
    "\b\nExamples:\n"
    "  sailloft study ablation --dry-run\n"
    "  sailloft study ablation --only plain,+upsampling --seeds 0\n"
    "  sailloft study ablation --finished\n"
    "  sailloft study my.yaml workspace=/data/runs training.use_gpu=true"
)


def study(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="A packaged study, or path of a YAML file.", autocompletion=study_names),
    ],
    overrides: OverridesArgument = None,
    only: Annotated[
        str,
        typer.Option(
            "--only", metavar="RUN[,RUN]", help="Make these runs of the study alone, and those they start from."
        ),
    ] = "",
    seeds: Annotated[
        str, typer.Option("--seeds", metavar="SEED[,SEED]", help="Make them with these of its seeds alone.")
    ] = "",
    finished: Annotated[bool, typer.Option("--finished", help="Make nothing; show what is finished.")] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Runs a recipe with one thing changed at a time, and shows a table with intervals.

    What an earlier study or run made is used again; an interrupted study continues. The table is always of all runs
    that are finished, whichever command made them.
    """
    from jobs.display import open_display
    from jobs.study import load_study, parse_names, parse_seeds
    from jobs.study_plan import describe_study
    from jobs.study_report import markdown
    from jobs.study_runs import finished_study, run_study, study_folder

    wanted, given = load_study(name), overrides or []
    if finished and (only or seeds or dry_run):
        raise UsageError("--finished: expected no --only, --seeds or --dry-run beside it, since it makes no runs")
    if dry_run:
        tell(describe_study(wanted, given, parse_names(only), parse_seeds(seeds)), as_json)
        return
    if finished:
        result = finished_study(wanted, given)
    else:
        with open_display() as display:
            result = run_study(
                wanted,
                given,
                display,
                verbose=logger.isEnabledFor(logging.INFO),
                only=parse_names(only),
                seeds=parse_seeds(seeds),
            )
    url = study_folder(wanted, given).url
    text = "\n".join([*markdown(wanted, result), "", f"table and charts: {url}"])
    tell(Told(text, {"name": wanted.name, "folder": url, **result.to_json()}), as_json)
