"""The command `sailloft submit`, and the commands `sailloft jobs ...` on what was submitted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.arguments import (
    DryRunOption,
    JsonOption,
    OptionalRecipeArgument,
    OverridesArgument,
    RecipeArgument,
    StagesOption,
)
from jobs.completion import job_commands
from jobs.told import Told, tell
from storage.errors import UsageError

__all__ = ["SCHEDULE_EXAMPLES", "SUBMIT_EXAMPLES", "jobs_app", "schedule", "submit"]

SUBMIT_EXAMPLES = (
    "\b\nExamples:\n"
    "  sailloft submit my.yaml workspace=s3://bucket/prefix --address http://head:8265 --follow\n"
    "  sailloft submit my.yaml --stages train,evaluate --after my-0123456789ab-1\n"
    "  sailloft submit my.yaml --code my_plugins --runtime-env libraries.yaml --env HF_TOKEN --dry-run\n"
    "  sailloft submit --attach my-0123456789ab-1"
)

SCHEDULE_EXAMPLES = (
    "\b\nExamples:\n"
    "  sailloft schedule my.yaml --cron '0 3 * * *'\n"
    "  sailloft schedule my.yaml --cron '0 3 * * mon-fri' --time-zone Europe/Berlin --kuberay --to manifests\n"
    "  sailloft schedule my.yaml --kuberay --settings cluster.yaml --command run --to manifests\n"
    "  sailloft schedule my.yaml --cron @weekly --kuberay | kubectl apply -f -"
)

AddressOption = Annotated[
    str, typer.Option("--address", metavar="URL", envvar="RAY_API_SERVER_ADDRESS", help="Job server of the cluster.")
]
JobArgument = Annotated[str, typer.Argument(metavar="ID", help="Id of a job, as submit printed it.")]

CommandOption = Annotated[
    str,
    typer.Option(
        "--command",
        metavar="COMMAND",
        help="What runs: run, retrain, curate, teach, train or evaluate.",
        autocompletion=job_commands,
    ),
]

_ADDRESS = "http://127.0.0.1:8265"

jobs_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Shows and stops jobs that were submitted to a cluster."
)


def submit(
    recipe: OptionalRecipeArgument = None,
    overrides: OverridesArgument = None,
    address: AddressOption = _ADDRESS,
    follow: Annotated[bool, typer.Option("--follow", help="Wait, show the log, and exit as the job does.")] = False,
    attach: Annotated[
        str | None, typer.Option("--attach", metavar="ID", help="Hand in nothing: follow this job from its beginning.")
    ] = None,
    command: CommandOption = "run",
    stages: StagesOption = None,
    after: Annotated[
        list[str] | None,
        typer.Option("--after", metavar="ID", help="Begin when this job has succeeded; may be repeated."),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="NAME", help="Variable to pass on, by name or pattern; AWS_* by default."),
    ] = None,
    runtime_env: Annotated[
        str | None,
        typer.Option("--runtime-env", metavar="FILE", help="Ray runtime environment as YAML, or sam2 or detectron2."),
    ] = None,
    code: Annotated[
        Path | None,
        typer.Option("--code", metavar="DIR", help="Your own modules: data, weights and secrets in it stay here."),
    ] = None,
    code_limit_mib: Annotated[
        float, typer.Option("--code-limit-mib", metavar="MIB", min=0.001, help="Upper bound of what --code may send.")
    ] = 10.0,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Hands a recipe to a cluster through the Ray Jobs API; unless you say more, only its text travels.

    A dry run lists what would travel, and asks nobody. Versions are compared first. The job's id follows from the
    recipe's address: the same command again, after a lost connection, finds the job at work and starts no other.
    """
    from jobs.config import load_recipe
    from jobs.stages import parse_commands
    from jobs.submit import Travels, describe_order, make_order, submit_order
    from jobs.submit import attach as follow_again

    if attach is not None:
        if recipe is not None:
            raise UsageError(f"--attach {attach}: expected no recipe beside it, got {recipe}; leave one of them out")
        if dry_run or as_json:
            raise UsageError(
                f"--attach {attach}: expected no --dry-run or --json beside it; `sailloft jobs status {attach} --json` "
                "tells of the job"
            )
        _end(follow_again(attach, address, _write).exit_code)
        return
    if recipe is None:
        raise UsageError("sailloft submit: expected a recipe, or --attach ID; got neither")
    order = make_order(
        load_recipe(recipe, overrides or []),
        command,
        None if stages is None else parse_commands(stages),
        after or (),
        Travels(tuple(env or ()), runtime_env, code, code_limit_mib),
    )
    if dry_run:
        tell(describe_order(order, address), as_json)
        return
    if as_json and follow:
        raise UsageError("--json: not with --follow, which shows the job's log; `sailloft jobs status ID --json` does")
    done = submit_order(order, address, follow, _ignore if as_json else _write)
    if as_json:
        tell(Told("", {"job_id": done.job_id, "address": address, "is_new": done.is_new}), as_json)
    _end(done.exit_code)


