"""Shapes painted over each other, as annotation tools draw them, made into one mask."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipelines.curation.records import PaintedShapes
from storage.masks import MaskError, area_px, decode_mask, encode_mask, mask_from_coco
from storage.schema import Mask, RejectReason

__all__ = ["painted_mask"]


def painted_mask(shapes: PaintedShapes, height: int, width: int) -> Mask:
    """The mask of what shows of the targets once all shapes are painted, from the largest area to the smallest.

    An ignored area hides the larger targets below it and is itself hidden by smaller ones; of equal areas it is
    painted last. Areas are those inside the image. Outlines are pycocotools' (the released reader of ReasonSeg draws
    with OpenCV, which takes in the pixels of the outline too).

    Args:
        shapes: in px of the image.
        height: of the image, px.
        width: of the image, px.

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
    canvas: npt.NDArray[np.bool_] = np.zeros((height, width), np.bool_)
    for is_target, mask in sorted(layers, key=lambda layer: (-area_px(layer[1]), not layer[0])):
        canvas[decode_mask(mask)] = is_target
    if not canvas.any():
        raise MaskError(RejectReason.MASK_EMPTY, "ignored areas hide every target")
    return encode_mask(canvas)
