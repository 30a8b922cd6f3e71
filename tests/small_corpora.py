"""Corpora of drawn pictures, made in a moment."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from storage.corpus import Corpus, write_images, write_rejects, write_samples
from storage.keys import Json
from storage.manifest import Manifest, publish
from storage.masks import encode_mask
from storage.objects import Objects
from storage.schema import (
    SCHEMA_VERSION,
    ImageRecord,
    PromptKind,
    Region,
    Reject,
    RejectReason,
    Sample,
    Task,
    Turn,
    VisualPrompt,
)
from tests.image_records import picture_record

__all__ = ["all_kinds_of_samples", "box_region", "noise_picture", "write_corpus", "write_labelled_corpus"]


def noise_picture(number: int, height_px: int, width_px: int, file_format: str = "PNG") -> ImageRecord:
    """A picture of coarse noise that depends on the number alone."""
    coarse = np.random.default_rng(number).integers(0, 256, (-(-height_px // 8), -(-width_px // 8), 3), np.uint8)
    picture = Image.fromarray(coarse).resize((width_px, height_px))
    return picture_record(picture, f"{number}.{file_format.lower()}", file_format)


def write_corpus(objects: Objects, images: Sequence[ImageRecord], key: str) -> Corpus:
    """Publishes a corpus of these images without a single label."""
    samples = [
        Sample(
            sample_id=image.image_id,
            image_id=image.image_id,
            family="scenes",
            task=Task.UNLABELLED,
            split="train",
            source_file="",
            locator=image.sources[0],
        )
        for image in images
    ]
    files = (write_images(objects, "0", images), write_samples(objects, "0", samples))
    publish(objects, Manifest("corpus", key, SCHEMA_VERSION, {}, {}, files))
    return Corpus.open(objects)


def box_region(box: tuple[int, int, int, int], height_px: int, width_px: int, category: str | None = None) -> Region:
    """A rectangle, x0, y0, x1, y1 with exclusive ends, as a region."""
    bitmap = np.zeros((height_px, width_px), np.bool_)
    bitmap[box[1] : box[3], box[0] : box[2]] = True
    return Region(mask=encode_mask(bitmap), category=category)


def all_kinds_of_samples(images: Sequence[ImageRecord]) -> list[list[Sample]]:
    """Samples of every form on three images of 48 x 64 px, in two shards: the first one has the first two images."""
    first, second, third = (image.image_id for image in images)
    cup, dog = box_region((4, 6, 20, 30), 48, 64, "cup"), box_region((40, 10, 60, 40), 48, 64, "dog")
    unnamed = box_region((0, 0, 8, 48), 48, 64)
    whole = (VisualPrompt(kind=PromptKind.MASK, region=0), VisualPrompt(kind=PromptKind.MASK, region=1))
    box = VisualPrompt(kind=PromptKind.BOX, box_xyxy_px=(2.5, 3.0, 30.0, 20.0))
    point = VisualPrompt(kind=PromptKind.POINT, points_xy_px=((50.0, 20.0),))
    scribble = VisualPrompt(kind=PromptKind.SCRIBBLE, points_xy_px=((5.0, 5.0), (30.0, 25.0), (50.0, 30.0)))
    both = Turn(text="both of them", targets=((0, 1),))
    one_by_one = Turn(text="what is beside <region1>?", answer="<p>the cup</p> [SEG] and [SEG]", targets=((1,), (0,)))
    choice = Turn(text="what is <region1>?", answer="cup", options=("cup", "dog"))
    chat = (
        Turn(text="compare <region1> with <region2>", answer="<region1> is left"),
        Turn(text="and <region2>?", answer="a dog"),
    )
    rows: list[list[tuple[str | None, str, Task, str, tuple[Region, ...], tuple[VisualPrompt, ...], tuple[Turn, ...]]]]
    rows = [
        [
            (first, "refer+", Task.REFERRING, "train", (cup,), (), (Turn(text="the small cup", targets=((0,),)),)),
            (first, "refer+", Task.REFERRING, "train", (cup,), (), (Turn(text="a cup", targets=((0,),)),)),
            (first, "refer+", Task.REFERRING, "val", (cup, dog), (), (both,)),
            (second, "refer+", Task.REFERRING, "train", (), (), (Turn(text="the third dog", targets=((),)),)),
            (
                second,
                "pointed",
                Task.DESCRIPTION,
                "train",
                (unnamed,),
                whole[:1],
                (Turn(text="<region1>", answer="x"),),
            ),
            (second, "pointed", Task.CONVERSATION, "train", (cup, dog), whole, chat),
        ],
        [
            (third, "pointed", Task.VISUAL_TEXT_REFERRING, "val", (cup, dog), whole[:1], (one_by_one,)),
            (third, "pointed", Task.MULTIPLE_CHOICE, "val", (), (box,), (choice,)),
            (third, "pointed", Task.DESCRIPTION, "val", (), (point,), (Turn(text="<region1>", answer="a spot"),)),
            (third, "pointed", Task.DESCRIPTION, "val", (), (scribble,), (Turn(text="<region1>", answer="a line"),)),
            (third, "told", Task.CAPTION, "val", (), (), (Turn(text="", answer="noise everywhere"),)),
            (None, "told", Task.CONVERSATION, "val", (), (), (Turn(text="hello", answer="good day"),)),
        ],
    ]
    return [[_sample(number, place, row) for place, row in enumerate(own)] for number, own in enumerate(rows)]


def write_labelled_corpus(objects: Objects) -> Corpus:
    """Publishes a corpus with samples of every form, whose manifest has the facts of a curated one."""
    images = [noise_picture(number, 48, 64, file_format) for number, file_format in enumerate(("PNG", "JPEG", "PNG"))]
    shards = all_kinds_of_samples(images)
    rejects = [
        Reject(
            family="told", source_file="b.json", locator="row=7", reason=RejectReason.TEXT_EMPTY, detail="text: empty"
        )
    ]
    files = (
        write_images(objects, "00000", images[:2]),
        write_samples(objects, "00000", shards[0]),
        write_images(objects, "00001", images[2:]),
        write_samples(objects, "00001", shards[1]),
        write_rejects(objects, "sources", rejects),
    )
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for sample in sorted((sample for shard in shards for sample in shard), key=lambda s: (s.family, s.task, s.split)):
        splits = counts.setdefault(sample.family, {}).setdefault(sample.task.value, {})
        splits[sample.split] = splits.get(sample.split, 0) + 1
    facts: dict[str, Json] = {
        "num_images": 3,
        "num_samples": 12,
        "num_rejects": 1,
        "samples": counts,
        "rejects_by_reason": {"text_empty": 1},
        "rejects_by_source": {"b.json": {"text_empty": 1}},
        "records_in": {"a.json": 6, "b.json": 7},
        "samples_by_source": {"a.json": 6, "b.json": 6},
        "relabelled_splits": {},
    }
    publish(objects, Manifest("corpus", "c" * 64, SCHEMA_VERSION, {}, {}, files, facts))
    return Corpus.open(objects)


def _sample(
    shard: int,
    place: int,
    row: tuple[str | None, str, Task, str, tuple[Region, ...], tuple[VisualPrompt, ...], tuple[Turn, ...]],
) -> Sample:
    image_id, family, task, split, regions, prompts, turns = row
    return Sample(
        sample_id=hashlib.sha256(f"{shard}/{place}".encode()).hexdigest(),
        image_id=image_id,
        family=family,
        task=task,
        split=split,
        regions=regions,
        prompts=prompts,
        turns=turns,
        source_file=("a.json", "b.json")[shard],
        locator=f"row={place}",
    )
