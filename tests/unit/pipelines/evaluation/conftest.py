"""A corpus of two pictures with coloured squares, and a student that knows all answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from model.predictor import Answer, Request
from pipelines.evaluation.records import Wording
from storage.corpus import Corpus, write_images, write_samples
from storage.manifest import Manifest, publish
from storage.masks import encode_mask
from storage.objects import Objects
from storage.schema import (
    SCHEMA_VERSION,
    ImageRecord,
    Mask,
    PromptKind,
    Region,
    Sample,
    Task,
    Turn,
    VisualPrompt,
)
from tests.image_records import picture_record

HEIGHT, WIDTH = 24, 32
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}


def square(x: int, y: int, side: int = 6) -> Mask:
    bitmap = np.zeros((HEIGHT, WIDTH), bool)
    bitmap[y : y + side, x : x + side] = True
    return encode_mask(bitmap)


@dataclass
class Scene:
    """One picture: its record, and its objects by colour."""

    record: ImageRecord
    objects: dict[str, Mask]
    samples: list[Sample] = field(default_factory=list)

    def add(self, task: Task, turn: Turn, colours: Sequence[str], *, prompts: int = 0, family: str = "toy") -> Sample:
        """Adds a sample whose regions are those objects, the first `prompts` of them pointed at."""
        sample = Sample(
            sample_id=f"{self.record.image_id[:8]}-{len(self.samples):02d}",
            image_id=self.record.image_id,
            family=family,
            task=task,
            split="val",
            regions=tuple(Region(mask=self.objects[colour], category="square") for colour in colours),
            prompts=tuple(VisualPrompt(kind=PromptKind.MASK, region=index) for index in range(prompts)),
            turns=(turn,),
            source_file="toy.json",
            locator=str(len(self.samples)),
        )
        self.samples.append(sample)
        return sample


def make_scene(objects: dict[str, tuple[int, int]]) -> Scene:
    pixels = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    for colour, (x, y) in objects.items():
        pixels[y : y + 6, x : x + 6] = COLOURS[colour]
    scene = Scene(picture_record(pixels), {colour: square(*place) for colour, place in objects.items()})
    for colour in objects:
        scene.add(Task.REFERRING, Turn(text=f"the {colour} square", targets=((0,),)), [colour])
        scene.add(
            Task.DESCRIPTION, Turn(text="", answer=f"<region1>: a {colour} square"), [colour], prompts=1, family="talk"
        )
        scene.add(Task.CATEGORY, Turn(text="", answer="square"), [colour], prompts=1, family="talk")
    scene.add(Task.REFERRING, Turn(text="the black star", targets=((),)), [], family="none")
    return scene


@pytest.fixture
def scenes() -> list[Scene]:
    crowded = make_scene({"red": (1, 1), "green": (12, 3), "blue": (22, 14)})
    crowded.add(
        Task.VISUAL_TEXT_REFERRING,
        Turn(text="the square right of <region1>", answer="It is [SEG].", targets=((1,),)),
        ["red", "green"],
        prompts=1,
        family="bench",
    )
    crowded.add(
        Task.MULTIPLE_CHOICE,
        Turn(text="Which colour has <region1>?", answer="blue", options=("red", "blue")),
        ["blue"],
        prompts=1,
        family="bench",
    )
    return [crowded, make_scene({"red": (20, 10)})]


@pytest.fixture
def save_corpus(tmp_path: Path) -> Callable[[Sequence[Scene]], Corpus]:
    def save(scenes: Sequence[Scene]) -> Corpus:
        objects = Objects.open(str(tmp_path / "corpus"))
        files = (
            write_images(objects, "00000", [scene.record for scene in scenes]),
            write_samples(objects, "00000", [sample for scene in scenes for sample in scene.samples]),
        )
        publish(objects, Manifest("corpus", "c" * 64, SCHEMA_VERSION, {}, {}, files, {}))
        return Corpus.open(objects)

    return save


@pytest.fixture
def wording() -> Wording:
    def plain(sample: Sample, turn_index: int) -> str:
        turn = sample.turns[turn_index]
        return {Task.DESCRIPTION: "describe <region1>", Task.CATEGORY: "name <region1>"}.get(sample.task, turn.text)

    return plain


class Oracle:
    """Looks at the pixels: finds the colour that is asked for, or names the one that is pointed at."""

    def answer(self, requests: Sequence[Request], max_new_tokens: int = 64) -> list[Answer]:
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Answer:
        pixels = np.asarray(request.image).astype(int)
        found = {name: (abs(pixels - colour).sum(-1) < 60) for name, colour in COLOURS.items()}
        pointed = [
            name for prompt in request.visual_prompts for name, mask in found.items() if (mask & prompt).sum() > 18
        ]
        if "describe" in request.text:
            return Answer(f"a {pointed[0]} square", (), ())
        if "name" in request.text:
            return Answer("Square.", (), ())
        if "colour" in request.text:
            return Answer(f"It is {pointed[0]}", (), ())
        if "right of" in request.text:
            after = list(found)[(list(found).index(pointed[0]) + 1) % 3]
            return Answer("It is [SEG].", (found[after],), (0.9,))
        asked = next((name for name in found if name in request.text and found[name].any()), None)
        if asked is None:
            return Answer("No target [SEG].", (np.zeros(pixels.shape[:2], bool),), (0.0,))
        return Answer("It is [SEG].", (found[asked],), (0.9,))


@pytest.fixture
def oracle() -> Oracle:
    return Oracle()
