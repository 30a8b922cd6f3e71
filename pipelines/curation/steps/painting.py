"""Shapes painted over each other, as annotation tools draw them, made into a mask and what is ignored beside it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipelines.curation.records import PaintedShapes
from storage.masks import MaskError, area_px, decode_mask, encode_mask, mask_from_coco
from storage.schema import Mask, RejectReason

__all__ = ["painted_masks"]

_TARGET, _IGNORED = 1, 255


def painted_masks(shapes: PaintedShapes, height: int, width: int) -> tuple[Mask, Mask | None]:
    """What shows of targets and of ignored areas once all shapes are painted, from the largest area to the smallest.

    An ignored area hides the larger targets below it and is itself hidden by smaller ones; of equal areas it is
    painted last. Areas are those inside the image. Outlines are pycocotools' (the released reader of ReasonSeg draws
    with OpenCV, which takes in the pixels of the outline too).

    Args:
        shapes: in px of the image.
        height: of the image, px.
        width: of the image, px.

    Returns:
        The mask of the targets, and that of the ignored areas, which share no pixel; None if none of these shows.

    Raises:
        MaskError: `MASK_INVALID` for a malformed polygon, `MASK_OUTSIDE_IMAGE` or `MASK_EMPTY` if no target holds a
            pixel, `MASK_EMPTY` if ignored areas hide every target.
    """
    layers: list[tuple[bool, Mask]] = []
    reason, detail = RejectReason.MASK_EMPTY, "no target"
    for is_target, polygons in ((True, shapes.targets), (False, shapes.ignored)):
        for polygon in polygons:
            try:
                layers.append((is_target, mask_from_coco([polygon], height, width)))
            except MaskError as error:
                if error.reason is RejectReason.MASK_INVALID:
                    raise
                if is_target:  # it paints nothing; whether another one does is seen below
                    reason, detail = error.reason, "no target holds a pixel"
    if not any(is_target for is_target, _ in layers):
        raise MaskError(reason, detail)
    painted: npt.NDArray[np.uint8] = np.zeros((height, width), np.uint8)
    for is_target, mask in sorted(layers, key=lambda layer: (-area_px(layer[1]), not layer[0])):
        painted[decode_mask(mask)] = _TARGET if is_target else _IGNORED
    if not (painted == _TARGET).any():
        raise MaskError(RejectReason.MASK_EMPTY, "ignored areas hide every target")
    ignored = painted == _IGNORED
    return encode_mask(painted == _TARGET), encode_mask(ignored) if ignored.any() else None
