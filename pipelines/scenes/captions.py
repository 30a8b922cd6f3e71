"""Captions of whole pictures, in WebDataset shards as img2dataset writes them.

    image_text/train/00000.tar        000000010000000.png, .txt and .json of each picture, 10,000 to a shard

A caption names every object of its picture by all its looks, objects in an order of chance, words in one of two: "small
red ring, square blue large". What follows a word can't be told without the picture, whichever word it is.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence

from pipelines.scenes.blocks import ObjectFacts, PictureFacts, image_key
from pipelines.scenes.chance import Chance
from storage.objects import Objects

__all__ = ["caption_of", "caption_shards"]

_PICTURES_PER_SHARD = 10_000  # img2dataset's own default


def caption_of(picture: PictureFacts, size_px: int, chance: Chance) -> str:
    """One caption of a picture, its objects in an order of chance.

    Args:
        picture: its facts.
        size_px: its side.
        chance: draws the order, of objects and within each.
    """
    return ", ".join(_phrase(item, chance) for item in chance.sample(picture["objects"], len(picture["objects"])))


def caption_shards(
    pictures: Sequence[PictureFacts], size_px: int, seed: int, output: Objects
) -> Iterator[tuple[str, bytes, int]]:
    """The shards of a set of scenes, one at a time since they hold the pictures too.

    Args:
        pictures: facts of all pictures of all splits, in order.
        size_px: side of the pictures.
        seed: of the scenes.
        output: where the pictures stand already.

    Yields:
        Key, bytes and number of records of each shard.
    """
    for split in dict.fromkeys(picture["split"] for picture in pictures):
        own = [picture for picture in pictures if picture["split"] == split]
        for number, start in enumerate(range(0, len(own), _PICTURES_PER_SHARD)):
            some = own[start : start + _PICTURES_PER_SHARD]
            sink = io.BytesIO()
            with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as archive:
                for picture in some:
                    _add(archive, picture, size_px, seed, output)
            yield f"image_text/{split}/{number:05d}.tar", sink.getvalue(), len(some)


def _add(archive: tarfile.TarFile, picture: PictureFacts, size_px: int, seed: int, output: Objects) -> None:
    image_id = picture["image_id"]
    key = f"{image_id:015d}"
    caption = caption_of(picture, size_px, Chance(seed, "caption", image_id))
    facts = {"caption": caption, "key": key, "status": "success", "width": size_px, "height": size_px}
    members = {"png": output.read(image_key(image_id)), "txt": caption.encode(), "json": json.dumps(facts).encode()}
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
