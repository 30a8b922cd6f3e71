"""Masks of a picture: panoptic maps in one pass, equal encodings once, and what doesn't fit is named."""

from __future__ import annotations

import io

import numpy as np
import pycocotools.mask as coco
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from pipelines.curation.records import DraftRegion, MaskFile, PanopticSegment, RecordError
from pipelines.curation.steps.regions import MaskReader, panoptic_ids, panoptic_masks
from storage.masks import decode_mask, encode_mask
from storage.schema import RejectReason


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_panoptic_masks_equal_a_comparison_of_every_id(height: int, width: int, num_ids: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    names = np.concatenate(([0], draw.choice(2**24 - 1, num_ids, replace=False) + 1)).astype(np.int32)
    ids = names[draw.integers(0, num_ids + 1, (height, width))]
    masks = panoptic_masks(ids)
    assert set(masks) == set(np.unique(ids).tolist()) - {0}
    for segment_id, mask in masks.items():
        assert mask == encode_mask(ids == segment_id)


def test_segment_ids_use_all_three_channels() -> None:
    rgb = np.array([[[1, 0, 0], [0, 1, 0], [0, 0, 1], [255, 255, 255]]], np.uint8)
    assert panoptic_ids(rgb).tolist() == [[1, 256, 65536, 2**24 - 1]]


class _Reader:
    """Counts how often a file is read."""

    def __init__(self, height: int = 4, width: int = 6) -> None:
        self.num_reads = 0
        self._pixels = np.zeros((height, width, 3), np.uint8)
        self._pixels[1:3, 2:5, 0] = 7

    def __call__(self, path: str) -> bytes:
        self.num_reads += 1
        if path == "absent.png":
            raise RecordError(RejectReason.IMAGE_MISSING, "absent.png: no such file")
        sink = io.BytesIO()
        Image.fromarray(self._pixels).save(sink, "PNG")
        return sink.getvalue()


def _segment(path: str, segment_id: int) -> DraftRegion:
    return DraftRegion(segmentation=PanopticSegment(path, segment_id), category="cup", source_id="7")


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=16)), st.sampled_from(["1", "L", "RGB", "P"]))
def test_masks_of_png_agree_with_pycocotools(bitmap: np.ndarray, mode: str) -> None:
    """A mask file in any mode, and a segment of a panoptic map."""
    assume(bitmap.any())
    grey, sink = Image.fromarray(bitmap.astype(np.uint8) * 255), io.BytesIO()
    grey.convert(mode).save(sink, "PNG")
    reader = MaskReader(*bitmap.shape, lambda path: sink.getvalue(), 10_000)
    expected = coco.encode(np.asfortranarray(bitmap, np.uint8))["counts"]
    assert reader.region(DraftRegion(segmentation=MaskFile("a.png"))).mask.counts == expected
    assert reader.region(_segment("a.png", 2**24 - 1)).mask.counts == expected


def test_a_panoptic_png_is_read_once() -> None:
    read = _Reader()
    reader = MaskReader(4, 6, read, 100)
    regions = [reader.region(_segment("a.png", 7)) for _ in range(3)]
    assert read.num_reads == 1
    assert (regions[0].category, regions[0].source_id) == ("cup", "7")
    assert np.argwhere(decode_mask(regions[0].mask)).tolist() == [[y, x] for y in (1, 2) for x in (2, 3, 4)]
    with pytest.raises(RecordError, match=r"mask_empty: segment 8: expected in a.png, which holds 1 others"):
        reader.region(_segment("a.png", 8))
    for _ in range(2):
        with pytest.raises(RecordError, match=r"image_missing: absent.png: no such file"):
            reader.region(_segment("absent.png", 7))
    assert read.num_reads == 2


def test_a_panoptic_png_of_another_size() -> None:
    with pytest.raises(RecordError, match=r"image_size_mismatch: a.png: expected 5 x 6 px as its image, got 4 x 6"):
        MaskReader(5, 6, _Reader(), 100).region(_segment("a.png", 7))
    with pytest.raises(RecordError, match=r"image_too_large: a.png: expected at most 23 px, got 6 x 4"):
        MaskReader(4, 6, _Reader(), 23).region(_segment("a.png", 7))


