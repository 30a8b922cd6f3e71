"""Regions of a picture: each object once, whichever family annotated it first."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from pipelines.benchmark_building.regions import distinct_regions, overlaps, picture_of_samples
from storage.schema import Sample, Task
from tests.small_corpora import box_region

_BOXES = ((0, 0, 10, 10), (1, 0, 10, 10), (20, 20, 40, 40), (5, 5, 30, 30))


def test_an_object_of_two_families_is_one_and_the_category_stays() -> None:
    rough = box_region((0, 0, 10, 10), 48, 64)
    exact = box_region((1, 0, 10, 10), 48, 64, "sky-other-merged")
    other = box_region((20, 20, 40, 40), 48, 64, "cup")
    found = distinct_regions([rough, exact, other, other])
    assert sorted((region.category, region.area_px) for region in found) == [("cup", 400), ("sky", 90)]
    assert {region.box_xyxy_px for region in found} == {(1, 0, 10, 10), (20, 20, 40, 40)}


@given(st.permutations(range(len(_BOXES))))
def test_the_order_of_samples_changes_nothing(order: list[int]) -> None:
    regions = [box_region(box, 48, 64, f"c{place}") for place, box in enumerate(_BOXES)]
    assert distinct_regions([regions[place] for place in order]) == distinct_regions(regions)


def test_overlaps_are_ious() -> None:
    whole, half = box_region((0, 0, 10, 10), 48, 64), box_region((0, 0, 5, 10), 48, 64)
    assert overlaps(whole, [whole, half]) == [1.0, 0.5]
    assert overlaps(whole, []) == []


def test_a_picture_without_regions_is_none() -> None:
    sample = Sample(
        sample_id="s",
        image_id="i",
        family="f",
        task=Task.CAPTION,
        split="val",
        source_file="",
        locator="",
    )
    assert picture_of_samples("i", [sample]) is None
    picture = picture_of_samples("i", [replace(sample, regions=(box_region((0, 0, 4, 4), 48, 64),))])
    assert picture is not None
    assert (picture.height, picture.width, len(picture.regions)) == (48, 64, 1)
