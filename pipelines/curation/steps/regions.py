"""Masks of one picture, from whatever encoding its sources use; each distinct mask is made once."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipelines.curation.records import (
    CocoSegmentation,
    DraftRegion,
    MaskFile,
    PaintedShapes,
    PanopticSegment,
    RecordError,
)
from pipelines.curation.steps.images import decode_image
from pipelines.curation.steps.painting import painted_masks
from storage.masks import MaskError, encode_mask, mask_from_coco
from storage.schema import Mask, Region, RejectReason

__all__ = ["MaskReader", "painted_inside", "panoptic_ids", "panoptic_masks"]


def panoptic_ids(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """Segment ids, int32 (height, width), of a panoptic PNG, uint8 (height, width, 3): R + 256 G + 65536 B."""
    channels = rgb.astype(np.int32)
    return channels[..., 0] + (channels[..., 1] << 8) + (channels[..., 2] << 16)


def panoptic_masks(ids: npt.NDArray[np.int32]) -> dict[int, Mask]:
    """The mask of every segment of an id map, in one pass over its pixels.

    RLE counts runs down the columns, and the map itself is one sequence of such runs: splitting
    that by id gives all masks without making a bitmap of any.

    Args:
        ids: int32 (height, width); 0 is unlabelled.
    """
    height, width = ids.shape
    columns = np.ascontiguousarray(ids.T).ravel()
    starts = np.concatenate(([0], np.flatnonzero(np.diff(columns)) + 1))
    ends = np.append(starts[1:], columns.size)
    order = np.argsort(columns[starts], kind="stable")
    run_ids = columns[starts][order]
    firsts = np.concatenate(([0], np.flatnonzero(np.diff(run_ids)) + 1))
    masks: dict[int, Mask] = {}
    for first, last in zip(firsts, np.append(firsts[1:], run_ids.size), strict=True):
        if run_ids[first] == 0:
            continue
        runs = order[first:last]
        edges = np.stack([starts[runs], ends[runs]], axis=1).ravel()
        counts = np.diff(edges, prepend=0, append=columns.size)
        rle = {"size": [height, width], "counts": counts.tolist()}
        masks[int(run_ids[first])] = mask_from_coco(rle, height, width)
    return masks


def painted_inside(image: Image.Image) -> npt.NDArray[np.bool_]:
    """The pixels, bool (height, width), of a painted mask that aren't 0.

    Of a palette the indices count, of colours any channel; how opaque a pixel is doesn't.
    """
    if "A" in image.getbands():
        image = image.convert("RGB" if len(image.getbands()) > 2 else "L")
    values = np.asarray(image)
    return (values != 0).any(axis=-1) if values.ndim == 3 else values != 0


class MaskReader:
    """Makes the masks of one picture.

    Args:
        height: of the picture, px.
        width: of the picture, px.
        read: gives the bytes of a file of the region's source (a painted mask) by its path; raises RecordError.
        max_image_px: largest painted mask that is decoded.
    """

    def __init__(self, height: int, width: int, read: Callable[[str], bytes], max_image_px: int) -> None:
        self._height, self._width = height, width
        self._read = read
        self._max_image_px = max_image_px
        self._regions: dict[int, tuple[DraftRegion, Region]] = {}
        self._masks: dict[bytes, tuple[Mask, Mask | None] | RecordError] = {}
        self._panoptic: dict[str, dict[int, Mask] | RecordError] = {}
        self._painted: dict[str, Mask | RecordError] = {}

    def region(self, draft: DraftRegion) -> Region:
        """The region with its mask.

        Raises:
            RecordError: the encoding is damaged, doesn't fit the picture, lies outside of it or is empty.
        """
        # Sentences on one target share its region; whoever is in here stays, so that its id is nobody else's.
        found = self._regions.get(id(draft))
        if found is None:
            found = self._regions[id(draft)] = draft, self._region(draft)
        return found[1]

    def _region(self, draft: DraftRegion) -> Region:
        ignored = None
        if isinstance(draft.segmentation, PanopticSegment):
            mask = self._segment(draft.segmentation)
        elif isinstance(draft.segmentation, MaskFile):
            mask = self._mask_file(draft.segmentation.path)
        else:
            mask, ignored = self._encoded(draft.segmentation, draft.source_id)
        return Region(mask=mask, category=draft.category, source_id=draft.source_id, ignored=ignored)

    def _encoded(
        self, segmentation: CocoSegmentation | PaintedShapes, source_id: str | None
    ) -> tuple[Mask, Mask | None]:
        """The mask, and what is ignored beside it."""
        # Several families draw on the same annotations: equal encodings of a picture are one mask.
        key = pickle.dumps(segmentation)
        found = self._masks.get(key)
        if found is None:
            try:
                if isinstance(segmentation, PaintedShapes):
                    found = painted_masks(segmentation, self._height, self._width)
                else:
                    found = mask_from_coco(segmentation, self._height, self._width), None
            except MaskError as error:
                named = "shapes" if isinstance(segmentation, PaintedShapes) else f"region {source_id}"
                detail = str(error).removeprefix(f"{error.reason}: ")
                found = RecordError(error.reason, f"{named}: {detail}; the image has {self._height} x {self._width} px")
            self._masks[key] = found
        if isinstance(found, RecordError):
            raise RecordError(found.reason, found.detail)
        return found

    def _segment(self, segment: PanopticSegment) -> Mask:
        masks = self._panoptic.get(segment.path)
        if masks is None:
            try:
                masks = self._panoptic_masks(segment.path)
            except RecordError as error:
                masks = error
            self._panoptic[segment.path] = masks
        if isinstance(masks, RecordError):
            raise RecordError(masks.reason, masks.detail)
        if segment.segment_id not in masks:
            raise RecordError(
                RejectReason.MASK_EMPTY,
                f"segment {segment.segment_id}: expected in {segment.path}, which holds {len(masks)} others",
            )
        return masks[segment.segment_id]

    def _panoptic_masks(self, path: str) -> dict[int, Mask]:
        return panoptic_masks(panoptic_ids(np.asarray(self._picture(path).convert("RGB"))))

    def _mask_file(self, path: str) -> Mask:
        mask = self._painted.get(path)
        if mask is None:
            try:
                image = self._picture(path)
                if image.format != "PNG":  # other formats may be lossy, and nothing in them is quite 0
                    raise RecordError(RejectReason.MASK_INVALID, f"{path}: expected a PNG, got {image.format}")
                inside = painted_inside(image)
                if not inside.any():
                    raise RecordError(RejectReason.MASK_EMPTY, f"{path}: expected pixels that aren't 0, got none")
                mask = encode_mask(inside)
            except RecordError as error:
                mask = error
            self._painted[path] = mask
        if isinstance(mask, RecordError):
            raise RecordError(mask.reason, mask.detail)
        return mask

    def _picture(self, path: str) -> Image.Image:
        image = decode_image(self._read(path), self._max_image_px, path)
        if (image.height, image.width) != (self._height, self._width):
            raise RecordError(
                RejectReason.IMAGE_SIZE_MISMATCH,
                f"{path}: expected {self._height} x {self._width} px as its image, got {image.height} x {image.width}",
            )
        return image
