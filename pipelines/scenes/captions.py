"""Captions in WebDataset shards as img2dataset writes them: of whole pictures, or of each object cut out of one.

    image_text/train/00000.tar        000000010000000.png, .txt and .json of a picture; 10,000 records to a shard
    image_text/train/00000.tar        000000010000000_03.png and so on: object 3 of that picture

A caption names objects by all their looks, objects in an order of chance, words in one of two: "small red ring, square
blue large". What follows a word can't be told without the picture, whichever word it is. Pictures of one object each
are to scenes what the pictures of ImageNet are to photographs: what is in them is said by a label.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from PIL import Image

from pipelines.scenes.blocks import ObjectFacts, PictureFacts, image_key
from pipelines.scenes.chance import Chance
from pipelines.scenes.png import encode_png
from storage.objects import Objects

__all__ = ["CaptionedThings", "caption_of", "caption_shards"]

CaptionedThings = Literal["pictures", "objects"]
"""What a record of the shards shows."""

_RECORDS_PER_SHARD = 10_000  # img2dataset's own default
_MARGIN = 1 / 16
"""Around an object that is cut out, as a share of the picture's side."""

Record = tuple[str, bytes, str, tuple[int, int]]
"""Key, picture, caption, (height, width) in px."""


def caption_of(objects: Sequence[ObjectFacts], chance: Chance) -> str:
    """One caption of some objects.

    Args:
        objects: what is seen.
        chance: draws their order, and that of the words of each.
    """
    return ", ".join(_phrase(item, chance) for item in chance.sample(objects, len(objects)))


def caption_shards(
    pictures: Sequence[PictureFacts], things: CaptionedThings, size_px: int, seed: int, output: Objects
) -> Iterator[tuple[str, bytes, int]]:
    """The shards of a set of scenes, one at a time since they hold the pictures too.

    Args:
        pictures: facts of all pictures of all splits, in order.
        things: what a record shows.
        size_px: side of the pictures.
        seed: of the scenes.
        output: where the pictures stand already.

    Yields:
        Key, bytes and number of records of each shard.
    """
    for split in dict.fromkeys(picture["split"] for picture in pictures):
        own = [picture for picture in pictures if picture["split"] == split]
        records = (record for picture in own for record in _records(picture, things, size_px, seed, output))
        for number, some in enumerate(_groups(records)):
            sink = io.BytesIO()
            with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as archive:
                for record in some:
                    _add(archive, record)
            yield f"image_text/{split}/{number:05d}.tar", sink.getvalue(), len(some)


def _groups(records: Iterator[Record]) -> Iterator[list[Record]]:
    group: list[Record] = []
    for record in records:
        group.append(record)
        if len(group) == _RECORDS_PER_SHARD:
            yield group
            group = []
    if group:
        yield group


def _records(
    picture: PictureFacts, things: CaptionedThings, size_px: int, seed: int, output: Objects
) -> Iterator[Record]:
    image_id = picture["image_id"]
    data = output.read(image_key(image_id))
    if things == "pictures":
        caption = caption_of(picture["objects"], Chance(seed, "caption", image_id))
        yield f"{image_id:015d}", data, caption, (size_px, size_px)
        return
    with Image.open(io.BytesIO(data)) as image:
        pixels = np.asarray(image.convert("RGB"))
    margin = round(_MARGIN * size_px)
    for number, item in enumerate(picture["objects"]):
        left, top, width, height = item["bbox"]
        cut = pixels[max(top - margin, 0) : top + height + margin, max(left - margin, 0) : left + width + margin]
        caption = caption_of([item], Chance(seed, "caption", image_id, number))
        yield f"{image_id:015d}_{number:02d}", encode_png(np.ascontiguousarray(cut)), caption, cut.shape[:2]


def _add(archive: tarfile.TarFile, record: Record) -> None:
    key, picture, caption, (height, width) = record
    facts = {"caption": caption, "key": key, "status": "success", "width": width, "height": height}
    members = {"png": picture, "txt": caption.encode(), "json": json.dumps(facts).encode()}
    for suffix, data in members.items():
        # Of a plain TarInfo all but name and size are zeros: the same pictures give the same bytes.
        member = tarfile.TarInfo(f"{key}.{suffix}")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))


def _phrase(item: ObjectFacts, chance: Chance) -> str:
    """An object in one of two orders of words, so that each of its looks is told from the others."""
    texture = [] if item["texture"] == "plain" else [item["texture"]]
    if chance.happens(0.5):
        return " ".join([item["size"], *texture, item["colour"], item["shape"]])
    return " ".join([item["shape"], *texture, item["colour"], item["size"]])
