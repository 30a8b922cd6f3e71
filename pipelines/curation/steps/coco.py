"""Looks up images, annotations and categories of a COCO file by id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import cast

from pipelines.curation.records import CocoSegmentation, DraftRegion, RecordError, SourceImage
from pipelines.curation.steps.fields import integer, mapping, shown, string
from pipelines.curation.steps.images import coco_id_of
from pipelines.curation.steps.paths import safe_join
from pipelines.curation.steps.source_files import SourceFiles
from storage.schema import RejectReason

__all__ = ["CocoIndex", "checked_segmentation", "source_image"]

_Row = dict[str, object]
_OF_ANNOTATIONS = {"id", "image_id", "category_id", "segmentation"}


class CocoIndex:
    """The rows of a COCO file by id, checked when they are asked for.

    Args:
        files: of the source.
        file_name: the COCO file; messages name it.
        annotations: ids of the annotations that will be asked for; None: the file's annotations aren't by id.
        image_fields: fields of an image that are kept, besides those that `image` needs.

    Raises:
        SourceError: the file holds no lists of images, categories and annotations.
    """

    def __init__(
        self,
        files: SourceFiles,
        file_name: str,
        annotations: Collection[int] | None = None,
        image_fields: Collection[str] = (),
    ) -> None:
        self.file_name = file_name
        self._images: dict[int, list[_Row]] = {}
        self._categories: dict[int, list[_Row]] = {}
        self._annotations: dict[int, list[_Row]] = {}
        self._num: Counter[str] = Counter()
        tables = {"images": self._images, "categories": self._categories, "annotations": self._annotations}
        kept = {"images": {"id", "file_name", "height", "width", *image_fields}, "annotations": _OF_ANNOTATIONS}
        wanted = tables if annotations is not None else ("images", "categories")
        for key, value in files.tables(file_name, *tables, wanted=wanted):
            if not isinstance(value, dict):
                continue
            row = cast(_Row, value)
            row_id = row.get("id")
            # Rows without a usable id stand for nothing: whoever refers to them finds them absent.
            if not isinstance(row_id, int):
                continue
            self._num[key] += 1
            if key != "annotations" or row_id in (annotations or ()):
                fields = kept.get(key)
                tables[key].setdefault(row_id, []).append(
                    row if fields is None else {field: row[field] for field in fields if field in row}
                )
        self._regions: dict[int, DraftRegion] = {}
        self._source_images: dict[tuple[int, str], SourceImage] = {}

    def image(self, image_id: int, folder: str) -> SourceImage:
        """The image with that id, its file in `folder`.

        Raises:
            RecordError: not listed, listed twice and differently, or with a field that is wrong.
        """
        found = self._source_images.get((image_id, folder))
        if found is None:
            found = source_image(self.image_row(image_id), folder)
            self._source_images[image_id, folder] = found
        return found

    def image_row(self, image_id: int) -> _Row:
        """The row of an image, of its id, file name, size and `image_fields`; raises RecordError."""
        return self._row(self._images, "images", image_id, RejectReason.IMAGE_UNKNOWN)

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
            raise RecordError(reason, f"id {key} is not among the {self._num[what]} {what} of {self.file_name}")
        if len(found) > 1 and any(row != found[0] for row in found):
            raise RecordError(
                RejectReason.FIELD_INVALID, f"id {key} stands for {len(found)} different {what} of {self.file_name}"
            )
        return found[0]


def source_image(row: dict[str, object], folder: str) -> SourceImage:
    """The image of a COCO row, with `file_name`, `height` and `width`; its file lies in `folder`.

    Raises:
        RecordError: a field is wrong.
    """
    name = string(row, "file_name")
    return SourceImage(
        path=safe_join(folder, name),
        height=integer(row, "height", minimum=1),
        width=integer(row, "width", minimum=1),
        coco_id=coco_id_of(name),
    )


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
