"""Visual prompts as masks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.masks import encode_mask
from storage.prompts import prompt_mask
from storage.schema import PromptKind, Region, VisualPrompt

SIDES = st.integers(1, 40)


def point(*points: tuple[float, float]) -> VisualPrompt:
    kind = PromptKind.POINT if len(points) == 1 else PromptKind.SCRIBBLE
    return VisualPrompt(kind=kind, points_xy_px=points)


def box(x0: float, y0: float, x1: float, y1: float) -> VisualPrompt:
    return VisualPrompt(kind=PromptKind.BOX, box_xyxy_px=(float(x0), float(y0), float(x1), float(y1)))


def test_mask_prompt_is_its_region() -> None:
    bitmap = np.random.default_rng(0).random((9, 7)) < 0.4
    regions = [Region(mask=encode_mask(~bitmap)), Region(mask=encode_mask(bitmap))]
    found = prompt_mask(VisualPrompt(kind=PromptKind.MASK, region=1), regions, 9, 7)
    assert found.dtype == np.bool_
    np.testing.assert_array_equal(found, bitmap)


@settings(deadline=None)
@given(data=st.data(), height=SIDES, width=SIDES)
def test_box_of_whole_pixels_is_filled(data: st.DataObject, height: int, width: int) -> None:
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    mask = prompt_mask(box(x0, y0, x1, y1), (), height, width)
    assert mask.shape == (height, width)
    assert mask.sum() == (x1 - x0) * (y1 - y0)
    assert mask[y0:y1, x0:x1].all()


@settings(deadline=None)
@given(data=st.data(), height=SIDES, width=SIDES)
def test_box_holds_every_pixel_that_it_touches(data: st.DataObject, height: int, width: int) -> None:
    x0, x1 = sorted(data.draw(st.tuples(*[st.floats(-20, width + 20)] * 2)))
    y0, y1 = sorted(data.draw(st.tuples(*[st.floats(-20, height + 20)] * 2)))
    y, x = np.mgrid[:height, :width]
    touched = (x < x1) & (x + 1 > x0) & (y < y1) & (y + 1 > y0)
    if touched.any():
        found = prompt_mask(box(x0, y0, x1, y1), (), height, width)
        assert found[touched].all()
        assert not found[(x >= x1) | (x + 1 <= x0) | (y >= y1) | (y + 1 <= y0)].any()


@settings(deadline=None)
@given(data=st.data(), height=SIDES, width=SIDES)
def test_a_point_in_the_image_marks_its_pixel(data: st.DataObject, height: int, width: int) -> None:
    px, py = data.draw(st.floats(0, width, exclude_max=True)), data.draw(st.floats(0, height, exclude_max=True))
    mask = prompt_mask(point((px, py)), (), height, width)
    assert mask[int(py), int(px)]
    rows, columns = mask.nonzero()
    reach = max(1.0, 0.015 * max(height, width))
    assert np.hypot(columns + 0.5 - px, rows + 0.5 - py).max() <= reach + 1e-6


@settings(deadline=None)
@given(data=st.data(), height=st.integers(1, 200), width=st.integers(1, 200))
def test_a_disc_is_what_the_whole_grid_says(data: st.DataObject, height: int, width: int) -> None:
    """Halves put pixel centres right on the rim, where a window that is too small would show."""
    px, py = (data.draw(st.integers(-10, 2 * side + 10)) / 2 for side in (width, height))
    y, x = np.mgrid[:height, :width]
    radius = max(1.0, 0.015 * max(height, width))
    expected = (x + 0.5 - px) ** 2 + (y + 0.5 - py) ** 2 <= radius**2
    if expected.any():
        np.testing.assert_array_equal(prompt_mask(point((px, py)), (), height, width), expected)
    else:
        with pytest.raises(ValueError, match="point prompt: expected pixels inside"):
            prompt_mask(point((px, py)), (), height, width)


def test_disc_grows_with_the_image() -> None:
    small, large = (prompt_mask(point((side / 2, side / 2)), (), side, side).sum() for side in (60, 1000))
    assert small == pytest.approx(np.pi, abs=1)
    assert large == pytest.approx(np.pi * 15**2, rel=0.03)


@settings(deadline=None)
@given(
    points=st.lists(st.tuples(st.floats(0, 29), st.floats(0, 19)), min_size=2, max_size=5),
    at=st.floats(0, 1),
    data=st.data(),
)
def test_scribble_is_one_line_through_its_points(
    points: list[tuple[float, float]], at: float, data: st.DataObject
) -> None:
    mask = prompt_mask(point(*points), (), 20, 30)
    assert all(mask[int(y), int(x)] for x, y in points)
    start = data.draw(st.integers(0, len(points) - 2))
    (x0, y0), (x1, y1) = points[start : start + 2]
    y, x = np.mgrid[:20, :30]
    distance = np.hypot(x + 0.5 - (x0 + at * (x1 - x0)), y + 0.5 - (y0 + at * (y1 - y0)))
    # Discs of radius 1 at most 1 apart: within sqrt(3) / 2 of the line nothing is left out.
    assert mask[distance <= 0.8].all()


def test_scribble_is_no_wider_than_its_discs() -> None:
    mask = prompt_mask(point((5.0, 10.0), (25.0, 10.0)), (), 20, 30)
    assert mask[9:11, 5:25].all()
    assert mask.any(1).nonzero()[0].tolist() == [9, 10]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (VisualPrompt(kind=PromptKind.MASK), "mask prompt: expected the index of a region"),
        (VisualPrompt(kind=PromptKind.BOX), "box prompt: expected box_xyxy_px"),
        (
            VisualPrompt(kind=PromptKind.POINT),
            r"point prompt: expected pixels inside 30 x 20, got none in points_xy_px \(\)",
        ),
        (
            VisualPrompt(kind=PromptKind.MASK, region=0),
            "mask prompt: expected pixels inside .*got none in the mask of region 0",
        ),
        (
            box(40, 2, 50, 9),
            r"box prompt: expected pixels inside .*got none in box_xyxy_px \(40.0, 2.0, 50.0, 9.0\); coord",
        ),
        (box(-9, -9, 0, 0), r"box prompt: expected pixels inside .*got none in box_xyxy_px \(-9.0, -9.0, 0.0, 0.0\)"),
        (box(5, 5, 5, 9), r"box prompt: expected pixels inside .*got none in box_xyxy_px \(5.0, 5.0, 5.0, 9.0\)"),
        (point((-30.0, 5.0)), r"point prompt: expected pixels inside .*got none in points_xy_px \(\(-30.0, 5.0\),\)"),
        (point((np.inf, 5.0)), r"point prompt: expected pixels inside .*got none in points_xy_px \(\(inf, 5.0\),\)"),
        (point((np.nan, 5.0)), r"point prompt: expected pixels inside .*got none in points_xy_px \(\(nan, 5.0\),\)"),
        (
            point((-30.0, 5.0), (-20.0, 9.0)),
            r"scribble prompt: expected pixels inside .*points_xy_px \(\(-30.0, 5.0\), \(-20.0, 9.0\)\); coordinates",
        ),
        (point(*[(-30.0, 5.0)] * 9), r"scribble prompt: expected pixels inside .*\(-30.0, 5.0\)\) and 5 more; coord"),
    ],
)
def test_a_prompt_without_pixels_is_refused(prompt: VisualPrompt, message: str) -> None:
    nothing = Region(mask=encode_mask(np.zeros((20, 30), np.bool_)))
    with pytest.raises(ValueError, match=message):
        prompt_mask(prompt, [nothing], 20, 30)
