"""Boundary F-score: how well the outline of a mask follows the true one.

As in the DAVIS benchmark (Perazzi et al., CVPR 2016; davis-2017, `python/lib/davis/measures/f_boundary.py`): precision
is the share of the prediction's boundary pixels that have one of the truth within a tolerance, recall the share of the
truth's that have one of the prediction, and F their harmonic mean. The tolerance is 0.008 of the image's diagonal,
rounded up to whole pixels, by Euclidean distance.

A boundary pixel is one whose right, lower or lower right neighbour is on the other side. A mask that reaches the
edge of its image has no boundary there.
"""

from __future__ import annotations

import math
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["TOLERANCE_SHARE", "boundary_f", "boundary_pixels", "tolerance_px"]

Bitmap: TypeAlias = NDArray[np.bool_]

TOLERANCE_SHARE = 0.008
"""Tolerance of the DAVIS benchmark, as a share of the image's diagonal."""


def tolerance_px(height: int, width: int) -> int:
    """Largest distance between matching boundary pixels, in px.

    >>> tolerance_px(480, 854), tolerance_px(64, 64)
    (8, 1)
    """
    return math.ceil(TOLERANCE_SHARE * math.hypot(height, width))


def boundary_pixels(mask: Bitmap) -> Bitmap:
    """Pixels of a bool (height, width) mask behind which it begins or ends, to the right, below or both."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    right, below, diagonal = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    return (mask ^ right) | (mask ^ below) | (mask ^ diagonal)


def boundary_f(predicted: Bitmap, truth: Bitmap, ignored: Bitmap | None = None) -> float:
    """Boundary F-score of one mask.

    Args:
        predicted: bool (height, width).
        truth: of the same size.
        ignored: pixels that belong to neither mask.

    Returns:
        Between 0 and 1; 1 if neither mask has a boundary, 0 if one of them alone has none.

    Raises:
        ValueError: the masks have different sizes.
    """
    for mask in (predicted, ignored):
        if mask is not None and mask.shape != truth.shape:
            raise ValueError(f"boundary_f: expected a mask of {truth.shape} px (height, width), got {mask.shape}")
    if ignored is not None:
        predicted, truth = predicted & ~ignored, truth & ~ignored
    own, other = boundary_pixels(predicted), boundary_pixels(truth)
    if not own.any() or not other.any():
        return float(own.any() == other.any())
    limit = tolerance_px(*truth.shape)
    box = _surroundings(own | other)
    own, other = own[box], other[box]
    precision = float(_near(other, limit)[own].mean())
    recall = float(_near(own, limit)[other].mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _near(boundary: Bitmap, limit_px: int) -> Bitmap:
    """Pixels within a distance of a boundary."""
    distances = cast("NDArray[np.float64]", ndimage.distance_transform_edt(~boundary))
    return distances <= limit_px


def _surroundings(boundaries: Bitmap) -> tuple[slice, slice]:
    """The box that holds all boundary pixels: distances between them don't need the rest of the picture."""
    rows, columns = np.flatnonzero(boundaries.any(1)), np.flatnonzero(boundaries.any(0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
