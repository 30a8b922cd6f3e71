"""A corpus of very many samples, written in seconds."""

from __future__ import annotations

import hashlib

from storage.corpus import Corpus, write_images, write_rejects, write_samples
from storage.manifest import FileEntry, Manifest, publish
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION, Region, Reject, RejectReason, Sample, Task, Turn
from tests.object_corpora import HEIGHT_PX, OBJECTS, WIDTH_PX, drawn_picture
from tests.small_corpora import box_region

__all__ = ["write_many_samples"]

_NUM_PICTURES = 100
_SAMPLES_PER_FILE = 10_000
_COLOURS = ("red", "blue", "brown", "pale")
_PLACES = ("on the left", "on the right", "in the middle", "below")


def write_many_samples(objects: Objects, num_samples: int, num_rejects: int = 1_000) -> Corpus:
    """Publishes samples on a hundred pictures: every word of an expression is known from its number.

    Args:
        objects: the corpus's prefix.
        num_samples: on all pictures together.
        num_rejects: one of a hundred reasons is another.
    """
    images = [drawn_picture(number) for number in range(_NUM_PICTURES)]
    regions = [box_region(box, HEIGHT_PX, WIDTH_PX, name) for name, box, _ in OBJECTS]
    files: list[FileEntry] = [write_images(objects, "00000", images)]
    for start in range(0, num_samples, _SAMPLES_PER_FILE):
        numbers = range(start, min(start + _SAMPLES_PER_FILE, num_samples))
        samples = [_sample(number, images[number % _NUM_PICTURES].image_id, regions) for number in numbers]
        files.append(write_samples(objects, f"{start // _SAMPLES_PER_FILE:05d}", samples))
    files.append(write_rejects(objects, "00000", [_reject(number) for number in range(num_rejects)]))
    facts = {
        "num_samples": num_samples,
        "num_images": _NUM_PICTURES,
        "num_rejects": num_rejects,
        "leakage_gate": "remove",
    }
    publish(objects, Manifest("corpus", "c0" * 32, SCHEMA_VERSION, {}, {}, tuple(files), facts))
    return Corpus.open(objects)


def _sample(number: int, image_id: str, regions: list[Region]) -> Sample:
    meant = number % len(regions)
    words = f"the {_COLOURS[meant]} {OBJECTS[meant][0]} {_PLACES[meant]}, number {number}"
    return Sample(
        sample_id=hashlib.sha256(str(number).encode()).hexdigest(),
        image_id=image_id,
        family=("refcoco", "refcoco+", "refcocog")[number % 3],
        task=Task.REFERRING,
        split="val" if number % 10 == 0 else "train",
        regions=(regions[meant],),
        turns=(Turn(text=words, targets=((0,),)),),
        source_file="refs.json",
        locator=f"ref_id={number}",
    )


def _reject(number: int) -> Reject:
    reason = RejectReason.MASK_EMPTY if number % 100 else RejectReason.TEXT_EMPTY
    return Reject(
        family="refcoco", source_file="refs.json", locator=f"ref_id={10**6 + number}", reason=reason, detail="no area"
    )
