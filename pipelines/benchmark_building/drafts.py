"""Drafts as they are stored: items, the pictures beside them, and a manifest that is written last.

    items.jsonl   pictures/<image name>   replies/<item id>.json   manifest.json   decisions/...

`replies` are kept while a build goes on, so that an interrupted one asks nobody twice; `decisions` come from
the review.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import ValidationError

from pipelines.benchmark_building.records import Item
from storage.errors import CorruptObject, ObjectNotFound
from storage.manifest import MANIFEST_NAME, FileEntry, Manifest, read_manifest
from storage.objects import Objects

__all__ = ["ITEMS_NAME", "KIND", "Drafts", "picture_key", "write_items"]

KIND = "benchmark_drafts"
"""Of the manifest."""
ITEMS_NAME = "items.jsonl"


def picture_key(image_name: str) -> str:
    """Where a picture lies.

    >>> picture_key("000000000025.jpg")
    'pictures/000000000025.jpg'
    """
    return f"pictures/{image_name}"


def write_items(objects: Objects, items: Sequence[Item]) -> FileEntry:
    """Writes the items, one line each, create-only.

    Returns:
        The entry of what lies there, which is from an earlier, interrupted build if there was one.
    """
    data = "".join(f"{item.model_dump_json()}\n" for item in items).encode()
    objects.create(ITEMS_NAME, data)
    found = objects.read(ITEMS_NAME)
    return FileEntry.of(ITEMS_NAME, found, found.count(b"\n"))


class Drafts:
    """Published drafts.

    Args:
        objects: their prefix.
        manifest: as published there.
        items: all of them, in their order.
    """

    def __init__(self, objects: Objects, manifest: Manifest, items: Sequence[Item]) -> None:
        self.objects = objects
        self.manifest = manifest
        self.items = tuple(items)
        self._by_id = {item.item_id: item for item in items}

    @classmethod
    def open(cls, objects: Objects) -> Drafts:
        """Opens drafts.

        Raises:
            ObjectNotFound: there are none.
            CorruptObject: they are of another kind, or damaged.
        """
        manifest = read_manifest(objects)
        if manifest is None:
            raise ObjectNotFound(
                f"{objects.url}/{MANIFEST_NAME}: no such object; expected drafts, make them with "
                "`sailloft benchmark build`"
            )
        if manifest.kind != KIND:
            raise CorruptObject(
                f"{objects.url}: expected drafts of a benchmark ({KIND}), found {manifest.kind}; name the address that "
                "`sailloft benchmark build` printed"
            )
        return cls(objects, manifest, list(_read_items(objects)))

    @property
    def to_review(self) -> tuple[Item, ...]:
        """Items that no check objects to."""
        return tuple(item for item in self.items if item.passes)

    def item(self, item_id: str) -> Item:
        """One item; raises KeyError."""
        return self._by_id[item_id]

    def picture(self, item: Item) -> bytes:
        """The bytes of an item's picture; raises ObjectNotFound."""
        return self.objects.read(picture_key(item.image_name))


def _read_items(objects: Objects) -> Iterator[Item]:
    data = objects.read(ITEMS_NAME)
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            yield Item.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            raise CorruptObject(
                f"{objects.url}/{ITEMS_NAME}: line {number}: {'.'.join(map(str, first['loc']))}: {first['msg']}; "
                "delete the drafts and build them again"
            ) from error
