"""Every encoding agrees with pycocotools, and nothing malformed reaches its C code."""

from __future__ import annotations

import pickle
import random

import numpy as np
import pycocotools.mask as coco
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from storage.masks import (
    MaskError,
    area_px,
    areas_px,
    box_xyxy_px,
    decode_mask,
    decode_masks,
    encode_mask,
    mask_from_coco,
    union,
)
from storage.schema import Mask, RejectReason

# pycocotools' decoder triggers it; ours doesn't call that decoder.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

bitmaps = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24))
coordinates = st.floats(-20, 50, allow_nan=False).map(lambda value: round(value, 2))
polygons = st.lists(
    st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=7).map(
        lambda points: [axis for point in points for axis in point]
    ),
    min_size=1,
    max_size=3,
)


@given(st.lists(bitmaps, max_size=6), st.integers(1, 100))
def test_areas_of_many_are_those_of_each(shapes: list[np.ndarray], times: int) -> None:
    masks = [encode_mask(bitmap) for bitmap in shapes] * times
    areas = areas_px(masks)
    assert areas.dtype == np.int64
    assert areas.tolist() == [area_px(mask) for mask in masks]


@pytest.mark.parametrize("counts", [b"", b"T", b"4T", b"042", b"?~"])
def test_areas_refuse_what_leads_out_of_memory_or_image(counts: bytes) -> None:
    good = encode_mask(np.eye(3, dtype=np.bool_))
    with pytest.raises(MaskError, match="mask_invalid"):
        areas_px([good, Mask(1, 1, counts)])


def _as_coco(mask: Mask) -> dict[str, object]:
    return {"size": [mask.height, mask.width], "counts": mask.counts}


def _runs(bitmap: np.ndarray) -> list[int]:
    """Uncompressed counts, the plain way."""
    counts, value = [0], False
    for pixel in bitmap.T.reshape(-1).tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


@given(bitmaps)
def test_bitmaps_agree_with_pycocotools(bitmap: np.ndarray) -> None:
    mask = encode_mask(bitmap)
    encoded = coco.encode(np.asfortranarray(bitmap, dtype=np.uint8))
    assert mask == Mask(*bitmap.shape, encoded["counts"])
    decoded = decode_mask(mask)
    assert decoded.dtype == np.bool_
    np.testing.assert_array_equal(decoded, bitmap)
    assert area_px(mask) == coco.area(encoded) == bitmap.sum()
    box = box_xyxy_px(mask)
    if bitmap.any():
        assert box is not None
        x, y, width, height = coco.toBbox(encoded).tolist()
        assert box == (x, y, x + width, y + height)
        ys, xs = np.nonzero(bitmap)
        assert box == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
    else:
        assert box is None


@given(bitmaps)
def test_all_forms_of_rle_give_one_mask(bitmap: np.ndarray) -> None:
    assume(bitmap.any())
    height, width = bitmap.shape
    mask = encode_mask(bitmap)
    runs = _runs(bitmap)
    for counts in (mask.counts, mask.counts.decode(), runs, tuple(runs)):
        assert mask_from_coco({"size": [height, width], "counts": counts}, height, width) == mask


@given(bitmaps, st.data())
def test_empty_runs_inside_are_brought_into_canonical_form(bitmap: np.ndarray, data: st.DataObject) -> None:
    assume(bitmap.any())
    height, width = bitmap.shape
    runs = _runs(bitmap)
    split = data.draw(st.integers(0, len(runs) - 1))
    first = data.draw(st.integers(0, runs[split]))
    runs[split : split + 1] = [first, 0, runs[split] - first]
    compressed = coco.frPyObjects({"size": [height, width], "counts": runs}, height, width)
    for counts in (runs, compressed["counts"]):
        assert mask_from_coco({"size": [height, width], "counts": counts}, height, width) == encode_mask(bitmap)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4), st.data())
def test_union_is_or(height: int, width: int, num: int, data: st.DataObject) -> None:
    parts = [data.draw(arrays(np.bool_, (height, width))) for _ in range(num)]
    assert union([encode_mask(part) for part in parts]) == encode_mask(np.logical_or.reduce(parts))


