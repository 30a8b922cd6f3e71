"""Looks up images, annotations and categories of a COCO file by id."""

from __future__ import annotations

from typing import cast

from pipelines.curation.records import CocoSegmentation, DraftRegion, RecordError, SourceImage
from pipelines.curation.steps.fields import integer, mapping, shown, string
from pipelines.curation.steps.images import coco_id_of
from pipelines.curation.steps.loading import expect_mapping
from pipelines.curation.steps.paths import safe_join
from storage.schema import RejectReason

__all__ = ["CocoIndex", "checked_segmentation"]

_Row = dict[str, object]


class CocoIndex:
    """The rows of a COCO file by id, checked when they are asked for.

    Args:
        content: the decoded file.
        file_name: how messages name it.
        lists: which lists it must hold besides `images` and `categories`.

    Raises:
        SourceError: the file holds no such lists.
    """

    def __init__(self, content: object, file_name: str, *lists: str) -> None:
        self.file_name = file_name
        self.rows = expect_mapping(content, file_name, "images", "categories", *lists)
        self._images = _by_id(self.rows["images"])
        self._categories = _by_id(self.rows["categories"])
        self._annotations = _by_id(self.rows.get("annotations", []))
        self._regions: dict[int, DraftRegion] = {}
        self._source_images: dict[tuple[int, str], SourceImage] = {}

    def image(self, image_id: int, folder: str) -> SourceImage:
        """The image with that id, its file in `folder`.

        Raises:
            RecordError: not listed, listed twice and differently, or with a field that is wrong.
        """
        found = self._source_images.get((image_id, folder))
        if found is None:
            row = self._row(self._images, "images", image_id, RejectReason.IMAGE_UNKNOWN)
            name = string(row, "file_name")
            found = SourceImage(
                path=safe_join(folder, name),
                height=integer(row, "height", minimum=1),
                width=integer(row, "width", minimum=1),
                coco_id=coco_id_of(name),
            )
            self._source_images[image_id, folder] = found
        return found

    def annotation(self, annotation_id: int, image_id: int) -> DraftRegion:
        """The region of an annotation, which must belong to that image.

        Raises:
            RecordError: not listed, on another image, of an unknown category, or without a segmentation.
        """
        found = self._regions.get(annotation_id)
        row = self._row(self._annotations, "annotations", annotation_id, RejectReason.ANNOTATION_MISSING)
        owner = integer(row, "image_id")
        if owner not in self._images:
            raise RecordError(
                RejectReason.IMAGE_UNKNOWN,
                f"annotation {annotation_id}: its image_id {owner} is not among the images of {self.file_name}",
            )
        if owner != image_id:
            raise RecordError(
                RejectReason.FIELD_INVALID,
                f"annotation {annotation_id}: expected on image_id {image_id}, but it is on image_id {owner}",
            )
        if found is None:
            found = DraftRegion(
                segmentation=checked_segmentation(row.get("segmentation")),
                category=self.category(integer(row, "category_id")),
                source_id=str(annotation_id),
            )
            self._regions[annotation_id] = found
        return found

    def category(self, category_id: int) -> str | None:
        """The name of a category; None for 0, which sources use for "unknown".

        Raises:
            RecordError: CATEGORY_UNKNOWN.
        """
        if category_id == 0 and 0 not in self._categories:
            return None
        return string(self.category_row(category_id), "name")

    def category_row(self, category_id: int) -> _Row:
        """The row of a category, such as `{"id": 1, "name": "person", "isthing": 1}`; raises RecordError."""
        return self._row(self._categories, "categories", category_id, RejectReason.CATEGORY_UNKNOWN)

    def _row(self, rows: dict[int, list[_Row]], what: str, key: int, reason: RejectReason) -> _Row:
        found = rows.get(key, [])
        if not found:
            raise RecordError(reason, f"id {key} is not among the {len(rows)} {what} of {self.file_name}")
        if len(found) > 1 and any(row != found[0] for row in found):
            raise RecordError(
                RejectReason.FIELD_INVALID, f"id {key} stands for {len(found)} different {what} of {self.file_name}"
            )
        return found[0]


def _by_id(rows: list[object]) -> dict[int, list[_Row]]:
    """Rows without a usable id stand for nothing: whoever refers to them finds them absent."""
    found: dict[int, list[_Row]] = {}
    for value in rows:
        if isinstance(value, dict):
            row = cast(_Row, value)
            key = row.get("id")
            if isinstance(key, int):
                found.setdefault(key, []).append(row)
    return found


def checked_segmentation(value: object) -> CocoSegmentation:
    """A segmentation that is one of COCO's three encodings in form; whether it fits the image is seen later.

    Raises:
        RecordError: MASK_INVALID.
    """
    if isinstance(value, dict):
        rle = mapping(cast(object, value), "segmentation")
        size, counts = rle.get("size"), rle.get("counts")
        if not (isinstance(size, list | tuple) and _are_numbers(cast("list[object]", size))):
            raise RecordError(
                RejectReason.MASK_INVALID, f"segmentation.size: expected [height, width], got {shown(size)}"
            )
        if not (
            isinstance(counts, str | bytes)
            or (isinstance(counts, list | tuple) and _are_numbers(cast("list[object]", counts)))
        ):
            raise RecordError(
                RejectReason.MASK_INVALID, f"segmentation.counts: expected RLE counts, got {shown(counts)}"
            )
        return {"size": size, "counts": counts}
    if not isinstance(value, list | tuple):
        raise RecordError(RejectReason.MASK_INVALID, f"segmentation: expected polygons or RLE, got {shown(value)}")
    polygons = cast("list[object]", value)
    if not polygons:
        raise RecordError(RejectReason.MASK_EMPTY, "segmentation: expected at least one polygon, got none")
    for polygon in polygons:
        if not (isinstance(polygon, list | tuple) and _are_numbers(cast("list[object]", polygon))):
            raise RecordError(
                RejectReason.MASK_INVALID, f"segmentation: expected polygons of numbers, got {shown(polygon)}"
            )
    return cast(CocoSegmentation, polygons)


def _are_numbers(values: list[object] | tuple[object, ...]) -> bool:
    # By exact type: a bool is no coordinate, and a set of types is one pass in C.
    return {int, float}.issuperset(map(type, values))
