"""The command `sailloft`. Whatever is heavy (Ray, torch, transformers) is imported by the command that needs it."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from jobs import flow_commands as flow
from jobs.arguments import DeviceOption
from jobs.benchmark_commands import benchmark_app
from jobs.cluster_commands import SCHEDULE_EXAMPLES, SUBMIT_EXAMPLES, jobs_app, schedule, submit
from jobs.colour import emphasised, wants_colour
from jobs.corpus_commands import corpus_app
from jobs.doctor_command import DOCTOR_EXAMPLES, doctor
from jobs.feature_commands import features_app
from jobs.interruption import interruptible
from jobs.lineage_commands import FORGET_EXAMPLES, LINEAGE_EXAMPLES, forget, lineage
from jobs.logs import OUTCOME_LOGGER, LogFormat, LogSettings, log_settings, set_up_logging
from jobs.pointing import InOrder
from jobs.registry_commands import registry_app
from jobs.run_commands import runs_app
from jobs.student_commands import (
    CONVERT_EXAMPLES,
    PREDICT_EXAMPLES,
    TRAIN_TEACHER_EXAMPLES,
    convert,
    predict,
    train_teacher,
)
from jobs.study_commands import STUDY_EXAMPLES, study
from jobs.system_errors import told_plainly
from storage.errors import InfrastructureError, SailloftError
from storage.object_clients import finding_out_early
from storage.redaction import redact

__all__ = ["app", "main"]

logger = logging.getLogger(__name__)

app = typer.Typer(
    name="sailloft",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Makes Pixel-SAIL models: curates data, computes teacher features, trains a student and evaluates it.\n\n"
    "Every output is kept under an address made of what went into it: a second run does nothing, an "
    "interrupted one continues.",
    epilog="\b\nExamples:\n"
    "  sailloft doctor\n"
    "  sailloft demo\n"
    "  sailloft run my.yaml training.num_steps=500 --dry-run\n"
    "  sailloft --log-format json run my.yaml 2> run.jsonl\n"
    "  sailloft --log-format json --log-file run.jsonl --verbose run my.yaml",
)
app.add_typer(benchmark_app, name="benchmark")
app.add_typer(corpus_app, name="corpus")
app.add_typer(features_app, name="features")
app.add_typer(jobs_app, name="jobs")
app.add_typer(registry_app, name="registry")
app.add_typer(runs_app, name="runs")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            number = version("sailloft")
        except PackageNotFoundError:
            number = "(not installed; run from its sources)"
        typer.echo(f"sailloft {number}")
        raise typer.Exit


@app.callback()
def configure(
    debug: Annotated[bool, typer.Option("--debug", help="Log everything, with tracebacks of errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more, and show Ray's own messages.")] = False,
    log_format: Annotated[
        LogFormat,
        typer.Option("--log-format", envvar="SAILLOFT_LOG_FORMAT", help="Lines of the log: for people, or as JSON."),
    ] = LogFormat.HUMAN,
    log_file: Annotated[
        str | None,
        typer.Option(
            "--log-file",
            envvar="SAILLOFT_LOG_FILE",
            metavar="FILE",
            help="Write the log there, with progress; standard error stays for people.",
        ),
    ] = None,
    show_version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Sets up logging for every command."""
    del show_version
    level = logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING
    set_up_logging(LogSettings(log_format, level, log_file))


app.command(short_help="Runs the whole flow here and ends with pictures.", epilog=flow.DEMO_EXAMPLES)(flow.demo)
app.command(short_help="Runs every stage whose output is missing.", epilog=flow.RUN_EXAMPLES)(flow.run)
app.command(short_help="Makes the corpus.", epilog=flow.CURATE_EXAMPLES)(flow.curate)
app.command(short_help="Makes the teachers' features.", epilog=flow.TEACH_EXAMPLES)(flow.teach)
app.command(short_help="Trains the student.", epilog=flow.TRAIN_EXAMPLES)(flow.train)
app.command(short_help="Scores the trained student.", epilog=flow.EVALUATE_EXAMPLES)(flow.evaluate)
app.command(short_help="Compares two evaluations, with paired intervals.", epilog=flow.COMPARE_EXAMPLES)(flow.compare)
app.command(short_help="Forecasts what a recipe takes: bytes, hours, price.", epilog=flow.PLAN_EXAMPLES)(flow.plan)
app.command(short_help="Examines this machine, and a recipe's sources.", epilog=DOCTOR_EXAMPLES)(doctor)
app.command(short_help="Trains on what is new; the better student stays.", epilog=flow.RETRAIN_EXAMPLES)(flow.retrain)
app.command(short_help="Runs a recipe with one thing changed at a time.", epilog=STUDY_EXAMPLES)(study)
app.command(short_help="Hands a recipe to a cluster.", epilog=SUBMIT_EXAMPLES)(submit)
app.command(short_help="Runs a recipe again and again.", epilog=SCHEDULE_EXAMPLES)(schedule)
app.command(short_help="Makes a student or a teacher of public weights.", epilog=CONVERT_EXAMPLES)(convert)
app.command("train-teacher", short_help="Trains a small teacher on drawn scenes.", epilog=TRAIN_TEACHER_EXAMPLES)(
    train_teacher
)
app.command(cls=InOrder, short_help="Asks a student about a picture.", epilog=PREDICT_EXAMPLES)(predict)


