"""Binary masks: bitmaps, compressed COCO RLE, polygons.

Everything agrees bit for bit with pycocotools, whose polygon rasteriser and encoder are used. Its C
code trusts what it is given, though, so counts and polygons are checked here first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import pycocotools.mask

from storage.errors import DataError
from storage.schema import Mask, RejectReason

__all__ = [
    "MaskError",
    "area_px",
    "areas_px",
    "box_xyxy_px",
    "decode_mask",
    "decode_masks",
    "dilated",
    "encode_mask",
    "mask_from_coco",
    "pairwise_ious",
    "union",
]

coco: Any = pycocotools.mask  # its types don't admit lists
Bitmap: TypeAlias = npt.NDArray[np.bool_]
_Counts: TypeAlias = npt.NDArray[np.int64]
_Points: TypeAlias = npt.NDArray[np.float64]
"""(points, 2): x and y, px."""

_MAX_PIXELS = 2**31 - 1  # pycocotools counts pixels in 32 bits
_MAX_COORDINATE = 1e15
_FAR_PX = 10_000.0  # polygons that reach further out of the image are cut off there
_AREAS_AT_ONCE = 255  # pycocotools 2.0.11 keeps the number of masks in 8 bits
_MAX_DIGITS = 7  # base-32 digits of one count: 35 bits hold any difference of two 32-bit counts


class MaskError(DataError):
    """A segmentation that gives no mask; `reason` says which way."""

    reason: RejectReason

    def __init__(self, reason: RejectReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self._detail = detail

    def __reduce__(self) -> tuple[type[MaskError], tuple[RejectReason, str]]:
        return MaskError, (self.reason, self._detail)


def encode_mask(bitmap: Bitmap) -> Mask:
    """Compressed COCO RLE of a bitmap.

    Args:
        bitmap: bool (height, width).

    Raises:
        ValueError: not a bool array with two axes, or without pixels.
    """
    if bitmap.dtype != np.bool_ or bitmap.ndim != 2 or bitmap.size == 0:
        raise ValueError(f"mask: expected bool (height, width), got {bitmap.dtype} {bitmap.shape}")
    encoded = cast("dict[str, bytes]", coco.encode(np.asfortranarray(bitmap).view(np.uint8)))
    return Mask(bitmap.shape[0], bitmap.shape[1], encoded["counts"])


def decode_mask(mask: Mask) -> Bitmap:
    """Bitmap, bool (height, width), of a mask.

    Raises:
        MaskError: the counts are malformed.
    """
    return decode_masks([mask])[0]


def decode_masks(masks: Sequence[Mask]) -> list[Bitmap]:
    """Bitmaps of several masks, whatever their sizes; small ones take a fraction of the time that each takes alone.

    Raises:
        MaskError: the counts of one are malformed.
    """
    if not masks:
        return []
    counts, lengths = _counts_of_all(masks)
    is_inside = (np.arange(counts.size) - np.repeat(np.cumsum(lengths) - lengths, lengths)) % 2 == 1
    pixels = np.repeat(is_inside, counts)
    ends = np.cumsum([mask.height * mask.width for mask in masks])
    columns = np.split(pixels, ends[:-1])
    return [
        np.ascontiguousarray(own.reshape(mask.width, mask.height).T) for own, mask in zip(columns, masks, strict=True)
    ]


def union(masks: Iterable[Mask]) -> Mask:
    """Mask of the pixels that any of the masks holds.

    Raises:
        ValueError: no masks, or masks of different sizes.
    """
    masks = list(masks)
    if not masks:
        raise ValueError("union of no masks: the size is unknown; encode an empty bitmap instead")
    height, width = masks[0].height, masks[0].width
    for mask in masks:
        if (mask.height, mask.width) != (height, width):
            raise ValueError(f"union: expected {height}x{width} px, got {mask.height}x{mask.width} px")
        _counts_of(mask)
    merged = cast("dict[str, bytes]", coco.merge([_to_coco(mask) for mask in masks]))
    return _from_runs(_counts_of(Mask(height, width, merged["counts"])), height, width)


def dilated(bitmap: Bitmap, by_px: int) -> Bitmap:
    """The bitmap grown by so many pixels up, down, left and right."""
    for _ in range(by_px):
        grown = bitmap.copy()
        grown[1:] |= bitmap[:-1]
        grown[:-1] |= bitmap[1:]
        grown[:, 1:] |= bitmap[:, :-1]
        grown[:, :-1] |= bitmap[:, 1:]
        bitmap = grown
    return bitmap


def pairwise_ious(masks: Sequence[Mask], others: Sequence[Mask]) -> npt.NDArray[np.float64]:
    """IoU of each of some masks with each of others of the same picture, (masks, others)."""
    if not masks or not others:
        return np.zeros((len(masks), len(others)))
    found = coco.iou([_to_coco(mask) for mask in masks], [_to_coco(mask) for mask in others], [0] * len(others))
    return np.asarray(found, np.float64)


def area_px(mask: Mask) -> int:
    """Number of pixels in the mask."""
    return int(_counts_of(mask)[1::2].sum())


def areas_px(masks: Sequence[Mask]) -> npt.NDArray[np.int64]:
    """Number of pixels in each of several masks that were checked before, in a hundredth of the time of `area_px`.

    Only that is checked here which keeps pycocotools within its memory, and that an area fits its image.

    Raises:
        MaskError: the counts of one are malformed.
    """
    for mask in masks:
        # A last digit that announces another one would lead the C code past the end.
        if not mask.counts or (mask.counts[-1] - 48) & 0x20:
            _counts_of(mask)
    areas = [
        coco.area([_to_coco(mask) for mask in masks[start : start + _AREAS_AT_ONCE]])
        for start in range(0, len(masks), _AREAS_AT_ONCE)
    ]
    found = np.concatenate([np.zeros(0), *areas]).astype(np.int64)
    for place in np.flatnonzero(found > np.array([mask.height * mask.width for mask in masks], np.int64)):
        _counts_of(masks[int(place)])
    return found


def box_xyxy_px(mask: Mask) -> tuple[int, int, int, int] | None:
    """Tightest box (x0, y0, x1, y1) with exclusive ends, in px; None for an empty mask."""
    counts = _counts_of(mask)
    ends = np.cumsum(counts)[1::2]
    starts = ends - counts[1::2]
    starts, ends = starts[ends > starts], ends[ends > starts]
    if not starts.size:
        return None
    first, last = starts // mask.height, (ends - 1) // mask.height
    # A run that goes on into the next column touches both the lowest and the highest row.
    one_column = first == last
    top = np.where(one_column, starts % mask.height, 0).min()
    bottom = np.where(one_column, (ends - 1) % mask.height, mask.height - 1).max()
    return int(first.min()), int(top), int(last.max()) + 1, int(bottom) + 1


def mask_from_coco(segmentation: object, height: int, width: int) -> Mask:
    """Mask of a COCO `segmentation` field in any of its forms.

    A list is polygons (`[[x0, y0, x1, y1, ...], ...]`, px), whose union counts, clipped to the
    image. A mapping is RLE, `{"size": [height, width], "counts": ...}`, with counts as a list of
    integers (uncompressed) or as str or bytes (compressed). The result is in canonical form,
    without runs of length zero.

    Args:
        segmentation: the field as read from JSON.
        height: of the image, px.
        width: of the image, px.

    Raises:
        MaskError: `MASK_INVALID` for anything malformed, `MASK_OUTSIDE_IMAGE` for polygons that
            don't touch the image, `MASK_EMPTY` for what holds no pixel.
    """
    if min(height, width) < 1 or height * width > _MAX_PIXELS:
        raise MaskError(RejectReason.MASK_INVALID, f"image size {height}x{width} px")
    if isinstance(segmentation, Mapping):
        counts = _counts_of_rle(cast("Mapping[object, object]", segmentation), height, width)
        if not counts[1::2].any():
            raise _empty()
        return _from_runs(counts, height, width)
    if isinstance(segmentation, list | tuple):
        return _from_polygons(cast("Sequence[object]", segmentation), height, width)
    raise _invalid(f"expected polygons or RLE, got {type(segmentation).__name__}")


def _invalid(detail: str) -> MaskError:
    return MaskError(RejectReason.MASK_INVALID, detail)


def _empty() -> MaskError:
    return MaskError(RejectReason.MASK_EMPTY, "the segmentation holds no pixel")


def _to_coco(mask: Mask) -> dict[str, object]:
    return {"size": [mask.height, mask.width], "counts": mask.counts}


def _counts_of(mask: Mask) -> _Counts:
    """Run lengths of a compressed mask, checked: digits, signs and the sum."""
    return _counts_of_all([mask])[0]


def _counts_of_all(masks: Sequence[Mask]) -> tuple[_Counts, _Counts]:
    """Run lengths of several masks one behind the other, checked, and how many each has."""
    data = [mask.counts for mask in masks]
    digits = np.frombuffer(b"".join(data), np.uint8).astype(np.int64) - 48
    sizes = np.array([len(own) for own in data])
    ends = np.cumsum(sizes)
    if not sizes.all() or digits.min() < 0 or digits.max() > 63 or (digits[ends - 1] & 0x20).any():
        raise _first_error(masks) or _invalid(f"compressed counts of {len(data[0])} bytes are no COCO RLE")
    last = np.flatnonzero((digits & 0x20) == 0)
    first = np.concatenate(([0], last[:-1] + 1))
    num_digits = last - first + 1
    if num_digits.max() > _MAX_DIGITS:
        raise _first_error(masks) or _invalid(f"a compressed count of {int(num_digits.max())} digits")
    shifts = 5 * (np.arange(digits.size) - np.repeat(first, num_digits))
    values = np.add.reduceat((digits & 0x1F) << shifts, first)
    values -= np.where(digits[last] & 0x10, np.int64(1) << (5 * num_digits), 0)
    stops = np.searchsorted(last, ends)
    starts = np.concatenate(([0], stops[:-1]))
    counts = _from_differences(values, starts, stops - starts)
    sums = np.add.reduceat(counts, starts)
    areas = np.array([mask.height * mask.width for mask in masks])
    if counts.min() < 0 or counts.max() > _MAX_PIXELS or (sums != areas).any():
        raise _first_error(masks) or _wrong_runs(counts, masks[0].height, masks[0].width)
    return counts, stops - starts


def _from_differences(values: _Counts, starts: _Counts, lengths: _Counts) -> _Counts:
    """Counts of which, from the fourth of each mask on, the difference from the one before the last is stored."""
    place = np.arange(values.size) - np.repeat(starts, lengths)
    counts = values.copy()
    for chain in (place % 2 == 1, (place % 2 == 0) & (place > 0)):
        sums = np.cumsum(np.where(chain, values, 0))
        before = np.concatenate(([0], sums))[starts]
        np.copyto(counts, sums - np.repeat(before, lengths), where=chain)
    return counts


def _first_error(masks: Sequence[Mask]) -> MaskError | None:
    """What is wrong with the first malformed one of several masks; None for a single one."""
    if len(masks) > 1:
        for mask in masks:
            try:
                _counts_of(mask)
            except MaskError as error:
                return error
    return None


def _check_runs(counts: _Counts, height: int, width: int) -> None:
    if counts.size == 0 or counts.min() < 0 or counts.max() > _MAX_PIXELS or int(counts.sum()) != height * width:
        raise _wrong_runs(counts, height, width)


def _wrong_runs(counts: _Counts, height: int, width: int) -> MaskError:
    return _invalid(f"RLE counts: expected none negative and a sum of {height}x{width}, got {int(counts.sum())}")


def _from_runs(counts: _Counts, height: int, width: int) -> Mask:
    """Mask of checked run lengths, in canonical form: adjacent runs of one value become one."""
    if counts[1:].all():
        runs = counts.tolist()
    else:
        value = np.arange(counts.size) % 2
        value, counts = value[counts > 0], counts[counts > 0]
        starts = np.flatnonzero(np.diff(value, prepend=-1))
        runs = [0] * int(value[0]) + np.add.reduceat(counts, starts).tolist()
    encoded = cast("dict[str, bytes]", coco.frPyObjects({"size": [height, width], "counts": runs}, height, width))
    return Mask(height, width, encoded["counts"])


def _counts_of_rle(segmentation: Mapping[object, object], height: int, width: int) -> _Counts:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(size, list | tuple) or list(cast("Sequence[object]", size)) != [height, width]:
        raise _invalid(f"RLE size: expected [{height}, {width}], got {size!r}"[:200])
    if isinstance(counts, str):
        if not counts.isascii():
            raise _invalid("compressed counts hold other than ASCII characters")
        counts = counts.encode("ascii")
    if isinstance(counts, bytes):
        return _counts_of(Mask(height, width, counts))
    if not isinstance(counts, list | tuple):
        raise _invalid(f"RLE counts: expected a list, str or bytes, got {type(counts).__name__}")
    values = cast("Sequence[object]", counts)
    if not all(
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_PIXELS for value in values
    ):
        raise _invalid("RLE counts: expected integers that aren't negative")
    runs = np.array(values, dtype=np.int64)
    _check_runs(runs, height, width)
    return runs


class _Polygon(NamedTuple):
    """A polygon that was checked, and how far it reaches."""

    numbers: Sequence[int | float]
    """x, y alternating, px."""
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    @property
    def points(self) -> _Points:
        """Its corners."""
        return np.array(self.numbers, np.float64).reshape(-1, 2)


def _from_polygons(segmentation: Sequence[object], height: int, width: int) -> Mask:
    if not segmentation:
        raise MaskError(RejectReason.MASK_EMPTY, "no polygons")
    polygons = [_polygon(value, index) for index, value in enumerate(segmentation)]
    inside = [polygon for polygon in polygons if _touches(polygon, height, width)]
    if not inside:
        raise MaskError(RejectReason.MASK_OUTSIDE_IMAGE, f"no polygon touches the image of {height}x{width} px")
    parts = coco.frPyObjects([_tame(polygon, height, width) for polygon in inside], height, width)
    merged = cast("dict[str, bytes]", parts[0] if len(parts) == 1 else coco.merge(parts))
    # What pycocotools rasterises and merges by itself is in canonical form.
    if not coco.area(merged):
        raise _empty()
    return Mask(height, width, merged["counts"])


def _polygon(value: object, index: int) -> _Polygon:
    if not isinstance(value, list | tuple):
        raise _invalid(f"polygon {index}: expected a list of numbers, got {type(value).__name__}")
    numbers = cast("Sequence[int | float]", value)
    if len(numbers) < 6 or len(numbers) % 2:
        raise _invalid(f"polygon {index}: expected an even count of at least 6 numbers, got {len(numbers)}")
    for kind in set(map(type, numbers)) - {int, float}:
        if kind is bool or not issubclass(kind, int | float):
            raise _invalid(f"polygon {index}: expected numbers, got {kind.__name__}")
    # Some fifty numbers: numpy would take longer to begin than Python takes for all of them.
    polygon = _Polygon(numbers, min(numbers[::2]), max(numbers[::2]), min(numbers[1::2]), max(numbers[1::2]))
    # Of NaN alone no sum is a number; what is smallest among it says nothing.
    if not (_are_small(polygon) and math.isfinite(sum(numbers))):
        raise _invalid(f"polygon {index}: a coordinate that is not finite, or beyond {_MAX_COORDINATE:g}")
    return polygon


def _are_small(polygon: _Polygon) -> bool:
    low, high = min(polygon.x_low, polygon.y_low), max(polygon.x_high, polygon.y_high)
    return low > -_MAX_COORDINATE and high < _MAX_COORDINATE


def _touches(polygon: _Polygon, height: int, width: int) -> bool:
    if polygon.x_high <= 0 or polygon.x_low >= width or polygon.y_high <= 0 or polygon.y_low >= height:
        return False
    if polygon.x_low >= 0 and polygon.x_high <= width and polygon.y_low >= 0 and polygon.y_high <= height:
        return True
    points = polygon.points
    if ((points > 0) & (points < (width, height))).all(axis=1).any():
        return True
    return bool(len(_clip(points, 0.0, 0.0, float(width), float(height))))


def _tame(polygon: _Polygon, height: int, width: int) -> Sequence[int | float] | npt.NDArray[np.float64]:
    """The polygon as it is, or, if it reaches far out, cut off well outside the image.

    pycocotools walks along every edge pixel by pixel, so that a coordinate of 1e9 would exhaust
    memory; what lies outside the image doesn't change the result but for the rounding of edges that
    are cut.
    """
    margin = _FAR_PX + max(height, width)
    if max(-polygon.x_low, polygon.x_high, -polygon.y_low, polygon.y_high) <= margin:
        return polygon.numbers
    return _clip(polygon.points, -margin, -margin, margin, margin).ravel()


def _clip(polygon: _Points, x0: float, y0: float, x1: float, y1: float) -> _Points:
    """Sutherland-Hodgman: the polygon cut to a box, one side after the other."""
    points: list[list[float]] = polygon.tolist()
    for axis, limit, sign in ((0, x0, 1.0), (0, x1, -1.0), (1, y0, 1.0), (1, y1, -1.0)):
        kept: list[list[float]] = []
        for before, here in zip(points[-1:] + points[:-1], points, strict=True):
            was_in, is_in = sign * (before[axis] - limit) >= 0, sign * (here[axis] - limit) >= 0
            if was_in != is_in:
                share = (limit - before[axis]) / (here[axis] - before[axis])
                cut = [before[0] + share * (here[0] - before[0]), before[1] + share * (here[1] - before[1])]
                cut[axis] = limit
                kept.append(cut)
            if is_in:
                kept.append(here)
        points = kept
        if not points:
            break
    return np.array(points, np.float64).reshape(-1, 2)
