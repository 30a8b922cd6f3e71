"""Captions in WebDataset shards as img2dataset writes them: of whole pictures, or of each object cut out of one.

    image_text/train/00000.tar        000000010000000.png, .txt and .json of a picture; 10,000 records to a shard
    image_text/train/00000.tar        000000010000000_03.png and so on: object 3 of that picture

A caption of a picture names every object with its looks and its place, objects in an order of chance, looks and place
in either: "a small red ring at the top left, on the right a large blue square". One of a single object has its looks
in one of two orders, "small red ring" or "ring red small". Pictures of one object each are to scenes what those of
ImageNet are to photographs: what is in them is said by a label.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from pipelines.scenes.blocks import ObjectFacts, PictureFacts, image_key
from pipelines.scenes.chance import Chance
from pipelines.scenes.png import encode_png
from storage.objects import Objects
from storage.pictures import open_picture

__all__ = ["CaptionedThings", "caption_of", "caption_shards", "label_of"]

CaptionedThings = Literal["pictures", "objects"]
"""What a record of the shards shows."""

_ROWS, _COLUMNS = ("top", "", "bottom"), ("left", "", "right")
_PLACES = {"": "in the middle", "top": "at the top", "bottom": "at the bottom", "left": "on the left"}
_PLACES["right"] = "on the right"
_RECORDS_PER_SHARD = 10_000  # img2dataset's own default
_MARGIN = 1 / 16
"""Around an object that is cut out, as a share of the picture's side."""

Record = tuple[str, bytes, str, tuple[int, int]]
"""Key, picture, caption, (height, width) in px."""


def caption_of(picture: PictureFacts, size_px: int, chance: Chance) -> str:
    """One caption of a whole picture.

    Args:
        picture: its facts.
        size_px: its side.
        chance: draws the order of objects, and of looks and place of each.
    """
    parts: list[str] = []
    for item in chance.sample(picture["objects"], len(picture["objects"])):
        looks, place = f"a {' '.join(_looks(item))}", _place(item, size_px)
        parts.append(f"{looks} {place}" if chance.happens(0.5) else f"{place} {looks}")
    return ", ".join(parts)


def label_of(item: ObjectFacts, chance: Chance) -> str:
    """The caption of a single object; chance draws the order of its words."""
    looks = _looks(item)
    return " ".join(looks if chance.happens(0.5) else looks[::-1])


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
        caption = caption_of(picture, size_px, Chance(seed, "caption", image_id))
        yield f"{image_id:015d}", data, caption, (size_px, size_px)
        return
    with open_picture(data) as image:
        pixels = np.asarray(image.convert("RGB"))
    margin = round(_MARGIN * size_px)
    for number, item in enumerate(picture["objects"]):
        left, top, width, height = item["bbox"]
        cut = pixels[max(top - margin, 0) : top + height + margin, max(left - margin, 0) : left + width + margin]
        caption = label_of(item, Chance(seed, "caption", image_id, number))
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


def _looks(item: ObjectFacts) -> list[str]:
    texture = [] if item["texture"] == "plain" else [item["texture"]]
    return [item["size"], *texture, item["colour"], item["shape"]]


def _place(item: ObjectFacts, size_px: int) -> str:
    """The ninth of the picture in which the middle of an object lies."""
    left, top, width, height = item["bbox"]
    row = _ROWS[min(2, int(3 * (top + height / 2) / size_px))]
    column = _COLUMNS[min(2, int(3 * (left + width / 2) / size_px))]
    if row and column:
        return f"at the {row} {column}"
    return _PLACES[row or column]
