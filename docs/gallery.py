"""Asks a student one question per task and draws its answers: pictures in, pictures with masks out, a row for each.

    python docs/gallery.py gallery.png --run runs/demo
    python docs/gallery.py gallery.png --checkpoint DIR --corpus DIR
    python docs/gallery.py gallery.png --checkpoint DIR --picture photo.jpg --box 40,60,200,180 \
        --ask Referring "the dog on the left" --ask "Region caption" "describe <region1>"

Questions from a corpus have the truth beside the answer; tasks that the corpus lacks are left out.
"""

import argparse
import io
import json
import os
import random
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sailloft import Corpus, Predictor, Sample, Task, decode_mask, draw_masks, prompt_mask, question_of

SIDE, TEXT, GAP = 288, 330, 28  # px: a picture, the column of words, what is between them
INK, GREY, PALE, BLUE = "#1c1e24", "#70747f", "#dee0e4", "#1468c8"


@dataclass
class Question:
    """What is asked and, where it is known, what would be right."""

    task: str
    picture: Image.Image
    text: str
    prompts: Sequence[object] = ()
    truth: Sequence[np.ndarray] = ()
    truth_text: str | None = None


def num_targets(sample: Sample) -> int:
    """How many objects an expression means; -1 for a sample of another task."""
    return sum(map(len, sample.turns[0].targets)) if sample.task is Task.REFERRING else -1


TASKS = {
    "Referring": lambda sample: num_targets(sample) == 1,
    "No target": lambda sample: num_targets(sample) == 0,
    "Several targets": lambda sample: num_targets(sample) > 1,
    "Region caption": lambda sample: sample.task is Task.DESCRIPTION,
    "Visual-text referring": lambda sample: sample.task is Task.VISUAL_TEXT_REFERRING,
}


def questions_of_corpus(url: str, split: str, wording: str, seed: int) -> Iterator[Question]:
    """A question for each task, on pictures that differ if possible."""
    corpus, shown = Corpus.open(url), set()
    samples = list(corpus.samples(splits=[split]))
    random.Random(seed).shuffle(samples)
    for task, fits in TASKS.items():
        sample = min(filter(fits, samples), key=lambda sample: sample.image_id in shown, default=None)
        if sample is None:
            sys.stdout.write(f"{task}: left out, the split {split} of the corpus has no such question\n")
            continue
        shown.add(sample.image_id)
        picture, turn = Image.open(io.BytesIO(corpus.image(sample.image_id).data)), sample.turns[0]
        size = (picture.height, picture.width)
        regions = [decode_mask(region.mask) for region in sample.regions]
        prompts = [prompt_mask(prompt, sample.regions, *size) for prompt in sample.prompts]
        # One mask per target, which can be of several regions or of none.
        truth = [np.logical_or.reduce([np.zeros(size, bool), *(regions[i] for i in target)]) for target in turn.targets]
        yield Question(task, picture, question_of(sample, 0, style=wording), prompts, truth, turn.answer)


def draw_row(student: Predictor, question: Question) -> Image.Image:
    """Asks, and draws the picture with prompts, question and answer, the picture with masks, and the truth."""
    answer = student.predict(question.picture, question.text, question.prompts)
    picture = draw_masks(question.picture, [], question.prompts, side_px=SIDE)
    panels = {"pointed at, in yellow" if question.prompts else "picture": picture}
    masks_of = {"answer": answer.masks} if answer.masks or question.truth else {}
    for name, masks in (masks_of | ({"truth": question.truth} if question.truth else {})).items():
        panels[name if np.any(masks) else f"{name}: nothing"] = draw_masks(question.picture, masks, side_px=SIDE)
    words = [(question.task, 17, BLUE), (question.text, 24, INK), (f"answer: {answer.text}", 19, INK)]
    if question.truth_text and not question.truth:
        words.append((f"truth: {question.truth_text}", 19, GREY))
    width = TEXT if masks_of else TEXT + 2 * (SIDE + GAP)
    # A letter of the default font is about half as wide as high.
    lines = [(textwrap.wrap(text, int(1.8 * width / size)), size, colour) for text, size, colour in words]

    height = max(picture.height + GAP, sum(len(text) * (size + 8) + 10 for text, size, _ in lines))
    row = Image.new("RGB", (TEXT + 3 * SIDE + 5 * GAP, height + 3 * GAP // 2), "white")
    draw = ImageDraw.Draw(row)
    draw.line([(GAP, row.height - 1), (row.width - GAP, row.height - 1)], PALE)
    columns = (GAP, TEXT + SIDE + 3 * GAP, TEXT + 2 * SIDE + 4 * GAP)
    for x, (caption, panel) in zip(columns, panels.items(), strict=False):
        row.paste(panel, (x, GAP))
        draw.text((x, GAP + panel.height + 5), caption, GREY, ImageFont.load_default(17))
    y = GAP
    for text, size, colour in lines:
        draw.text((SIDE + 2 * GAP, y), "\n".join(text), colour, ImageFont.load_default(size), spacing=6)
        y += len(text) * (size + 8) + 10
    return row


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the command line and writes the gallery."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", help="the PNG to write")
    parser.add_argument("--run", type=Path, help="workspace of a finished run: its checkpoint, corpus and wording")
    parser.add_argument("--checkpoint", help="folder or URL of a student")
    parser.add_argument("--corpus", help="folder or URL of a corpus")
    parser.add_argument("--split", default="val", help="of the corpus")
    parser.add_argument("--wording", default="varied", choices=["short", "varied"], help="what the student learnt")
    parser.add_argument("--seed", type=int, default=0, help="draws other questions")
    parser.add_argument("--picture", help="a picture of your own")
    parser.add_argument("--ask", nargs=2, action="append", default=[], metavar=("TASK", "QUESTION"))
    parser.add_argument("--box", action="append", default=[], metavar="x0,y0,x1,y1", help="<region1> and so on")
    options = parser.parse_args(arguments)
    if options.run:
        newest = max(options.run.glob("runs/*/record.json"), key=os.path.getmtime, default=None)
        record = json.loads(newest.read_text()) if newest else parser.error(f"{options.run}: no finished run there")
        urls = {stage["name"]: stage["url"] for stage in record["stages"]}
        options.checkpoint, options.corpus = urls["train"], urls["curate"]
        options.wording = record["recipe"]["evaluation"]["wording"]
    if not options.checkpoint or not (options.corpus or (options.picture and options.ask)):
        parser.error("expected --run, or --checkpoint with --corpus, or --checkpoint with --picture and --ask")
    if options.picture:
        picture = Image.open(options.picture)
        boxes = [{"box": [float(number) for number in box.split(",")]} for box in options.box]
        questions = [Question(task, picture, text, boxes if "<region" in text else ()) for task, text in options.ask]
    else:
        questions = questions_of_corpus(options.corpus, options.split, options.wording, options.seed)
    student = Predictor.from_pretrained(options.checkpoint)
    rows = [draw_row(student, question) for question in questions]
    Image.fromarray(np.vstack([np.asarray(row) for row in rows])).save(options.out)


if __name__ == "__main__":
    main()
