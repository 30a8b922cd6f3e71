"""What users point with, as masks."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from model.pictures import as_rgb
from model.regions import region_mask
from storage.masks import encode_mask
from storage.schema import PromptKind, Region, VisualPrompt

HEIGHT, WIDTH = 20, 30
MASK = np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.3
LARGE = (400, 600)


def filled(y0: int, y1: int, x0: int, x1: int) -> NDArray[np.bool_]:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


def disc(x: float, y: float, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.bool_]:
    """Pixels whose centre is within 1.5 % of the longer side of a point, and at least one pixel."""
    rows, columns = np.indices((height, width)) + 0.5
    return np.hypot(columns - x, rows - y) <= max(1.0, 0.015 * max(height, width))


def check(found: NDArray[np.bool_], expected: NDArray[np.bool_]) -> None:
    assert found.dtype == np.bool_
    np.testing.assert_array_equal(found, expected)


MASKS = {
    "bool": MASK,
    "uint8": MASK.astype(np.uint8),
    "uint8-255": MASK.astype(np.uint8) * 255,
    "uint16": MASK.astype(np.uint16) * 40_000,
    "int64-label": MASK.astype(np.int64) * 17,
    "float32": MASK.astype(np.float32),
    "float16": MASK.astype(np.float16),
    "float64-weak": MASK * 0.3,
    "1-height-width": MASK[None],
    "fortran": np.asfortranarray(MASK),
    "tensor-bool": torch.from_numpy(MASK),
    "tensor-uint8": torch.from_numpy(MASK)[None].to(torch.uint8) * 255,
    "tensor-int64": torch.from_numpy(MASK).long(),
    "tensor-bfloat16": torch.from_numpy(MASK).bfloat16(),
    "tensor-gradient": torch.from_numpy(MASK).float().requires_grad_(),
    "pil-1": Image.fromarray(MASK),
    "pil-L": Image.fromarray(MASK.astype(np.uint8) * 255),
    "pil-L-label": Image.fromarray(MASK.astype(np.uint8) * 3),
}


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("is_named", [False, True], ids=["plain", "named"])
def test_masks_of_every_kind(kind: str, is_named: bool) -> None:
    mask = MASKS[kind]
    check(region_mask({"mask": mask} if is_named else mask, HEIGHT, WIDTH), MASK)


@pytest.mark.parametrize("value", [np.True_, np.uint8(255), np.int64(1), np.float32(1)])
def test_a_mask_may_hold_the_whole_picture(value: np.generic) -> None:
    check(region_mask(np.full((HEIGHT, WIDTH), value), HEIGHT, WIDTH), filled(0, 20, 0, 30))


def test_the_mask_given_is_not_the_one_returned() -> None:
    given = MASK.copy()
    found = region_mask(given, HEIGHT, WIDTH)
    found[:] = True
    check(given, MASK)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        pytest.param((4, 3, 20, 9), filled(3, 9, 4, 20), id="whole-pixels"),
        pytest.param([4, 3, 20, 9], filled(3, 9, 4, 20), id="list"),
        pytest.param((4.5, 3.2, 19.1, 8.9), filled(3, 9, 4, 20), id="every-pixel-touched"),
        pytest.param((0, 0, 30, 20), filled(0, 20, 0, 30), id="whole-picture"),
        pytest.param((-5, -7, 3, 2), filled(0, 2, 0, 3), id="cut-at-top-left"),
        pytest.param((28, 15, 99, 1e300), filled(15, 20, 28, 30), id="cut-at-bottom-right"),
        pytest.param((7.2, 7.2, 7.3, 7.3), filled(7, 8, 7, 8), id="within-a-pixel"),
        pytest.param(np.array([4, 3, 20, 9], np.float32), filled(3, 9, 4, 20), id="numpy"),
        pytest.param(torch.tensor([4, 3, 20, 9]), filled(3, 9, 4, 20), id="torch"),
        pytest.param((np.int16(4), np.float32(3), torch.tensor(20), 9), filled(3, 9, 4, 20), id="mixed-numbers"),
    ],
)
def test_boxes(box: object, expected: NDArray[np.bool_]) -> None:
    check(region_mask({"box": box}, HEIGHT, WIDTH), expected)


@pytest.mark.parametrize(
    ("point", "x", "y"),
    [
        ((12, 5), 12, 5),
        ([12.5, 5.25], 12.5, 5.25),
        ((0, 0), 0, 0),
        ((29.999, 19.999), 29.999, 19.999),
        (np.array([12.5, 5.5]), 12.5, 5.5),
        (torch.tensor([12.5, 5.5]), 12.5, 5.5),
    ],
)
def test_points(point: object, x: float, y: float) -> None:
    found = region_mask({"point": point}, HEIGHT, WIDTH)
    check(found, disc(x, y))
    assert found[int(y), int(x)]


def test_points_are_the_union_of_single_ones() -> None:
    points = [(3, 4), (25.5, 15.5), (4, 4)]
    expected = disc(3, 4) | disc(25.5, 15.5) | disc(4, 4)
    for given in (points, tuple(points), np.array(points), torch.tensor(points), [np.array(point) for point in points]):
        check(region_mask({"points": given}, HEIGHT, WIDTH), expected)
    far_apart = region_mask({"points": [(100, 200), (500, 200)]}, *LARGE)
    check(far_apart, disc(100, 200, *LARGE) | disc(500, 200, *LARGE))
    assert not far_apart[:, 150:450].any()


def test_a_scribble_is_a_line_through_its_points() -> None:
    found = region_mask({"scribble": [(100, 200), (500, 200), (500, 300)]}, *LARGE)
    rows, columns = np.indices(LARGE) + 0.5
    to_first = np.hypot(columns - columns.clip(100, 500), rows - 200)
    to_second = np.hypot(columns - 500, rows - rows.clip(200, 300))
    distance, radius = np.minimum(to_first, to_second), 0.015 * 600
    assert not found[distance > radius].any()
    # Discs of radius 1 that are at most 1 apart leave nothing out within sqrt(3) / 2 of the line.
    assert found[distance <= 0.86 * radius].all()


@pytest.mark.parametrize(
    "given", [[(5, 10), (25, 10)], np.array([[5, 10], [25, 10]]), torch.tensor([[5, 10], [25, 10]])]
)
def test_scribbles_of_every_kind(given: object) -> None:
    check(region_mask({"scribble": given}, HEIGHT, WIDTH), filled(9, 11, 4, 26))


def test_a_scribble_of_one_point_is_a_dot() -> None:
    check(region_mask({"scribble": [(5, 10)]}, HEIGHT, WIDTH), disc(5, 10))


def test_a_scribble_may_leave_the_picture() -> None:
    found = region_mask({"scribble": [(15, 10), (100, 10)]}, HEIGHT, WIDTH)
    check(found, filled(9, 11, 15, 30) | disc(15, 10))
    returning = region_mask({"scribble": [(-50, 3), (-50, 10), (5, 10)]}, HEIGHT, WIDTH)
    check(returning, filled(9, 11, 0, 5) | disc(5, 10))


def test_long_scribbles_on_large_pictures_are_quick() -> None:
    """400 points of a mouse on 12 megapixels: 0.1 s in discs' own windows, a minute on the whole grid."""
    angles = np.linspace(0, 20, 400)
    points = np.stack([2000 + 900 * np.cos(angles), 1500 + 900 * np.sin(angles)], 1)
    start = time.perf_counter()
    found = region_mask({"scribble": points}, 3000, 4000)
    assert time.perf_counter() - start < 10
    assert found.sum() == pytest.approx(2 * math.pi * 900 * 120, rel=0.02)


