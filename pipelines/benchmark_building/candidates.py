"""Which regions are asked about: by hash, within limits of size, and no picture too often."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipelines.benchmark_building.records import BenchmarkTask, Candidate, ObjectRegion, Picture
from pipelines.benchmark_building.regions import overlaps
from pipelines.benchmark_building.settings import BuildConfig
from storage.keys import Json, content_key

__all__ = ["by_hash", "candidates", "eligible_regions"]

_SEPARATE_IOU = 0.1
"""A prompt and a target that overlap by more would show the answer."""


def by_hash(seed: int, *parts: Json) -> str:
    """A place in an order that depends on the seed and on what is ordered, not on where it stands."""
    return content_key([seed, *parts])


def eligible_regions(picture: Picture, config: BuildConfig) -> list[int]:
    """Places of the regions of a picture that are neither too small nor too large to be asked about."""
    size_px = picture.height * picture.width
    return [
        place
        for place, region in enumerate(picture.regions)
        if config.min_area_share <= region.area_px / size_px <= config.max_area_share
        and min(_sides(region)) >= config.min_side_px
    ]


def candidates(pictures: Sequence[Picture], config: BuildConfig) -> Iterator[Candidate]:
    """Candidates in the order in which they are drafted.

    Each round gives every picture one candidate at most, of a task that changes from picture to picture and from round
    to round: few questions on many pictures come before many questions on few. A region is asked about once per task.

    Args:
        pictures: in any order.
        config: of the builder.
    """
    tasks = config.tasks
    ordered = sorted(pictures, key=lambda picture: by_hash(config.seed, picture.image_id))
    places = {
        picture.image_id: sorted(
            eligible_regions(picture, config),
            key=lambda place, own=picture: by_hash(config.seed, own.image_id, _counts(own, place)),
        )
        for picture in ordered
    }
    num_rounds = len(tasks) * max(map(len, places.values()), default=0)
    for number in range(num_rounds):
        for row, picture in enumerate(ordered):
            own = places[picture.image_id]
            step = number // len(tasks)
            task = tasks[(row + number) % len(tasks)]
            # Other tasks begin with other regions, so that a picture isn't asked thrice about the same one.
            place = (step + tasks.index(task)) % len(own) if own else 0
            if step < len(own):
                found = _candidate(task, picture, own[place], own, config.seed)
                if found is not None:
                    yield found


def _candidate(task: BenchmarkTask, picture: Picture, place: int, own: Sequence[int], seed: int) -> Candidate | None:
    if task is not BenchmarkTask.VISUAL_TEXT_REFERRING:
        return Candidate(task, picture, (place,))
    target = picture.regions[place]
    free = [
        other
        for other, overlap in enumerate(overlaps(target, picture.regions))
        if other in own and other != place and overlap < _SEPARATE_IOU
    ]
    if not free:
        return None
    prompt = min(free, key=lambda other: by_hash(seed, picture.image_id, _counts(picture, place), other))
    return Candidate(task, picture, (prompt,), (place,))


def _counts(picture: Picture, place: int) -> str:
    return picture.regions[place].mask.counts.decode("ascii")


def _sides(region: ObjectRegion) -> tuple[int, int]:
    x0, y0, x1, y1 = region.box_xyxy_px
    return x1 - x0, y1 - y0