def schedule(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    cron: Annotated[
        str | None,
        typer.Option("--cron", metavar="EXPRESSION", help="When: minute, hour, day, month, weekday; or @daily."),
    ] = None,
    time_zone: Annotated[
        str | None, typer.Option("--time-zone", metavar="NAME", help="Of the hours, such as Europe/Berlin.")
    ] = None,
    command: CommandOption = "retrain",
    now: Annotated[bool, typer.Option("--now", help="Run once at the start, too; not with --kuberay.")] = False,
    kuberay: Annotated[bool, typer.Option("--kuberay", help="Write manifests for KubeRay; run nothing.")] = False,
    output: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="Folder of the manifests; else they are printed.")
    ] = None,
    settings: Annotated[
        Path | None,
        typer.Option("--settings", metavar="FILE", help="YAML above the recipe's section kubernetes."),
    ] = None,
    ray_cron_job: Annotated[
        bool, typer.Option("--ray-cron-job", help="A RayCronJob, which KubeRay has behind a gate, and no CronJob.")
    ] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Runs a recipe again and again: here, in the foreground, or on Kubernetes by manifests.

    Here, one run at a time: a turn that comes too early is left out, missed ones are made up for by one. SIGTERM and
    Ctrl-C end the schedule and the run at work. With --kuberay and no --cron the manifests are of one run. A dry run
    shows the next turns, or the files that would be written.
    """
    from jobs.kubernetes.manifests import as_yaml
    from jobs.schedule import Turn, describe_manifests, describe_turns, make_manifests, schedule_here, write_manifests

    turn = Turn(recipe, tuple(overrides or ()), command)
    if not kuberay:
        if cron is None:
            raise UsageError("sailloft schedule: expected --cron EXPRESSION, such as --cron '0 3 * * *'; got none")
        if dry_run:
            tell(describe_turns(turn, cron, time_zone, now), as_json)
            return
        if as_json:
            raise UsageError("--json: not of a schedule that is kept here; with --dry-run it shows the next turns")
        schedule_here(turn, cron, time_zone, now, typer.echo)
        return
    files = make_manifests(turn, cron, settings, time_zone, "raycronjob" if ray_cron_job else "cronjob")
    if dry_run or as_json:
        if not dry_run and output is not None:
            write_manifests(files, output)
        tell(describe_manifests(files, output, dry_run), as_json)
        return
    if output is None:
        # A cluster that stays, and a run at once, are not what a schedule is applied for.
        left_out = {"raycluster.yaml", "rayjob.yaml" if cron is not None else ""}
        shown = [document for name, documents in files.items() if name not in left_out for document in documents]
        typer.echo(as_yaml(shown), nl=False)
        return
    for path in write_manifests(files, output):
        typer.echo(path)


@jobs_app.command("launch", hidden=True)
def launch(
    job: Annotated[Path, typer.Argument(metavar="FILE", help="RayJob as JSON, without a name of its own.")],
) -> None:
    """Creates a RayJob from a schedule's pod, unless one is at work, and waits for its end."""
    from jobs.kubernetes.launch import launch_file

    _end(launch_file(job, _write))


@jobs_app.command(
    "list",
    short_help="Lists the cluster's jobs, the oldest first.",
    epilog="Example:  sailloft jobs list --address http://head:8265",
)
def list_jobs(
    address: AddressOption = _ADDRESS,
    every: Annotated[bool, typer.Option("--all", help="Jobs of other programs, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Lists the cluster's jobs, the oldest first."""
    from jobs.submission.listing import jobs_json, jobs_text, known_jobs

    found = known_jobs(address, every)
    typer.echo(jobs_json(found) if as_json else jobs_text(found))


@jobs_app.command(
    "status",
    short_help="Shows how a job is doing.",
    epilog="Example:  sailloft jobs status my-0123456789ab-1 --address http://head:8265",
)
def status(
    job_id: JobArgument,
    address: AddressOption = _ADDRESS,
    as_json: JsonOption = False,
) -> None:
    """Shows how a job is doing, and what it was told to do."""
    from jobs.submission.listing import job_json, job_text, one_job

    found = one_job(job_id, address)
    typer.echo(job_json(found) if as_json else job_text(found))


@jobs_app.command(
    "logs",
    epilog="\b\nExamples:\n"
    "  sailloft jobs logs my-0123456789ab-1\n"
    "  sailloft jobs logs my-0123456789ab-1 --follow   (the same as submit --attach)",
)
def logs(
    job_id: JobArgument,
    address: AddressOption = _ADDRESS,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the job ends, and exit as it does.")] = False,
) -> None:
    """Shows what a job has written."""
    from jobs.submission.listing import log_of
    from jobs.submit import attach

    if follow:
        _end(attach(job_id, address, _write).exit_code)
    else:
        _write(log_of(job_id, address))


@jobs_app.command(
    "stop",
    short_help="Ends a job in good order and waits for it.",
    epilog="Example:  sailloft jobs stop my-0123456789ab-1 --address http://head:8265 --dry-run",
)
def stop(
    job_id: JobArgument,
    address: AddressOption = _ADDRESS,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Ends a job in good order and waits for it: training writes a state, and the same submission continues.

    What has not ended after a minute is killed by Ray.
    """
    from jobs.submission.listing import stop_job

    tell(stop_job(job_id, address, dry_run), as_json)


@jobs_app.command(
    "wait",
    short_help="Waits for the end of a job, and exits as it did.",
    epilog="Example:  sailloft jobs wait my-0123456789ab-1 && sailloft run next.yaml",
)
def wait(
    job_id: JobArgument,
    address: Annotated[
        str | None,
        typer.Option("--address", metavar="URL", help="Job server; by default that of the cluster it runs in."),
    ] = None,
) -> None:
    """Waits until a job has ended, and exits as it did; jobs of `--after` begin with it."""
    from jobs.submission.listing import await_job

    ended, text = await_job(job_id, address)
    typer.echo(text, err=bool(ended))
    _end(ended)


def _ignore(text: str) -> None:
    del text


def _write(text: str) -> None:
    typer.echo(text, nl=False)


def _end(exit_code: int | None) -> None:
    if exit_code:
        raise typer.Exit(exit_code)
