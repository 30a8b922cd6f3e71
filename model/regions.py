"""What users point with (masks, boxes, points, scribbles) becomes masks of the picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from model.pictures import describe, tensor_values
from storage.prompts import prompt_mask
from storage.schema import PromptKind, VisualPrompt

__all__ = ["region_mask"]

_KEYS = ("box", "point", "points", "scribble", "mask")
_FORMS = '{"box": (x0, y0, x1, y1)}, {"point": (x, y)}, {"points": [(x, y), ...]}, {"scribble": [(x, y), ...]}'
_FRAME = "coordinates are pixels of the picture as given, x to the right and y down"
_FAR_SIDES = 1000
"""A scribble may leave the picture by that many of its longer sides. It is painted in steps of 1.5 % of one: such a
line takes 0.1 s (measured, one core), while one to a coordinate of 1e15 would never end."""


def region_mask(region: object, height_px: int, width_px: int) -> NDArray[np.bool_]:
    """What a user points with, as a mask of the picture.

    Coordinates are pixels of the picture as given to the student (EXIF orientation not applied), x to the right and y
    down: pixel (column 3, row 5) reaches from x = 3 to 4 and from y = 5 to 6.

    Args:
        region: one of
            a mask: NumPy array or torch tensor (height, width) or (1, height, width) of bool, integers or floats from
                0 to 1, or PIL image of mode 1 or L; 0 is outside, one other value inside;
            `{"mask": mask}`: the same;
            `{"box": (x0, y0, x1, y1)}`: with x0 < x1 and y0 < y1, exclusive ends; what is outside the picture is cut;
            `{"point": (x, y)}`: a small disc around a point of the picture, 0 <= x < width, 0 <= y < height;
            `{"points": [(x, y), ...]}`: the union of such discs;
            `{"scribble": [(x, y), ...]}`: a line through these points, at least one of them in the picture;
            a `VisualPrompt` of kind BOX, POINT or SCRIBBLE: the same as box, point and scribble.
        height_px: height of the picture.
        width_px: width of the picture.

    Returns:
        bool (height, width), a new array with at least one pixel.

    Raises:
        TypeError: none of these forms, or coordinates or a mask of other than numbers.
        ValueError: not exactly one known key, coordinates that are not finite, out of order or outside the picture, a
            mask of another size, of more levels than two or without pixels, or a `VisualPrompt` of kind MASK.
    """
    if min(height_px, width_px) < 1:
        raise ValueError(f"region: expected a picture of at least 1 x 1 px, got {width_px} x {height_px}")
    if isinstance(region, VisualPrompt):
        return _of_prompt(region, height_px, width_px)
    if isinstance(region, Mapping):
        named = cast("Mapping[object, object]", region)
        key = _only_key(named)
        return _painted(key, named[key], height_px, width_px)
    if isinstance(region, np.ndarray | Tensor | Image.Image):
        return _of_mask(region, height_px, width_px)
    if isinstance(region, list | tuple):
        raise TypeError(
            f"region: expected a mask or a dict that says what the numbers mean, got {_shown(region)}, which is "
            f"ambiguous; write {_FORMS}, or make an array of a mask: np.array(mask)"
        )
    raise TypeError(
        f"region: expected a mask (NumPy array, torch tensor or PIL image), a dict or a VisualPrompt, "
        f"got {describe(region)}; write {_FORMS}"
    )


def _only_key(named: Mapping[object, object]) -> str:
    known = ", ".join(_KEYS)
    unknown = [repr(key) for key in named if key not in _KEYS]
    if unknown:
        raise ValueError(f"region: expected one of the keys {known}, got {', '.join(unknown)}; write {_FORMS}")
    if len(named) != 1:
        found = ", ".join(map(str, named)) or "none"
        raise ValueError(
            f"region: expected exactly one of the keys {known}, got {found}; pass one dict for each region"
        )
    return str(next(iter(named)))


def _of_prompt(prompt: VisualPrompt, height_px: int, width_px: int) -> NDArray[np.bool_]:
    if prompt.kind is PromptKind.MASK:
        raise ValueError(
            "region: expected a VisualPrompt of kind box, point or scribble, got mask, which refers to a region of a "
            "sample; pass the mask itself: storage.masks.decode_mask(sample.regions[prompt.region].mask)"
        )
    if prompt.kind is PromptKind.BOX:
        return _painted("box", prompt.box_xyxy_px, height_px, width_px)
    if prompt.kind is PromptKind.SCRIBBLE:
        return _painted("scribble", prompt.points_xy_px, height_px, width_px)
    if len(prompt.points_xy_px) != 1:
        raise ValueError(
            f"region: expected one point in a VisualPrompt of kind point, got {_shown(prompt.points_xy_px)}; pass "
            'several as {"points": [(x, y), ...]}'
        )
    return _painted("point", prompt.points_xy_px[0], height_px, width_px)


def _painted(key: str, value: object, height_px: int, width_px: int) -> NDArray[np.bool_]:
    if key == "mask":
        return _of_mask(value, height_px, width_px)
    if key == "box":
        prompts = [VisualPrompt(kind=PromptKind.BOX, box_xyxy_px=_box(value))]
    elif key == "scribble":
        points = tuple(_points(key, value))
        _check_scribble(points, height_px, width_px)
        prompts = [VisualPrompt(kind=PromptKind.SCRIBBLE, points_xy_px=points)]
    else:
        points = [_point(value)] if key == "point" else _points(key, value)
        for point in points:
            if not _is_inside(point, height_px, width_px):
                raise ValueError(
                    f"{key}: expected points inside the picture of {width_px} x {height_px} px (width x height), "
                    f"got {point}; {_FRAME}"
                )
        prompts = [VisualPrompt(kind=PromptKind.POINT, points_xy_px=(point,)) for point in points]
    mask = prompt_mask(prompts[0], (), height_px, width_px)
    for prompt in prompts[1:]:
        mask |= prompt_mask(prompt, (), height_px, width_px)
    return mask


def _box(value: object) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = _numbers("box", value, "(x0, y0, x1, y1)", _FRAME)
    if not (x0 < x1 and y0 < y1):
        raise ValueError(
            f"box: expected (x0, y0, x1, y1) with x0 < x1 and y0 < y1, got {(x0, y0, x1, y1)}; a box of corner and "
            "size is (x, y, x + width, y + height)"
        )
    return x0, y0, x1, y1


def _point(value: object) -> tuple[float, float]:
    x, y = _numbers("point", value, "(x, y)", 'pass several as {"points": [(x, y), ...]}')
    return x, y


def _points(key: str, value: object) -> list[tuple[float, float]]:
    value = _plain(value)
    if not isinstance(value, list | tuple):
        raise TypeError(f"{key}: expected [(x, y), ...], got {_shown(value)}; {_FRAME}")
    if not value:
        raise ValueError(f"{key}: expected [(x, y), ...], got no point; pass at least one, or leave the region out")
    points: list[tuple[float, float]] = []
    for index, point in enumerate(cast("Sequence[object]", value)):
        x, y = _numbers(f"{key}[{index}]", point, "(x, y)", "a single point is [(x, y)]")
        points.append((x, y))
    return points


def _numbers(name: str, value: object, form: str, remedy: str) -> list[float]:
    """As many finite numbers as the form has."""
    value = _plain(value)
    shown = _shown(value)
    if not isinstance(value, list | tuple):
        raise TypeError(f"{name}: expected {form}, got {shown}; {remedy}")
    items = [_plain(item) for item in cast("Sequence[object]", value)]
    if len(items) != form.count(",") + 1:
        raise ValueError(f"{name}: expected {form}, got {len(items)} values, {shown}; {remedy}")
    numbers: list[float] = []
    for item in items:
        if not isinstance(item, Real) or isinstance(item, bool):
            raise TypeError(f"{name}: expected {form} of numbers, got {_shown(item)} in {shown}; {remedy}")
        numbers.append(_finite(item, name, shown))
    return numbers


def _finite(number: Real, name: str, shown: str) -> float:
    try:
        value = float(number)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise ValueError(f"{name}: expected finite numbers, got {shown}; leave out what has no place")
    return value


def _check_scribble(points: Sequence[tuple[float, float]], height_px: int, width_px: int) -> None:
    picture = f"the picture of {width_px} x {height_px} px (width x height)"
    if not any(_is_inside(point, height_px, width_px) for point in points):
        raise ValueError(f"scribble: expected at least one point inside {picture}, got {_shown(points)}; {_FRAME}")
    limit = _FAR_SIDES * max(height_px, width_px)
    for point in points:
        if max(map(abs, point)) > limit:
            raise ValueError(f"scribble: expected coordinates within {limit} px of {picture}, got {point}; {_FRAME}")


def _is_inside(point: tuple[float, float], height_px: int, width_px: int) -> bool:
    return 0 <= point[0] < width_px and 0 <= point[1] < height_px


def _plain(value: object) -> object:
    """Arrays, tensors and NumPy's numbers as lists and plain numbers; everything else as it is."""
    if isinstance(value, Tensor):
        return tensor_values(value).tolist()
    if isinstance(value, np.ndarray | np.generic):
        return cast("NDArray[Any]", value).tolist()
    return value