@given(st.lists(bitmaps, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_unions_of_parts_agree_with_pycocotools(parts: list[np.ndarray], draw: random.Random) -> None:
    """Whatever encoding each part comes in."""
    height, width = parts[0].shape
    same = [np.resize(part, (height, width)) for part in parts]
    forms: list[object] = []
    for part in same:
        mask = encode_mask(part)
        counts = draw.choice([mask.counts, mask.counts.decode(), _runs(part)])
        forms.append({"size": [height, width], "counts": counts})
    merged = coco.merge([coco.encode(np.asfortranarray(part, np.uint8)) for part in same])
    masks = [mask_from_coco(form, height, width) for form, part in zip(forms, same, strict=True) if part.any()]
    if masks:
        np.testing.assert_array_equal(decode_mask(union(masks)), coco.decode(merged) == 1)
    else:
        assert not coco.decode(merged).any()


@given(polygons, st.integers(1, 30), st.integers(1, 30))
def test_polygons_agree_with_pycocotools(polygons: list[list[float]], height: int, width: int) -> None:
    expected = coco.decode(coco.frPyObjects(polygons, height, width)).any(axis=2)
    try:
        mask = mask_from_coco(polygons, height, width)
        reason = None
    except MaskError as error:
        mask, reason = encode_mask(np.zeros((height, width), bool)), error.reason
    assert mask == encode_mask(expected)  # in canonical form, too
    np.testing.assert_array_equal(decode_mask(mask), expected)
    assert (reason in (RejectReason.MASK_EMPTY, RejectReason.MASK_OUTSIDE_IMAGE)) == (not expected.any())


@given(st.binary(max_size=12), st.integers(1, 40), st.integers(1, 40))
def test_random_counts_never_crash(counts: bytes, height: int, width: int) -> None:
    try:
        mask = mask_from_coco({"size": [height, width], "counts": counts}, height, width)
        reason = None
    except MaskError as error:
        mask, reason = None, error.reason
    assert reason in (None, RejectReason.MASK_INVALID, RejectReason.MASK_EMPTY)
    if mask is not None:
        np.testing.assert_array_equal(decode_mask(mask), coco.decode(_as_coco(mask)) == 1)


def test_a_polygon_partly_outside_is_clipped() -> None:
    mask = mask_from_coco([[-5, -5, 5, -5, 5, 5, -5, 5]], 20, 10)
    assert box_xyxy_px(mask) == (0, 0, 5, 5)
    assert area_px(mask) == 25


def test_far_coordinates_cost_no_memory() -> None:
    mask = mask_from_coco([[-1e12, 2, 1e12, 2, 1e12, 6, -1e12, 6]], 10, 8)
    assert box_xyxy_px(mask) == (0, 2, 8, 6)
    assert area_px(mask) == 4 * 8


def test_overlapping_polygons_are_a_union() -> None:
    square = [2, 2, 6, 2, 6, 6, 2, 6]
    shifted = [4, 4, 8, 4, 8, 8, 4, 8]
    assert area_px(mask_from_coco([square, square], 10, 10)) == 16
    assert area_px(mask_from_coco([square, shifted], 10, 10)) == 16 + 16 - 4
    assert mask_from_coco([square, [50, 50, 60, 50, 60, 60]], 10, 10) == mask_from_coco([square], 10, 10)


@pytest.mark.parametrize(
    "polygons",
    [
        [[20, 2, 30, 2, 30, 8]],
        [[2, -9, 8, -9, 8, -2]],
        [[10, 0, 15, 0, 15, 5]],
        [[20, 20, 30, 20, 30, 30], [-5, -5, -1, -5, -1, -1]],
        [[-6, 12, 12, 30, -6, 30]],
    ],
    ids=["right", "above", "at the edge", "both", "its box alone overlaps"],
)
def test_polygons_wholly_outside(polygons: list[list[float]]) -> None:
    with pytest.raises(MaskError, match="no polygon touches the image of 10x10 px") as caught:
        mask_from_coco(polygons, 10, 10)
    assert caught.value.reason is RejectReason.MASK_OUTSIDE_IMAGE


@pytest.mark.parametrize(
    "segmentation",
    [
        [],
        [[5, 5, 5, 5, 5, 5]],
        [[1, 1, 1.1, 1, 1.1, 1.1]],
        {"size": [10, 10], "counts": [100]},
        {"size": [10, 10], "counts": coco.encode(np.zeros((10, 10), np.uint8, order="F"))["counts"]},
    ],
)
def test_what_holds_no_pixel(segmentation: object) -> None:
    with pytest.raises(MaskError, match="mask_empty") as caught:
        mask_from_coco(segmentation, 10, 10)
    assert caught.value.reason is RejectReason.MASK_EMPTY


@pytest.mark.parametrize(
    ("segmentation", "match"),
    [
        (None, "expected polygons or RLE, got NoneType"),
        ("abc", "expected polygons or RLE, got str"),
        ([1, 2, 3, 4, 5, 6], "polygon 0: expected a list of numbers, got int"),
        ([[1, 2, 3, 4]], "polygon 0: expected an even count of at least 6"),
        ([[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6, 7]], "polygon 1: expected an even count"),
        ([[1, 2, 3, 4, 5, float("nan")]], r"not finite, or beyond 1e\+15"),
        ([[1, 2, 3, 4, 5, float("inf")]], r"not finite, or beyond 1e\+15"),
        ([[1, 2, 3, 4, 5, 10**400]], r"not finite, or beyond 1e\+15"),
        ([[1, 2, 3, 4, 5, "6"]], "expected numbers, got str"),
        ([[1, 2, 3, 4, 5, True]], "expected numbers, got bool"),
        ([[1, 2, 3, 4, 5, None]], "expected numbers, got NoneType"),
        ([[[1, 2], [3, 4], [5, 6]]], "polygon 0: expected an even count"),
        ({}, r"RLE size: expected \[10, 10\], got None"),
        ({"size": [10, 11], "counts": [110]}, r"RLE size: expected \[10, 10\], got \[10, 11\]"),
        ({"size": 100, "counts": [100]}, "RLE size"),
        ({"size": [10, 10]}, "RLE counts: expected a list, str or bytes, got NoneType"),
        ({"size": [10, 10], "counts": [50, 49]}, "a sum of 10x10, got 99"),
        ({"size": [10, 10], "counts": [50, 51]}, "a sum of 10x10, got 101"),
        ({"size": [10, 10], "counts": [150, -50]}, "integers that aren't negative"),
        ({"size": [10, 10], "counts": [50.0, 50.0]}, "integers that aren't negative"),
        ({"size": [10, 10], "counts": []}, "a sum of 10x10, got 0"),
        ({"size": [10, 10], "counts": b""}, "are no COCO RLE"),
        ({"size": [10, 10], "counts": "\u00e9"}, "other than ASCII"),
        ({"size": [10, 10], "counts": b"\x00\x01"}, "are no COCO RLE"),
        ({"size": [10, 10], "counts": b"T"}, "are no COCO RLE"),
        ({"size": [10, 10], "counts": b"o" * 200 + b"0"}, "a compressed count of 201 digits"),
        ({"size": [10, 10], "counts": b"0"}, "a sum of 10x10, got 0"),
    ],
)
def test_malformed_segmentations(segmentation: object, match: str) -> None:
    with pytest.raises(MaskError, match=match) as caught:
        mask_from_coco(segmentation, 10, 10)
    assert caught.value.reason is RejectReason.MASK_INVALID
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.reason, str(copy)) == (caught.value.reason, str(caught.value))


@pytest.mark.parametrize(("height", "width"), [(0, 5), (5, -1), (2**20, 2**20)])
def test_impossible_image_sizes(height: int, width: int) -> None:
    with pytest.raises(MaskError, match="image size"):
        mask_from_coco([[0, 0, 1, 0, 1, 1]], height, width)


def test_decoding_checks_its_counts() -> None:
    with pytest.raises(MaskError, match="a sum of 4x4, got 9"):
        decode_mask(Mask(4, 4, encode_mask(np.zeros((3, 3), bool)).counts))


@given(st.lists(bitmaps, max_size=6))
def test_several_masks_decode_as_each_by_itself(several: list[np.ndarray]) -> None:
    decoded = decode_masks([encode_mask(bitmap) for bitmap in several])
    assert len(decoded) == len(several)
    for found, bitmap in zip(decoded, several, strict=True):
        np.testing.assert_array_equal(found, bitmap)
        assert found.flags.c_contiguous


@given(st.lists(bitmaps, min_size=1, max_size=3), st.binary(max_size=12), st.integers(0, 3))
def test_one_malformed_mask_among_several(several: list[np.ndarray], counts: bytes, place: int) -> None:
    """Neither hidden by its neighbours nor blamed on them: the error is the one that it gives alone."""
    odd = Mask(5, 7, counts)
    try:
        decode_mask(odd)
        expected = None
    except MaskError as error:
        expected = str(error)
    masks = [encode_mask(bitmap) for bitmap in several]
    masks.insert(place, odd)
    if expected is None:
        assert len(decode_masks(masks)) == len(masks)
        return
    with pytest.raises(MaskError) as found:
        decode_masks(masks)
    assert str(found.value) == expected


def test_wrong_calls() -> None:
    with pytest.raises(ValueError, match=r"expected bool \(height, width\)"):
        encode_mask(np.zeros((0, 3), bool))
    with pytest.raises(ValueError, match="union of no masks"):
        union([])
    with pytest.raises(ValueError, match="expected 3x3 px, got 4x4 px"):
        union([encode_mask(np.ones((3, 3), bool)), encode_mask(np.ones((4, 4), bool))])


def test_a_large_mask_round_trips() -> None:
    bitmap = np.zeros((3000, 4000), bool)
    bitmap[10:2900, 5:3999] = True
    mask = encode_mask(bitmap)
    assert area_px(mask) == 2890 * 3994
    assert box_xyxy_px(mask) == (5, 10, 3999, 2900)
    np.testing.assert_array_equal(decode_mask(mask), bitmap)
