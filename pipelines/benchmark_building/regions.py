"""The regions of each picture of a corpus: whatever its samples know of it, each object once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipelines.benchmark_building.records import ObjectRegion, Picture
from pipelines.curation.steps.texts import category_phrase
from storage.masks import area_px, box_xyxy_px, pairwise_ious
from storage.schema import Region, Sample

__all__ = ["SAME_OBJECT_IOU", "distinct_regions", "overlaps", "picture_of_samples"]

SAME_OBJECT_IOU = 0.5
"""Masks that overlap by more are one object: families annotate it in slightly different ways."""


def picture_of_samples(image_id: str, samples: Sequence[Sample]) -> Picture | None:
    """A picture with the regions that its samples hold.

    Args:
        image_id: of all samples.
        samples: of one picture, of any families and tasks.

    Returns:
        None if they hold no region with a pixel.
    """
    # A target of several regions (`the two cups`) is no object; its regions are.
    regions = distinct_regions(region for sample in samples for region in sample.regions)
    if not regions:
        return None
    return Picture(image_id, regions[0].mask.height, regions[0].mask.width, regions)


def distinct_regions(regions: Iterable[Region]) -> tuple[ObjectRegion, ...]:
    """Each object once, in order of its mask's counts; one with a category stands for one without.

    Args:
        regions: of one picture.
    """
    named: dict[bytes, Region] = {}
    for region in regions:
        known = named.get(region.mask.counts)
        if known is None or _rank(region) < _rank(known):
            named[region.mask.counts] = region
    ordered = sorted(named.values(), key=_rank)
    kept: list[Region] = []
    for region in ordered:
        if not kept or max(overlaps(region, kept), default=0.0) < SAME_OBJECT_IOU:
            kept.append(region)
    found: list[ObjectRegion] = []
    for region in sorted(kept, key=lambda region: region.mask.counts):
        box = box_xyxy_px(region.mask)
        if box is not None:
            category = None if region.category is None else category_phrase(region.category)
            found.append(ObjectRegion(region.mask, area_px(region.mask), box, category or None))
    return tuple(found)


def overlaps(region: Region | ObjectRegion, others: Sequence[Region | ObjectRegion]) -> list[float]:
    """IoU of a region with each of others of its picture."""
    return pairwise_ious([region.mask], [other.mask for other in others])[0].tolist()


def _rank(region: Region) -> tuple[bool, str, bytes]:
    """Regions with a category first; which of two stands for an object mustn't depend on the order of samples."""
    return region.category is None, region.category or "", region.mask.counts