def _shown(value: object) -> str:
    """Coordinates in a message: as written, cut where there are many."""
    if isinstance(value, list | tuple | float | int):
        text = repr(cast("object", value))
        return text if len(text) <= 120 else f"{text[:120]}..."
    return describe(value)


def _of_mask(value: object, height_px: int, width_px: int) -> NDArray[np.bool_]:
    levels, given = _mask_values(value), describe(value)
    if levels.shape not in ((height_px, width_px), (1, height_px, width_px)):
        remedy = "scale it without interpolation (NEAREST), or pass the picture that it belongs to"
        if levels.shape == (width_px, height_px):
            remedy = "it is transposed, so pass mask.T"
        raise ValueError(
            f"mask: expected the picture's size, (height, width) = {(height_px, width_px)}, got {given}; {remedy}"
        )
    levels = levels.reshape(height_px, width_px)
    mask = np.asarray(levels != 0)
    if not mask.any():
        raise ValueError(f"mask: expected at least one pixel that is not 0, got none in {given}; leave the region out")
    if levels.dtype.kind == "f" and not np.isfinite(levels).all():
        raise ValueError(f"mask: expected finite values, got NaN or infinity in {given}; pass np.nan_to_num(mask)")
    inside = levels[mask]
    low, high = inside.min(), inside.max()
    remedy = "pass mask > 0.5 of a mask of certainties" if levels.dtype.kind == "f" else "pass labels == one of them"
    if low != high:
        raise ValueError(
            f"mask: expected two levels, 0 and one other value, got values from {low} to {high} beside 0 in {given}; "
            f"{remedy}, or mask > 127 of a grey picture"
        )
    if low < 0 or (levels.dtype.kind == "f" and high > 1):
        raise ValueError(
            f"mask: expected positive values, floats up to 1, got 0 and {high} in {given}; pass mask == {high}"
        )
    return mask


def _mask_values(value: object) -> NDArray[Any]:
    """Levels of a mask in whatever shape, numbers all of them."""
    given = describe(value)
    if isinstance(value, Image.Image):
        if value.mode not in ("1", "L"):
            raise ValueError(
                f"mask: expected a PIL image of mode 1 or L, got {given}; pass np.asarray(image) == the value inside, "
                "or all its channels compared: (np.asarray(image) == colour).all(-1)"
            )
        return np.asarray(value)
    if isinstance(value, Tensor):
        levels = tensor_values(value)
    elif isinstance(value, np.ndarray):
        levels = np.asarray(cast("NDArray[Any]", value))
    else:
        raise TypeError(f"mask: expected a NumPy array, torch tensor or PIL image, got {given}; pass np.array(mask)")
    if levels.dtype.kind not in "buif":
        raise TypeError(f"mask: expected bool, integers or floats, got {given}; pass mask.astype(bool)")
    return levels
