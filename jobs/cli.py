"""The command `sailloft`. Whatever is heavy (Ray, torch, transformers) is imported by the command that needs it."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.benchmark_commands import benchmark_app
from jobs.corpus_commands import corpus_app
from jobs.feature_commands import features_app
from jobs.pointing import InOrder, pointed_in_order
from storage.errors import SailloftError

if TYPE_CHECKING:
    from jobs.config import Recipe
    from jobs.runner import RunResult

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
    epilog="Examples:  sailloft demo   |   sailloft run my.yaml training.num_steps=500 --dry-run",
)
app.add_typer(benchmark_app, name="benchmark")
app.add_typer(corpus_app, name="corpus")
app.add_typer(features_app, name="features")

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="Path of a YAML file, or a packaged recipe such as demo.")
]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[FIELD=VALUE]...",
        help="Overrides such as training.num_steps=500; the value is YAML, a number steps into a list.",
    ),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Only show the resolved recipe, the addresses, and what is missing.")
]


def _print_version(wanted: bool) -> None:
    if wanted:
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
    show_version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Sets up logging for every command."""
    del show_version
    level = logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for package in ("jobs", "model", "pipelines", "storage", "teachers"):
        logging.getLogger(package).setLevel(level)


@app.command(
    epilog="Examples:  sailloft demo   |   sailloft demo --real DIR   |   sailloft demo --recipe demo-all-tasks"
)
def demo(
    overrides: OverridesArgument = None,
    real: Annotated[
        Path | None, typer.Option("--real", metavar="DIR", help="Use photographs: a folder in RefCOCO layout.")
    ] = None,
    recipe: Annotated[str | None, typer.Option("--recipe", help="Another recipe than demo or demo-real.")] = None,
    workspace: Annotated[str | None, typer.Option("--workspace", metavar="URL", help="Where outputs go.")] = None,
    dry_run: DryRunOption = False,
) -> None:
    """Runs the whole flow on this machine and ends with a page of pictures, report.html."""
    from jobs.demo import demo_overrides, next_steps

    name = recipe or ("demo-real" if real else "demo")
    resolved = _load(name, [*demo_overrides(real, workspace), *(overrides or [])])
    if _run(resolved, None, dry_run) is not None:
        typer.echo(next_steps(name))


@app.command(epilog="Example:  sailloft run my.yaml training.num_steps=500 workspace=s3://bucket/prefix --dry-run")
def run(recipe: RecipeArgument, overrides: OverridesArgument = None, dry_run: DryRunOption = False) -> None:
    """Runs every stage of a recipe whose output is missing, and writes the report."""
    _run(_load(recipe, overrides), None, dry_run)


def _until(command: str, summary: str) -> Callable[..., None]:
    def until(recipe: RecipeArgument, overrides: OverridesArgument = None, dry_run: DryRunOption = False) -> None:
        _run(_load(recipe, overrides), command, dry_run)

    until.__doc__ = summary
    return until


for _command, _summary in (
    ("curate", "Makes the corpus of a recipe (and its scenes, if it has any)."),
    ("train", "Trains the student, after making what has to be there before."),
):
    app.command(_command, epilog=f"Example:  sailloft {_command} my.yaml --dry-run")(_until(_command, _summary))


@app.command(epilog="Examples:  sailloft evaluate my.yaml   |   sailloft evaluate my.yaml evaluation.suite=perbench")
def evaluate(recipe: RecipeArgument, overrides: OverridesArgument = None, dry_run: DryRunOption = False) -> None:
    """Scores the trained student and shows the table, after making what has to be there before.

    Published scores stand beside one's own, marked as such; the table lies in the output as .md and .csv too.
    """
    resolved = _load(recipe, overrides)
    result = _run(resolved, "evaluate", dry_run)
    if result is not None:
        typer.echo("\n".join(["", *result.score_sheets()]))