def test_visual_prompts_are_what_dicts_are() -> None:
    corners, line = (4.0, 3.0, 20.0, 9.0), ((5.0, 10.0), (25.0, 10.0))
    box = VisualPrompt(kind=PromptKind.BOX, box_xyxy_px=corners)
    point = VisualPrompt(kind=PromptKind.POINT, points_xy_px=line[:1], region=3)
    scribble = VisualPrompt(kind=PromptKind.SCRIBBLE, points_xy_px=line)
    check(region_mask(box, HEIGHT, WIDTH), filled(3, 9, 4, 20))
    check(region_mask(point, HEIGHT, WIDTH), disc(5, 10))
    check(region_mask(scribble, HEIGHT, WIDTH), filled(9, 11, 4, 26))


def test_a_region_of_a_picture_lies_on_its_pixels() -> None:
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[3:9, 4:20] = 200
    picture = as_rgb(Image.fromarray(pixels))
    mask = region_mask({"box": (4, 3, 20, 9)}, *picture.shape[:2])
    assert (picture[mask] == 200).all()
    assert not picture[~mask].any()


FRAME = "coordinates are pixels of the picture as given, x to the right and y down"
PICTURE = r"the picture of 30 x 20 px \(width x height\)"


@pytest.mark.parametrize(
    ("region", "message"),
    [
        pytest.param(
            MASK[:10],
            r"expected the picture's size, \(height, width\) = \(20, 30\), got a NumPy array of bool "
            r"\(10, 30\); scale it without interpolation",
            id="smaller",
        ),
        pytest.param(
            MASK.T,
            r"\(20, 30\), got a NumPy array of bool \(30, 20\); it is transposed, so pass mask.T",
            id="transposed",
        ),
        pytest.param(MASK[..., None], r"\(20, 30\), got a NumPy array of bool \(20, 30, 1\)", id="last-axis"),
        pytest.param(np.stack([MASK, MASK]), r"\(20, 30\), got a NumPy array of bool \(2, 20, 30\)", id="two"),
        pytest.param(MASK[0], r"\(20, 30\), got a NumPy array of bool \(30,\)", id="one-axis"),
        pytest.param(torch.zeros(1, 5, 6), r"\(20, 30\), got a torch tensor of float32 \(1, 5, 6\)", id="tensor"),
        pytest.param(
            Image.new("L", (20, 30)),
            r"\(20, 30\), got a PIL image of mode L, 30 px high and 20 px wide; it is t",
            id="pil-transposed",
        ),
        pytest.param(Image.new("1", (0, 0)), r"\(20, 30\), got a PIL image of mode 1, 0 px high", id="pil-empty"),
        pytest.param(
            np.zeros((20, 30)),
            r"at least one pixel that is not 0, got none in a NumPy array of float64 "
            r"\(20, 30\); leave",
            id="empty",
        ),
        pytest.param(
            Image.new("1", (30, 20)), "at least one pixel that is not 0, got none in a PIL image", id="pil-black"
        ),
        pytest.param(
            MASK * 0.25 + 0.5,
            "expected two levels, 0 and one other value, got values from 0.5 to 0.75 beside 0 "
            "in a NumPy array of float64 .*pass mask > 0.5",
            id="certainties",
        ),
        pytest.param(
            np.arange(600).reshape(20, 30) % 5,
            "got values from 1 to 4 beside 0 in .*pass labels == one of",
            id="labels",
        ),
        pytest.param(
            Image.fromarray(np.arange(600).reshape(20, 30).astype(np.uint8)),
            "got values from 1 to 255 beside 0 in a PIL image of mode L.*mask > 127",
            id="grey",
        ),
        pytest.param(np.where(MASK, np.nan, 0), "expected finite values, got NaN or infinity", id="nan"),
        pytest.param(torch.from_numpy(MASK) / 0.0, "expected finite values, got NaN or infinity", id="infinity"),
        pytest.param(
            MASK * 255.0,
            r"expected positive values, floats up to 1, got 0 and 255.0 in .*pass mask == 255.0",
            id="float-255",
        ),
        pytest.param(
            MASK.astype(np.int8) * -1, "expected positive values, .*got 0 and -1 in .*pass mask == -1", id="negative"
        ),
        pytest.param(
            Image.new("P", (30, 20), 1),
            r"expected a PIL image of mode 1 or L, got a PIL image of mode P, 20 px "
            r"high and 30 px wide; pass np.asarray\(image\) == ",
            id="palette",
        ),
        pytest.param(Image.new("RGB", (30, 20)), r"mode 1 or L, got a PIL image of mode RGB.*colour\).all", id="rgb"),
    ],
)
@pytest.mark.parametrize("is_named", [False, True], ids=["plain", "named"])
def test_other_masks_are_refused(region: object, message: str, is_named: bool) -> None:
    with pytest.raises(ValueError, match=f"^mask: .*{message}"):
        region_mask({"mask": region} if is_named else region, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (
            {"box": (9, 2, 3, 5)},
            r"^box: expected .* x0 < x1 and y0 < y1, got \(9.0, 2.0, 3.0, 5.0\); .*x \+ width, y \+ h",
        ),
        ({"box": (3, 5, 9, 2)}, "^box: expected .* x0 < x1 and y0 < y1, got"),
        ({"box": (3, 2, 3, 5)}, "^box: expected .* x0 < x1 and y0 < y1, got"),
        (
            {"box": (40, 2, 50, 9)},
            r"^box prompt: expected pixels inside 30 x 20, got none in box_xyxy_px \(40.0, 2.0, 50.0, ",
        ),
        ({"box": (30, 2, 50, 9)}, "^box prompt: expected pixels inside 30 x 20, got none in"),
        ({"box": (1, -9, 5, 0)}, "^box prompt: expected pixels inside 30 x 20, got none in"),
        ({"box": (1, 2, 3)}, rf"^box: expected \(x0, y0, x1, y1\), got 3 values, \(1, 2, 3\); {FRAME}"),
        ({"box": [(1, 2), (3, 4)]}, r"^box: expected \(x0, y0, x1, y1\), got 2 values, \[\(1, 2\), \(3, 4\)\]"),
        ({"box": (1, 2, math.inf, 4)}, r"^box: expected finite numbers, got \(1, 2, inf, 4\); leave out"),
        ({"box": (math.nan, 2, 3, 4)}, "^box: expected finite numbers, got"),
        ({"box": (1, 2, 10**400, 4)}, "^box: expected finite numbers, got"),
        ({"box": np.array([1, 2, np.nan, 4])}, r"^box: expected finite numbers, got \[1.0, 2.0, nan, 4.0\]"),
        ({"point": (30, 5)}, rf"^point: expected points inside {PICTURE}, got \(30.0, 5.0\); {FRAME}"),
        ({"point": (5, 20)}, rf"^point: expected points inside {PICTURE}, got \(5.0, 20.0\)"),
        ({"point": (-0.5, 5)}, rf"^point: expected points inside {PICTURE}, got \(-0.5, 5.0\)"),
        ({"point": (5, math.nan)}, r"^point: expected finite numbers, got \(5, nan\)"),
        (
            {"point": [(5, 6)]},
            r"^point: expected \(x, y\), got 1 values, \[\(5, 6\)\]; pass several as {\"points\": \[",
        ),
        ({"point": (1, 2, 3)}, r"^point: expected \(x, y\), got 3 values, \(1, 2, 3\)"),
        ({"points": [(5, 6), (31, 6)]}, rf"^points: expected points inside {PICTURE}, got \(31.0, 6.0\)"),
        ({"points": []}, r"^points: expected \[\(x, y\), ...\], got no point; pass at least one, or leave"),
        ({"points": [(5, 6), (7,)]}, r"^points\[1\]: expected \(x, y\), got 1 values, \(7,\)"),
        ({"points": [(5, 6), (7, -math.inf)]}, r"^points\[1\]: expected finite numbers, got \(7, -inf\)"),
        ({"scribble": []}, r"^scribble: expected \[\(x, y\), ...\], got no point"),
        (
            {"scribble": [(-5, 5), (35, 5)]},
            rf"^scribble: expected at least one point inside {PICTURE}, got \(\(-5.0, 5.0\), "
            rf"\(35.0, 5.0\)\); {FRAME}",
        ),
        (
            {"scribble": [(5, 5), (5, 1e15)]},
            rf"^scribble: expected coordinates within 30000 px of {PICTURE}, got \(5.0, 1",
        ),
        ({"scribble": [(5, 5), (5, math.nan)]}, r"^scribble\[1\]: expected finite numbers, got \(5, nan\)"),
        ({}, "^region: expected exactly one of the keys box, point, points, scribble, mask, got none; pass one dict"),
        (
            {"box": (1, 2, 3, 4), "point": (1, 2)},
            "^region: expected exactly one of the keys .*, got box, point; pass one d",
        ),
        (
            {"bbox": (1, 2, 3, 4)},
            "^region: expected one of the keys box, point, points, scribble, mask, got 'bbox'; write",
        ),
        ({"point": (1, 2), "label": 1, 7: 8}, "^region: expected one of the keys .*, got 'label', 7; write"),
        (
            VisualPrompt(kind=PromptKind.MASK, region=0),
            "kind box, point or scribble, got mask.*pass the mask itself: .*decode",
        ),
        (
            VisualPrompt(kind=PromptKind.POINT),
            r"expected one point in a VisualPrompt of kind point, got \(\); pass several",
        ),
        (
            VisualPrompt(kind=PromptKind.POINT, points_xy_px=((1.0, 2.0), (3.0, 4.0))),
            "expected one point in a VisualPrompt",
        ),
        (
            VisualPrompt(kind=PromptKind.POINT, points_xy_px=((31.0, 2.0),)),
            rf"^point: expected points inside {PICTURE}, ",
        ),
        (VisualPrompt(kind=PromptKind.SCRIBBLE), r"^scribble: expected \[\(x, y\), ...\], got no point"),
        (
            VisualPrompt(kind=PromptKind.BOX, box_xyxy_px=(9.0, 2.0, 3.0, 5.0)),
            "^box: expected .* x0 < x1 and y0 < y1, got",
        ),
    ],
)
def test_other_values_are_refused(region: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        region_mask(region, HEIGHT, WIDTH)


WRITE = r"write {\"box\": \(x0, y0, x1, y1\)}, {\"point\": \(x, y\)}, {\"points\": "


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ((1, 2, 3, 4), rf"^region: expected a mask or a dict .*, got \(1, 2, 3, 4\), which is ambiguous; {WRITE}"),
        ([5, 6], rf"^region: expected a mask or a dict .*, got \[5, 6\], which is ambiguous; {WRITE}"),
        ([(5, 6), (7, 8)], r"got \[\(5, 6\), \(7, 8\)\], which is ambiguous"),
        (MASK.tolist(), r"\.\.\., which is ambiguous; .*make an array of a mask: np.array\(mask\)"),
        (
            None,
            rf"^region: expected a mask \(NumPy array, torch tensor or PIL image\), a dict or a .*got None; {WRITE}",
        ),
        ("box", rf"got the text 'box'; {WRITE}"),
        (Region(mask=encode_mask(MASK)), rf"got a value of type Region; {WRITE}"),
        (
            {"mask": "mask.png"},
            r"^mask: expected a NumPy array, torch tensor or PIL image, got the text 'mask.png'; pass np",
        ),
        ({"mask": MASK.tolist()}, "^mask: expected a NumPy array, .*got a value of type list; pass np.array"),
        (
            MASK.astype(np.complex64),
            r"^mask: expected bool, integers or floats, got a NumPy array of complex64 \(20, 30\)",
        ),
        (
            MASK.astype(object),
            r"^mask: expected bool, integers or floats, got a NumPy array of object .*astype\(bool\)",
        ),
        ({"box": 7}, rf"^box: expected \(x0, y0, x1, y1\), got 7; {FRAME}"),
        ({"box": None}, r"^box: expected \(x0, y0, x1, y1\), got None"),
        ({"box": "1234"}, r"^box: expected \(x0, y0, x1, y1\), got the text '1234'"),
        (
            {"box": (1, 2, "3", 4)},
            r"^box: expected \(x0, y0, x1, y1\) of numbers, got the text '3' in \(1, 2, '3', 4\)",
        ),
        ({"box": (1, 2, True, 4)}, r"^box: .*of numbers, got True in \(1, 2, True, 4\)"),
        ({"point": (1, None)}, r"^point: expected \(x, y\) of numbers, got None in \(1, None\)"),
        ({"point": (np.True_, 5)}, r"^point: expected \(x, y\) of numbers, got True in "),
        ({"point": (1j, 5)}, r"^point: expected \(x, y\) of numbers, got a value of type complex in"),
        ({"points": 5}, rf"^points: expected \[\(x, y\), ...\], got 5; {FRAME}"),
        ({"points": {(1, 2)}}, r"^points: expected \[\(x, y\), ...\], got a value of type set"),
        ({"points": (5, 6)}, r"^points\[0\]: expected \(x, y\), got 5; a single point is \[\(x, y\)\]"),
        ({"scribble": [1, 2, 3, 4]}, r"^scribble\[0\]: expected \(x, y\), got 1; a single point"),
        (VisualPrompt(kind=PromptKind.BOX), r"^box: expected \(x0, y0, x1, y1\), got None"),
    ],
)
def test_other_types_are_refused(region: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        region_mask(region, HEIGHT, WIDTH)


@pytest.mark.parametrize(("height", "width"), [(0, 30), (20, 0), (-1, 30)])
def test_pictures_without_pixels_are_refused(height: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"expected a picture of at least 1 x 1 px, got {width} x {height}"):
        region_mask({"point": (0, 0)}, height, width)


def test_messages_stay_short() -> None:
    with pytest.raises(ValueError, match="at least one point inside") as caught:
        region_mask({"scribble": [(-5.0, float(y)) for y in range(500)]}, HEIGHT, WIDTH)
    assert len(str(caught.value)) < 400