@app.command(
    short_help="Shows a workspace or an output in the browser.",
    epilog="\b\nExamples:\n"
    "  sailloft view runs/demo --open\n"
    "  sailloft view s3://bucket/prefix/features/0123... --corpus s3://bucket/prefix/curate/4567...\n"
    "  sailloft view CHECKPOINT --corpus CORPUS\n"
    "  sailloft view EVALUATION --against EVALUATION\n"
    "  sailloft view DRAFTS --reviewer 'Ada'",
)
def view(
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL",
            help="A workspace, or one of its outputs, as the command that made it printed: a corpus, a feature store, "
            "a checkpoint, an evaluation, a report, drafts of a benchmark.",
        ),
    ],
    port: Annotated[
        int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="Port of this machine; 0: any that is free.")
    ] = 0,
    reviewer: Annotated[
        str | None, typer.Option("--reviewer", metavar="NAME", help="Name of who reviews; else the page asks.")
    ] = None,
    reviewers: Annotated[
        int, typer.Option("--reviewers", metavar="N", min=1, help="People who decide on each item.")
    ] = 2,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="URL", help="A second checkpoint or evaluation, shown side by side."),
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option(
            "--corpus",
            metavar="URL",
            help="Corpus whose samples a checkpoint is tried on, or of features or an evaluation that lie elsewhere.",
        ),
    ] = None,
    device: DeviceOption = "cpu",
    open_browser: Annotated[bool, typer.Option("--open", help="Open the address in a browser, too.")] = False,
) -> None:
    """Shows a workspace or an output in the browser.

    Runs, outputs and curves of a workspace; samples and rejects of a corpus; features as pictures; a checkpoint, to be
    tried on any picture; the predictions of an evaluation, best and worst; two checkpoints or evaluations side by side;
    the review of a benchmark's drafts.

    Served to this machine alone; the address that is printed holds a token, without which nothing is shown.
    """
    from jobs.view import Viewed
    from jobs.view import view as show

    show(Viewed(url, port, reviewer, reviewers, against, corpus, device, open_browser))


app.command(short_help="Shows what an output was made of, or what saw an image.", epilog=LINEAGE_EXAMPLES)(lineage)
app.command(short_help="Removes an image from a workspace, with a record.", epilog=FORGET_EXAMPLES)(forget)


def main() -> int:
    """Runs the command line.

    Returns:
        The exit code: 0 done or nothing to do, 2 wrong usage or recipe, 3 bad data, 4 infrastructure,
        130 or 143 interrupted; see docs/command-line.md.
    """
    try:
        with interruptible(), finding_out_early():
            app(prog_name="sailloft")
    except SailloftError as error:
        return _failed(error, str(error), error.exit_code)
    except OSError as error:
        # What no module has foreseen: a full disk, a folder without permission, too many open files.
        return _failed(error, told_plainly(error), InfrastructureError.exit_code)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if code > 128:
            _tell("interrupted; what is finished stays, the same command continues", logging.WARNING, code)
        return code
    return 0


def _failed(error: Exception, text: str, exit_code: int) -> int:
    """Says what went wrong; the log has where, on request."""
    _tell(f"error: {text}", logging.ERROR, exit_code, type(error).__name__)
    logger.debug("the error came from here", exc_info=True)
    return exit_code


def _tell(text: str, level: int, exit_code: int, error: str | None = None) -> None:
    """Says how a command ended, to people and in the log."""
    fields = {"exit_code": exit_code, **({} if error is None else {"error": error})}
    logging.getLogger(OUTCOME_LOGGER).log(level, "%s", text, extra={"fields": fields})
    if not log_settings().json_on_stderr:
        coloured = wants_colour(sys.stderr)
        typer.echo(emphasised(redact(text)) if coloured else redact(text), err=True, color=coloured)