@app.command(epilog="Example:  sailloft compare runs/a/evaluate/KEY runs/b/evaluate/KEY")
def compare(
    first: Annotated[str, typer.Argument(metavar="FIRST", help="Folder or URL of an evaluation: evaluate/<key>.")],
    second: Annotated[str, typer.Argument(metavar="SECOND", help="Another one, on the same questions.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """Compares two checkpoints on the same questions: differences of all scores, with paired intervals."""
    from jobs.compare import compare as differences_of
    from jobs.compare import differences_json, differences_text

    found = differences_of(first, second)
    typer.echo(differences_json(found) if as_json else differences_text(found))


@app.command(epilog="Examples:  sailloft teach my.yaml --dry-run   |   sailloft teach my.yaml --verify 100")
def teach(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    dry_run: DryRunOption = False,
    verify: Annotated[
        int | None,
        typer.Option("--verify", metavar="N", min=1, help="Recompute N stored images of each teacher and compare."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Which images are drawn to be verified.")] = 0,
) -> None:
    """Makes the teachers' features, and what has to be there before."""
    resolved = _load(recipe, overrides)
    if verify is None:
        _run(resolved, "teach", dry_run)
        return
    from jobs.verify import verify_recipe

    typer.echo(verify_recipe(resolved, verify, seed, verbose=logger.isEnabledFor(logging.INFO)))


@app.command(epilog="Examples:  sailloft plan my.yaml   |   sailloft plan my.yaml features.num_actors=64 --probe 64")
def plan(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    probe: Annotated[
        int, typer.Option("--probe", metavar="N", min=0, help="Measure each teacher on N images, on the cluster.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Shows what would run, and forecasts bytes, requests, hours and price of features, tokens and hours of training.

    Nothing is executed but the probe, which removes what it writes.
    """
    from jobs.plan import plan_recipe

    found = plan_recipe(_load(recipe, overrides), probe, verbose=logger.isEnabledFor(logging.INFO))
    typer.echo(json.dumps(found.to_json(), indent=1) if as_json else "\n".join(found.lines()))


@app.command(
    epilog="Examples:  sailloft doctor my.yaml   |   sailloft doctor pixel-sail-0.5b curation.root=s3://bucket/data"
)
def doctor(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    pictures: Annotated[
        int, typer.Option("--pictures", metavar="N", min=0, help="Pictures of each source that are opened.")
    ] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """Looks for the source files and pictures of a recipe before a run, and says where missing ones may be.

    Ends with 3 if something is missing.
    """
    from jobs.display import open_display
    from jobs.doctor import examination_json, examination_text, examine

    with open_display() as display:
        found = examine(_load(recipe, overrides), pictures, display.stage("doctor"))
    typer.echo(examination_json(found) if as_json else examination_text(found))
    if any(source.findings for source in found):
        raise typer.Exit(3)


@app.command(
    epilog="Examples:  sailloft study ablation   |   sailloft study my.yaml workspace=/data/runs training.use_gpu=true"
)
def study(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A packaged study, or path of a YAML file.")],
    overrides: OverridesArgument = None,
) -> None:
    """Runs a recipe with one thing changed at a time, and shows a table with intervals.

    What an earlier study or run made is used again; an interrupted study continues.
    """
    from jobs.display import open_display
    from jobs.study import load_study, run_study

    with open_display() as display:
        result = run_study(load_study(name), overrides or [], display, verbose=logger.isEnabledFor(logging.INFO))
    typer.echo("\n".join(result.markdown()))


@app.command(
    epilog="Example:  sailloft submit my.yaml workspace=s3://bucket/prefix --address http://head:8265 --follow"
)
def submit(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    address: Annotated[
        str, typer.Option("--address", metavar="URL", help="Job server of the cluster.")
    ] = "http://127.0.0.1:8265",
    follow: Annotated[bool, typer.Option("--follow", help="Wait, show the log, and exit as the job does.")] = False,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="NAME", help="Variable to pass on, by name or pattern; AWS_* by default."),
    ] = None,
) -> None:
    """Hands a recipe to a cluster through the Ray Jobs API; only the recipe's text travels."""
    from jobs.submit import PASSED_BY_DEFAULT, submit_recipe

    tree = _load(recipe, overrides).model_dump(mode="json")
    done = submit_recipe(tree, address, env or PASSED_BY_DEFAULT, follow, lambda text: typer.echo(text, nl=False))
    if done.exit_code:
        raise typer.Exit(done.exit_code)
    if not follow:
        typer.echo(f"follow it:  ray job logs --address {address} --follow {done.job_id}")


class _Form(Enum):
    """What `convert` can write."""

    STUDENT = "student"
    RELEASED = "released"


@app.command(
    epilog="\b\nExamples:\n"
    "  sailloft convert models/Qwen2.5-0.5B students/base patch_size_px=16\n"
    "  sailloft convert models/EVE-7B-HD-v2.0 students/base-7b\n"
    "  sailloft convert iter_9000.pth students/published --tokenizer models/tokenizer"
    " num_attention_heads=14 rope_theta=1000000 rms_norm_eps=1.0e-6\n"
    "  sailloft convert students/mine released --to released\n"
    "  sailloft convert sam2.1_hiera_large.pt teachers/sam2.1-large"
)
def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN",
            help="Folder of a base (Qwen2, Qwen2.5, Mistral, SOLO, EVEv2) or of a student; "
            "file or folder of released weights; a teacher's official .pt (SAM 2) or .pkl (Mask2Former).",
        ),
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make; it must not hold anything.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FIELD=VALUE]...",
            help="Fields of the student, or of the teacher, that the weights leave open, such as mask_stride_px=2; "
            "the value is YAML.",
        ),
    ] = None,
    form: Annotated[
        _Form, typer.Option("--to", help="A checkpoint of ours, or one file by the released names.")
    ] = _Form.STUDENT,
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", metavar="FOLDER", help="Where tokenizer.json lies, if not beside the weights."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of what is drawn freshly.")] = 0,
) -> None:
    """Makes a student of a public base or of released weights, released weights of a student, or a teacher.

    Nothing is fetched: give what you have downloaded. Weights keep their number type.
    """
    from jobs.convert import convert as make
    from jobs.display import open_display

    with open_display() as display:
        summary = make(
            source,
            output,
            settings or [],
            form=form.value,
            tokenizer=tokenizer,
            seed=seed,
            display=display,
        )
    typer.echo(summary)


