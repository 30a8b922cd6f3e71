"""The commands that make and ask single networks: `sailloft convert`, `train-teacher` and `predict`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from jobs.arguments import DeviceOption, DryRunOption, JsonOption, OverridesArgument, SeedOption
from jobs.completion import teacher_recipe_names
from jobs.pointing import pointed_in_order
from jobs.told import tell

__all__ = ["CONVERT_EXAMPLES", "PREDICT_EXAMPLES", "TRAIN_TEACHER_EXAMPLES", "convert", "predict", "train_teacher"]

CONVERT_EXAMPLES = (
    "\b\nExamples:\n"
    "  sailloft convert models/Qwen2.5-0.5B students/base patch_size_px=16\n"
    "  sailloft convert models/EVE-7B-HD-v2.0 students/base-7b\n"
    "  sailloft convert iter_9000.pth students/published --tokenizer models/tokenizer"
    " num_attention_heads=14 rope_theta=1000000 rms_norm_eps=1.0e-6\n"
    "  sailloft convert students/mine released --format released\n"
    "  sailloft convert sam2.1_hiera_large.pt teachers/sam2.1-large"
)

TRAIN_TEACHER_EXAMPLES = (
    "Examples:  sailloft train-teacher tiny-sam2 teachers/mine   |   "
    "sailloft train-teacher my.yaml teachers/mine num_steps=500"
)

PREDICT_EXAMPLES = (
    "\b\nExamples:\n"
    "  sailloft predict CHECKPOINT scene.png 'the red ring' --to masked.png\n"
    "  sailloft predict CHECKPOINT photo.jpg 'describe <region1>' --box 40,60,200,180\n"
    "  sailloft predict s3://bucket/student photo.jpg 'the dog left of <region1>' --point 80,90 --json"
)

NewFolderArgument = Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make; it must not hold anything.")]


class StudentForm(Enum):
    """What `convert` can write."""

    STUDENT = "student"
    RELEASED = "released"


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN",
            help="Folder of a base (Qwen2, Qwen2.5, Mistral, SOLO, EVEv2) or of a student; "
            "file or folder of released weights; a teacher's official .pt (SAM 2) or .pkl (Mask2Former).",
        ),
    ],
    output: NewFolderArgument,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FIELD=VALUE",
            help="Fields of the student, or of the teacher, that the weights leave open, such as mask_stride_px=2; "
            "the value is YAML.",
        ),
    ] = None,
    form: Annotated[
        StudentForm, typer.Option("--format", help="A checkpoint of ours, or one file by the released names.")
    ] = StudentForm.STUDENT,
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", metavar="FOLDER", help="Where tokenizer.json lies, if not beside the weights."),
    ] = None,
    seed: SeedOption = 0,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Makes a student of a public base or of released weights, released weights of a student, or a teacher.

    Nothing is fetched: give what you have downloaded. Weights keep their number type. A dry run reads and converts,
    which finds whatever doesn't fit, and writes nothing.
    """
    from jobs.convert import convert as make
    from jobs.display import open_display

    with open_display() as display:
        told = make(
            source,
            output,
            settings or [],
            form=form.value,
            tokenizer=tokenizer,
            seed=seed,
            display=display,
            dry_run=dry_run,
        )
    tell(told, as_json)


def train_teacher(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="Path of a YAML file, or tiny-mask2former or tiny-sam2.",
            autocompletion=teacher_recipe_names,
        ),
    ],
    output: NewFolderArgument,
    overrides: OverridesArgument = None,
    device: DeviceOption = "cpu",
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Trains a small teacher on drawn scenes, in one process without Ray, and shows how good it is.

    The folder is written at the end and at once: whatever interrupts the training leaves nothing behind.
    """
    from jobs.display import open_display
    from jobs.train_teacher import make_teacher

    with open_display() as display:
        told = make_teacher(recipe, output, overrides or [], device=device, display=display, dry_run=dry_run)
    tell(told, as_json)


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
        Path | None, typer.Option("--to", metavar="FILE.png", help="Write the picture with masks and regions.")
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", metavar="N", min=1, help="Upper bound of the answer.")
    ] = 64,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Asks a student about a picture: shows its text, then each mask with score and area.

    Regions may be given several times and are numbered in the order on the command line. Coordinates are pixels of the
    upright picture as viewers show it, x to the right and y down. JSON has text, scores, masks as COCO RLE, and size.
    """
    from jobs.predict import Asked
    from jobs.predict import predict as answer

    pointed = pointed_in_order(context.meta, {"box": box, "point": point, "scribble": scribble, "mask": mask})
    answer(Asked(checkpoint, image, text, pointed, output, as_json, max_new_tokens, device))