def test_equal_encodings_are_one_mask() -> None:
    reader = MaskReader(4, 6, _Reader(), 100)
    square = [[1.0, 1.0, 3.0, 1.0, 3.0, 3.0, 1.0, 3.0]]
    first = reader.region(DraftRegion(segmentation=square, source_id="1"))
    second = reader.region(DraftRegion(segmentation=[list(square[0])], source_id="2"))
    assert first.mask is second.mask
    assert (first.source_id, second.source_id) == ("1", "2")


def test_overlapping_polygons_are_a_union() -> None:
    part = [1.0, 1.0, 4.0, 1.0, 4.0, 3.0, 1.0, 3.0]
    region = MaskReader(4, 6, _Reader(), 100).region(DraftRegion(segmentation=[part, part]))
    assert decode_mask(region.mask).sum() == 6


def test_a_mask_that_does_not_fit_is_named() -> None:
    reader = MaskReader(4, 6, _Reader(), 100)
    outside = DraftRegion(segmentation=[[50, 50, 60, 50, 60, 60]], source_id="12")
    for _ in range(2):
        with pytest.raises(RecordError, match=r"mask_outside_image: region 12: .*; the image has 4 x 6 px"):
            reader.region(outside)
    other = DraftRegion(segmentation={"size": [6, 4], "counts": [24]}, source_id="13")
    with pytest.raises(RecordError, match=r"mask_invalid: region 13: .*\[4, 6\]"):
        reader.region(other)


def _painted(mode: str) -> Image.Image:
    """A mask of the pixels (y, x) with y = 1 or 2 and x from 2 to 4, painted in one of Pillow's modes."""
    inside = np.zeros((4, 6), np.bool_)
    inside[1:3, 2:5] = True
    if mode == "transparent":  # white strokes on nothing
        pixels = np.zeros((4, 6, 4), np.uint8)
        pixels[inside] = 255
        return Image.fromarray(pixels)
    if mode == "opaque":  # a blue object on black
        pixels = np.zeros((4, 6, 4), np.uint8)
        pixels[..., 3] = 255
        pixels[inside, 2] = 1
        return Image.fromarray(pixels)
    if mode == "I;16":
        return Image.fromarray(inside.astype(np.uint16) * 256)
    image = Image.fromarray(inside.astype(np.uint8) * 255)
    if mode == "P":  # the indices count, whatever colour they stand for
        indices = Image.fromarray(inside.astype(np.uint8), "L").convert("P")
        indices.putpalette([255, 255, 255, 0, 0, 0])
        return indices
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "I;16", "transparent", "opaque"])
def test_a_painted_mask_is_whatever_is_not_0(mode: str) -> None:
    sink = io.BytesIO()
    _painted(mode).save(sink, "PNG")
    num_reads: list[str] = []

    def read(path: str) -> bytes:
        num_reads.append(path)
        return sink.getvalue()

    reader = MaskReader(4, 6, read, 100)
    for _ in range(2):
        region = reader.region(DraftRegion(segmentation=MaskFile("masks/a.png"), source_id="7"))
        assert np.argwhere(decode_mask(region.mask)).tolist() == [[y, x] for y in (1, 2) for x in (2, 3, 4)]
    assert num_reads == ["masks/a.png"]


def test_a_painted_mask_that_does_not_fit_is_named() -> None:
    sink = io.BytesIO()
    Image.new("L", (6, 4)).save(sink, "PNG")
    region = DraftRegion(segmentation=MaskFile("a.png"))
    with pytest.raises(RecordError, match=r"mask_empty: a\.png: expected pixels that aren't 0, got none"):
        MaskReader(4, 6, lambda path: sink.getvalue(), 100).region(region)
    with pytest.raises(RecordError, match=r"image_size_mismatch: a\.png: expected 4 x 5 px as its image, got 4 x 6"):
        MaskReader(4, 5, lambda path: sink.getvalue(), 100).region(region)
    jpeg = io.BytesIO()
    Image.new("L", (6, 4)).save(jpeg, "JPEG")
    with pytest.raises(RecordError, match=r"mask_invalid: a\.png: expected a PNG, got JPEG"):
        MaskReader(4, 6, lambda path: jpeg.getvalue(), 100).region(region)
    with pytest.raises(RecordError, match=r"image_unreadable: a\.png: 4 bytes that are none of JPEG"):
        MaskReader(4, 5, lambda path: b"text", 100).region(region)