@app.command(
    "train-teacher",
    epilog="Examples:  sailloft train-teacher tiny-sam2 teachers/mine   |   "
    "sailloft train-teacher my.yaml teachers/mine num_steps=500",
)
def train_teacher(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="Path of a YAML file, or tiny-mask2former or tiny-sam2.")
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make; it must not hold anything.")],
    overrides: OverridesArgument = None,
    device: Annotated[str, typer.Option("--device", help="Where it is trained, such as cuda.")] = "cpu",
) -> None:
    """Trains a small teacher on drawn scenes, in one process without Ray, and shows how good it is.

    The folder is written at the end and at once: whatever interrupts the training leaves nothing behind.
    """
    from jobs.display import open_display
    from jobs.train_teacher import make_teacher

    with open_display() as display:
        summary = make_teacher(recipe, output, overrides or [], device=device, display=display)
    typer.echo(summary)


@app.command(
    cls=InOrder,
    epilog="\b\nExamples:\n"
    "  sailloft predict CHECKPOINT scene.png 'the red ring' --output masked.png\n"
    "  sailloft predict CHECKPOINT photo.jpg 'describe <region1>' --box 40,60,200,180\n"
    "  sailloft predict s3://bucket/student photo.jpg 'the dog left of <region1>' --point 80,90 --json",
)
def predict(
    context: typer.Context,
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="Folder or URL of a trained student.")],
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A picture: PNG, JPEG or what else PIL reads.")],
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="The question; <region1> is the first region given, and so on.")
    ],
    box: Annotated[
        list[str] | None, typer.Option("--box", metavar="x0,y0,x1,y1", help="A region: a box, in pixels.")
    ] = None,
    point: Annotated[list[str] | None, typer.Option("--point", metavar="x,y", help="A region: a point.")] = None,
    scribble: Annotated[
        list[str] | None,
        typer.Option("--scribble", metavar="x,y;x,y;...", help="A region: a line through points; quote it."),
    ] = None,
    mask: Annotated[
        list[str] | None,
        typer.Option("--mask", metavar="FILE.png", help="A region: black outside, one other level inside."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE.png", help="Write the picture with masks and regions.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object: text, scores, masks as COCO RLE, size.")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Upper bound of the answer.")] = 64,
    device: Annotated[str, typer.Option("--device", help="Where the student runs, such as cuda.")] = "cpu",
) -> None:
    """Asks a student about a picture: shows its text, then each mask with score and area.

    Regions may be given several times and are numbered in the order on the command line. Coordinates are pixels of the
    upright picture as viewers show it, x to the right and y down.
    """
    from jobs.predict import Asked
    from jobs.predict import predict as answer

    pointed = pointed_in_order(context.meta, {"box": box, "point": point, "scribble": scribble, "mask": mask})
    answer(Asked(checkpoint, image, text, pointed, output, as_json, max_new_tokens, device))


@app.command(
    epilog="Examples:  sailloft view runs/benchmarks/0123...   |   sailloft view URL --reviewer 'Ada' --port 8400"
)
def view(
    url: Annotated[str, typer.Argument(metavar="URL", help="Drafts of a benchmark, as `benchmark build` printed it.")],
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port of this machine; 0: any that is free.")
    ] = 0,
    reviewer: Annotated[
        str | None, typer.Option("--reviewer", metavar="NAME", help="Name of who reviews; else the page asks.")
    ] = None,
    reviewers: Annotated[
        int, typer.Option("--reviewers", metavar="N", min=1, help="People who decide on each item.")
    ] = 2,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the address in a browser, too.")] = False,
) -> None:
    """Shows an output in the browser: the review of a benchmark's drafts.

    Served to this machine alone; the address that is printed holds a token, without which nothing is shown.
    """
    from jobs.view import view as show

    show(url, port, reviewer, reviewers, open_browser)


def _load(recipe: str, overrides: list[str] | None) -> Recipe:
    from jobs.config import load_recipe

    return load_recipe(recipe, overrides or [])


def _run(recipe: Recipe, until: str | None, dry_run: bool) -> RunResult | None:
    """Runs and returns what was done or, on a dry run, describes."""
    from jobs.display import open_display
    from jobs.runner import describe_plan, run_recipe

    if dry_run:
        typer.echo(describe_plan(recipe, until))
        return None
    with open_display() as display:
        result = run_recipe(recipe, display, until, verbose=logger.isEnabledFor(logging.INFO))
    typer.echo(result.summary())
    return result


def main() -> int:
    """Runs the command line.

    Returns:
        The exit code: 0 done or nothing to do, 2 wrong usage or recipe, 3 bad data, 4 infrastructure,
        130 or 143 interrupted.
    """
    from jobs.session import interruptible

    try:
        with interruptible():
            app(prog_name="sailloft")
    except SailloftError as error:
        typer.echo(f"error: {error}", err=True)
        logger.debug("the error came from here", exc_info=True)
        return error.exit_code
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if code > 128:
            typer.echo("interrupted; what is finished stays, the same command continues", err=True)
        return code
    return 0
