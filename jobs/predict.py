"""One question on one picture, from the command line: a student's text, masks and, if asked for, a picture of them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image

from jobs.colour import wants_colour
from jobs.pointing import Pointed
from model.drawing import MASK_COLOURS, draw_masks
from model.predictor import Answer
from model.regions import region_mask
from pipelines.asking import load_predictor, upright_image, upright_rgb
from storage.errors import UsageError
from storage.masks import encode_mask

__all__ = ["Asked", "answer_json", "answer_lines", "predict"]

_REGIONS = "--box, --point, --scribble and --mask give <region1>, <region2> ... in the order on the command line"
_MASK_MODES = ("1", "L", "P", "RGB")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as the command line has it.

    Attributes:
        checkpoint: folder or URL.
        image: file of the picture.
        text: the question.
        pointed: the regions, `<region1>` first.
        output: file for the picture with masks, if any.
        as_json: one JSON object instead of lines.
        max_new_tokens: upper bound of the answer.
        device: where the student runs.
    """

    checkpoint: str
    image: Path
    text: str
    pointed: Sequence[Pointed] = ()
    output: Path | None = None
    as_json: bool = False
    max_new_tokens: int = 64
    device: str = "cpu"


def predict(asked: Asked) -> None:
    """Answers and shows the answer on standard output; on a terminal, the text as it comes.

    Raises:
        UsageError: a picture, region, text, output or checkpoint that can't be used.
        ObjectNotFound: no checkpoint there.
    """
    _check_text(asked.text, asked.pointed)
    _check_output(asked.output, asked.image)
    pixels = upright_rgb(f"picture {asked.image}", asked.image)
    regions = [_region(number, pointed, pixels) for number, pointed in enumerate(asked.pointed, 1)]
    predictor = load_predictor(asked.checkpoint, asked.device)
    known = len(predictor.tokenizer.visual_prompts)
    if len(regions) > known:
        raise UsageError(f"regions: expected at most {known}, which this student can tell apart, got {len(regions)}")
    is_streamed = sys.stdout.isatty() and not asked.as_json
    on_text: Callable[[str], None] | None = _show_piece if is_streamed else None
    answer = predictor.predict(pixels, asked.text, regions, asked.max_new_tokens, on_text)
    if asked.output is not None:
        _write(draw_masks(pixels, answer.masks, regions), asked.output)
    if asked.as_json:
        typer.echo(answer_json(answer, pixels.shape[:2]))
        return
    typer.echo("" if is_streamed else _printable(answer.text))
    is_coloured = asked.output is not None and wants_colour(sys.stdout)
    for line in answer_lines(answer, is_coloured):
        typer.echo(line, color=is_coloured)
    if asked.output is not None:
        typer.echo(f"picture: {asked.output}")


def answer_lines(answer: Answer, is_coloured: bool = False) -> list[str]:
    """One line per mask, led by a square in the colour that the mask is drawn in, if wanted."""
    lines: list[str] = []
    for number, (mask, score) in enumerate(zip(answer.masks, answer.scores, strict=True)):
        colour = MASK_COLOURS[number % len(MASK_COLOURS)]
        square = typer.style("■ ", fg=colour) if is_coloured else ""
        area = f"{int(mask.sum())} px  {mask.mean():.1%} of the picture" if mask.any() else "empty"
        lines.append(f"{square}mask {number + 1}  score {score:.2f}  {area}")
    return lines or ["no mask"]


def answer_json(answer: Answer, size_px: Sequence[int]) -> str:
    """The answer as one JSON object: text, scores, masks as compressed COCO RLE, size (height, width)."""
    masks = [encode_mask(mask) for mask in answer.masks]
    return json.dumps(
        {
            "text": answer.text,
            "scores": list(answer.scores),
            "masks": [{"size": [mask.height, mask.width], "counts": mask.counts.decode("ascii")} for mask in masks],
            "size": list(size_px),
        }
    )


def _show_piece(piece: str) -> None:
    typer.echo(_printable(piece), nl=False)


def _printable(text: str) -> str:
    """Without what would steer a terminal: a student can write any byte."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in text)


def _check_text(text: str, pointed: Sequence[Pointed]) -> None:
    if not text.strip():
        raise UsageError(f"TEXT: expected a question, got {text!r}; write one such as 'the red ring'")
    for number, region in enumerate(pointed, 1):
        if f"<region{number}>" not in text and f"<Prompt{number - 1}>" not in text:
            raise UsageError(
                f"{region}: expected it named in the text as <region{number}>, got {text!r}; "
                "name it, or leave the option out"
            )
    for name, number in re.findall(r"(<region(\d+)>)", text):
        if not 1 <= int(number) <= len(pointed):
            raise UsageError(f"{name}: expected one of {len(pointed)} regions, got {text!r}; {_REGIONS}")


def _check_output(output: Path | None, image: Path) -> None:
    """Says what is wrong with the file before the student has worked for it."""
    if output is None:
        return
    known = Image.registered_extensions()
    if known.get(output.suffix.lower()) not in Image.SAVE:
        raise UsageError(
            f"--to {output}: expected a name that ends like a picture's, got {output.suffix or 'no ending'!r}; "
            "end it in .png"
        )
    if not output.parent.is_dir():
        raise UsageError(f"--to {output}: expected a folder {output.parent}, found none; make it first")
    if output.exists() and image.exists() and output.samefile(image):
        raise UsageError(f"--to {output}: expected another file than the picture itself; choose another name")


def _region(number: int, pointed: Pointed, pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    height, width = pixels.shape[:2]
    if pointed.kind == "mask":
        return _read_mask(pointed, height, width)
    try:
        return region_mask(pointed.region(), height, width)
    except UsageError:
        raise  # is a ValueError too
    except ValueError as error:
        raise UsageError(f"<region{number}> ({pointed}): {error}") from error


def _read_mask(pointed: Pointed, height: int, width: int) -> NDArray[np.bool_]:
    image = upright_image(f"--mask {pointed.value}", pointed.value)
    if image.size != (width, height):
        raise UsageError(
            f"{pointed}: expected the picture's size, {width} x {height} px (width x height), got "
            f"{image.width} x {image.height} px; scale it without interpolation"
        )
    levels = np.unique(np.asarray(image.convert("L"))) if image.mode in _MASK_MODES else np.arange(0)
    if len(levels) not in (1, 2) or not levels[-1] or (len(levels) == 2 and levels[0]):
        found = f"{len(levels)} levels from {levels[0]} to {levels[-1]}" if len(levels) else f"mode {image.mode}"
        raise UsageError(
            f"{pointed}: expected black outside the region and one other level inside, got {found}; "
            "save it in black and white, as PNG, without alpha and without smoothing"
        )
    return np.asarray(image.convert("L")) > 0


def _write(picture: Image.Image, output: Path) -> None:
    try:
        picture.save(output)
    except OSError as error:
        raise UsageError(
            f"--to {output}: expected a file that can be written, got: {error}; choose another place"
        ) from error
