"""Shapes painted over each other: what shows of the targets, whichever order they are listed in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.curation.records import DraftRegion, PaintedShapes, RecordError
from pipelines.curation.steps.painting import painted_masks
from pipelines.curation.steps.regions import MaskReader
from storage.masks import MaskError, decode_mask

_HEIGHT, _WIDTH = 8, 12

Box = tuple[int, int, int, int]


def _polygon(box: Box) -> tuple[float, ...]:
    x0, y0, x1, y1 = box
    return (x0, y0, x1, y0, x1, y1, x0, y1)


def _shapes(targets: list[Box], ignored: list[Box]) -> PaintedShapes:
    return PaintedShapes(targets=tuple(map(_polygon, targets)), ignored=tuple(map(_polygon, ignored)))


@st.composite
def _boxes(draw: st.DrawFn) -> Box:
    x0, y0 = draw(st.integers(0, _WIDTH - 1)), draw(st.integers(0, _HEIGHT - 1))
    return x0, y0, draw(st.integers(x0 + 1, _WIDTH)), draw(st.integers(y0 + 1, _HEIGHT))


@given(st.lists(_boxes(), min_size=1, max_size=4), st.lists(_boxes(), max_size=4), st.randoms())
def test_each_pixel_is_of_the_smallest_shape_that_covers_it(
    targets: list[Box], ignored: list[Box], order: np.random.Generator
) -> None:
    layers = [(box, True) for box in targets] + [(box, False) for box in ignored]
    expected = np.zeros((_HEIGHT, _WIDTH), np.bool_)
    hidden = np.zeros((_HEIGHT, _WIDTH), np.bool_)
    for y in range(_HEIGHT):
        for x in range(_WIDTH):
            covering = [
                ((x1 - x0) * (y1 - y0), is_target)
                for (x0, y0, x1, y1), is_target in layers
                if x0 <= x < x1 and y0 <= y < y1
            ]
            expected[y, x] = bool(covering) and min(covering)[1]
            hidden[y, x] = bool(covering) and not min(covering)[1]
    order.shuffle(targets)
    order.shuffle(ignored)
    shapes = _shapes(targets, ignored)
    if expected.any():
        mask, area = painted_masks(shapes, _HEIGHT, _WIDTH)
        assert np.array_equal(decode_mask(mask), expected)
        assert (area is None) == (not hidden.any())
        assert area is None or np.array_equal(decode_mask(area), hidden)
    else:
        with pytest.raises(MaskError, match="mask_empty: ignored areas hide every target"):
            painted_masks(shapes, _HEIGHT, _WIDTH)


def test_a_small_target_stands_out_of_the_ignored_area_around_it() -> None:
    shapes = _shapes([(0, 0, 12, 8), (4, 4, 6, 6)], [(2, 2, 8, 7)])
    mask, area = painted_masks(shapes, _HEIGHT, _WIDTH)
    assert area is not None
    assert decode_mask(area).sum() == 30 - 4
    mask = decode_mask(mask)
    assert mask.sum() == 96 - 30 + 4
    assert mask[4:6, 4:6].all()
    assert not mask[2, 2:8].any()


def test_areas_are_those_inside_the_image() -> None:
    """The ignored area is the larger polygon, but not in the image."""
    mask, _ = painted_masks(_shapes([(0, 0, 6, 8)], [(4, 0, 6, 1000)]), _HEIGHT, _WIDTH)
    assert np.array_equal(np.flatnonzero(decode_mask(mask).any(axis=0)), np.arange(4))


def test_a_shape_without_a_pixel_changes_nothing() -> None:
    slit = (1.0, 1.0, 1.0, 5.0, 1.0, 3.0)
    far = _polygon((50, 50, 60, 60))
    cup = _polygon((2, 2, 5, 5))
    shapes = PaintedShapes(targets=(slit, cup, far), ignored=(far, slit))
    assert painted_masks(shapes, _HEIGHT, _WIDTH) == painted_masks(PaintedShapes(targets=(cup,)), _HEIGHT, _WIDTH)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (PaintedShapes(targets=(_polygon((50, 50, 60, 60)),)), "mask_outside_image: no target holds a pixel"),
        (PaintedShapes(targets=((1.0, 1.0, 1.0, 5.0, 1.0, 3.0),)), "mask_empty: no target holds a pixel"),
        (PaintedShapes(targets=(), ignored=(_polygon((1, 1, 4, 4)),)), "mask_empty: no target"),
        (PaintedShapes(targets=((1.0, 1.0, 4.0, 1.0, 4.0),)), "mask_invalid: polygon 0: expected an even count"),
        (
            PaintedShapes(targets=(_polygon((1, 1, 4, 4)),), ignored=((float("nan"),) * 6,)),
            "mask_invalid: polygon 0: a coordinate that is not finite",
        ),
    ],
)
def test_what_gives_no_mask_is_named(shapes: PaintedShapes, message: str) -> None:
    with pytest.raises(MaskError, match=message):
        painted_masks(shapes, _HEIGHT, _WIDTH)


def _no_file(path: str) -> bytes:
    raise AssertionError(path)


def test_the_mask_reader_paints_equal_shapes_once() -> None:
    reader = MaskReader(_HEIGHT, _WIDTH, _no_file, 100)
    first, second = (
        reader.region(DraftRegion(segmentation=_shapes([(1, 1, 5, 5)], [(2, 2, 3, 3)]), source_id=name))
        for name in ("1", "2")
    )
    assert first.mask is second.mask
    assert decode_mask(first.mask).sum() == 15
    assert first.ignored is second.ignored is not None
    assert decode_mask(first.ignored).sum() == 1
    hidden = DraftRegion(segmentation=_shapes([(1, 1, 5, 5)], [(1, 1, 5, 5)]))
    with pytest.raises(RecordError, match=r"mask_empty: shapes: ignored areas hide every target; the image has 8 x 12"):
        reader.region(hidden)
