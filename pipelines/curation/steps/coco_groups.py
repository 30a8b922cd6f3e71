"""Images of a COCO file together with their annotations, in memory that follows a part of the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from pipelines.curation.records import RecordError
from pipelines.curation.steps.fields import integer, mapping
from pipelines.curation.steps.source_files import SourceFiles
from storage.schema import RejectReason

__all__ = ["ImageGroup", "image_groups"]

_TABLES = ("images", "annotations")
_IMAGES_PER_PASS = 20_000
_Row = dict[str, object]


@dataclass(frozen=True, slots=True)
class ImageGroup:
    """A row of `images` and the rows of `annotations` that name its id."""

    locator: str
    """`image_id=5`."""
    image: dict[str, object]
    annotations: tuple[tuple[str, dict[str, object]], ...]
    """Rows in order of their ids, each after its locator below the image's (`annotation_id=7`)."""


def image_groups(
    files: SourceFiles, file_name: str, images_per_pass: int = _IMAGES_PER_PASS
) -> Iterator[ImageGroup | tuple[str, RecordError]]:
    """Every image with its annotations, in the order of `images`, wherever the annotations stand in the file.

    The file is read for the ids of its images, for annotations of none of them, and once for each part of the images.

    Args:
        files: of the source.
        file_name: the COCO file.
        images_per_pass: images whose annotations are in memory at once.

    Yields:
        A group, or the locator of a row that is in none and why: an image without an id of its own, an annotation
        of no listed image. Annotations of images that share an id go with those.

    Raises:
        SourceError: the file holds no lists of images and annotations.
    """
    ids: dict[int, int] = {}
    for place, (_, value) in enumerate(files.tables(file_name, *_TABLES, wanted=("images",))):
        try:
            ids[place] = integer(mapping(value, "image"), "id")
        except RecordError as error:
            yield f"images[{place}]", error
    num_rows = Counter(ids.values())
    for place, image_id in ids.items():
        if num_rows[image_id] > 1:
            detail = f"id: expected one image of id {image_id}, got {num_rows[image_id]}"
            yield f"images[{place}]", RecordError(RejectReason.FIELD_INVALID, detail)
    yield from _strays(files, file_name, num_rows)
    single = [image_id for image_id in ids.values() if num_rows[image_id] == 1]
    for start in range(0, len(single), images_per_pass):
        yield from _groups(files, file_name, single[start : start + images_per_pass])


def _strays(files: SourceFiles, file_name: str, listed: Counter[int]) -> Iterator[tuple[str, RecordError]]:
    for place, (_, value) in enumerate(files.tables(file_name, *_TABLES, wanted=("annotations",))):
        try:
            image_id = integer(mapping(value, "annotation"), "image_id")
            if image_id not in listed:
                detail = f"image_id: {image_id} is not among the {len(listed)} images of {file_name}"
                raise RecordError(RejectReason.IMAGE_UNKNOWN, detail)
        except RecordError as error:
            yield f"annotations[{place}]", error


def _groups(files: SourceFiles, file_name: str, part: list[int]) -> Iterator[ImageGroup]:
    images: dict[int, _Row] = {image_id: {} for image_id in part}
    annotations: dict[int, list[tuple[int, int, _Row]]] = {image_id: [] for image_id in part}
    num_annotations = 0
    for table, value in files.tables(file_name, *_TABLES):
        row = cast(_Row, value) if isinstance(value, dict) else {}
        image_id = _id(row, "id" if table == "images" else "image_id")
        if table == "images" and image_id in images:
            images[image_id] = row
        elif table == "annotations":
            if image_id in annotations:
                annotations[image_id].append((_id(row, "id"), num_annotations, row))
            num_annotations += 1
    for image_id, image in images.items():
        # Their place in the file decides between equal ids: rows can't be compared.
        found = sorted(annotations[image_id], key=lambda entry: entry[:2])
        locators = (f"annotation_id={known}" if known >= 0 else f"annotations[{place}]" for known, place, _ in found)
        rows = (row for _, _, row in found)
        yield ImageGroup(f"image_id={image_id}", image, tuple(zip(locators, rows, strict=True)))


def _id(row: _Row, key: str) -> int:
    """An id of a row; -1 where it has none."""
    value = row.get(key)
    # By exact type: True equals 1, but is no id.
    return value if type(value) is int and 0 <= value < 2**53 else -1
