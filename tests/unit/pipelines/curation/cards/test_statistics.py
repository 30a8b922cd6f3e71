"""Statistics are what a plain count over records gives, however the corpus is cut into shards."""

from __future__ import annotations

import io
import re
from collections import Counter
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.curation.cards.statistics import STATISTICS_SCHEMA, Quantity, Statistics
from storage.corpus import images_to_table, samples_to_table
from storage.errors import DataError
from storage.masks import area_px
from storage.schema import ImageRecord, Sample, Task, Turn
from tests.small_corpora import all_kinds_of_samples, box_region, noise_picture

_SIZES = ((48, 64), (31, 640), (100, 33))
_Row = tuple[str, str, str, str, float, float]


def _images() -> list[ImageRecord]:
    return [noise_picture(number, *size) for number, size in enumerate(_SIZES)]


_IMAGES = _images()

texts = st.text(alphabet="ab \n\t", max_size=12) | st.sampled_from(["<region1>", "two words [SEG]", "<p>a</p> [SEG]"])


# Samples are built within the test: beartype draws at random what it checks, which Hypothesis forbids in strategies.
plans = st.fixed_dictionaries(
    {
        "place": st.none() | st.integers(0, 2),
        "boxes": st.lists(st.tuples(st.integers(1, 640), st.integers(1, 100)), max_size=3),
        "turns": st.lists(st.tuples(texts, st.none() | texts), max_size=3),
        "group": st.tuples(
            st.sampled_from(["a", "b+"]),
            st.sampled_from([Task.REFERRING, Task.CAPTION]),
            st.sampled_from(["train", "val"]),
        ),
    }
)


def _sample(plan: dict[str, Any]) -> Sample:
    place = plan["place"]
    height, width = _SIZES[place or 0]
    boxes = [] if place is None else [(0, 0, min(x, width), min(y, height)) for x, y in plan["boxes"]]
    family, task, split = plan["group"]
    return Sample(
        sample_id="",
        image_id=None if place is None else _IMAGES[place].image_id,
        family=family,
        task=task,
        split=split,
        regions=tuple(box_region(box, height, width) for box in boxes),
        turns=tuple(Turn(text=text, answer=answer) for text, answer in plan["turns"]),
        source_file="",
        locator="",
    )


def _counted(statistics: Statistics) -> dict[_Row, int]:
    rows = statistics.to_table().to_pylist()
    return {tuple(value for name, value in row.items() if name != "count"): row["count"] for row in rows}  # type: ignore[misc]


def _images_table(images: list[ImageRecord]) -> pa.Table:
    return images_to_table(images).select(["image_id", "height", "width"])


def _words(text: str | None) -> int:
    return len(re.sub(r"<region\d+>|\[SEG\]|</?p>", " ", text or "").split())


def _plainly(rows: list[Sample]) -> Counter[tuple[str, str, str, str, float]]:
    """Counts by the start of the bin, less those of areas."""
    found: Counter[tuple[str, str, str, str, float]] = Counter()
    turns: Counter[tuple[str, str, str, str]] = Counter()
    for sample in rows:
        group = sample.family, sample.task.value, sample.split
        found[*group, "masks_per_sample", len(sample.regions)] += 1
        for turn in sample.turns:
            for quantity, text in (("words_per_expression", turn.text), ("words_per_answer", turn.answer)):
                if _words(text):
                    found[*group, quantity, _words(text)] += 1
        if sample.image_id is not None:
            turns[*group, sample.image_id] += len(sample.turns)
    sizes = {image.image_id: image for image in _IMAGES}
    for (*group, image_id), number in turns.items():
        family, task, split = group
        if number:
            found[family, task, split, "expressions_per_image", number] += 1
        for quantity, side in (("width", sizes[image_id].width), ("height", sizes[image_id].height)):
            found[family, task, split, f"image_{quantity}_px", side // 32 * 32] += 1
    return found


@given(st.lists(plans, max_size=12))
def test_a_plain_count_gives_the_same(drawn: list[dict[str, Any]]) -> None:
    rows = [_sample(plan) for plan in drawn]
    statistics = Statistics()
    statistics.add(samples_to_table(rows), _images_table(_IMAGES))
    counted = _counted(statistics)
    areas = {row: count for row, count in counted.items() if row[3] == "mask_area_share"}
    assert {row[:-1]: count for row, count in counted.items() if row not in areas} == dict(_plainly(rows))
    shares = sorted(area_px(r.mask) / (r.mask.height * r.mask.width) for sample in rows for r in sample.regions)
    bins = sorted((*row[4:], count) for row, count in areas.items())
    assert sum(count for _, _, count in bins) == len(shares)
    for start, end in {(start, end) for start, end, _ in bins}:
        inside = [share for share in shares if start <= share < end or share == end == 1]
        assert sum(count for low, _, count in bins if low == start) == len(inside)


@given(st.lists(plans, max_size=12), st.integers(0, 12))
def test_shards_add_up(drawn: list[dict[str, Any]], cut: int) -> None:
    # Samples of one image stand in one shard.
    rows = sorted((_sample(plan) for plan in drawn), key=lambda sample: sample.image_id or "")
    while 0 < cut < len(rows) and rows[cut].image_id == rows[cut - 1].image_id:
        cut -= 1
    whole, parts = Statistics(), Statistics()
    whole.add(samples_to_table(rows), _images_table(_IMAGES))
    for part in (rows[cut:], rows[:cut]):
        parts.add(samples_to_table(part), _images_table(_IMAGES))
    assert parts.to_parquet() == whole.to_parquet()


def test_the_file_is_tidy() -> None:
    statistics = Statistics()
    images = [noise_picture(number, 48, 64) for number in range(3)]
    for shard in all_kinds_of_samples(images):
        statistics.add(samples_to_table(shard), _images_table(images))
    table = pq.read_table(io.BytesIO(statistics.to_parquet()))
    assert table.schema.equals(STATISTICS_SCHEMA)
    rows = [tuple(row.values()) for row in table.to_pylist()]
    assert rows == sorted(rows)
    assert ("refer+", "referring", "train", "words_per_expression", 3.0, 4.0, 2) in rows
    assert ("pointed", "conversation", "train", "masks_per_sample", 2.0, 3.0, 1) in rows
    assert ("refer+", "referring", "train", "expressions_per_image", 2.0, 3.0, 1) in rows
    assert ("told", "caption", "val", "image_height_px", 32.0, 64.0, 1) in rows
    # 16 x 24 of 48 x 64 px are an eighth.
    assert ("refer+", "referring", "train", "mask_area_share", 0.1, 0.158, 2) in rows
    assert not [row for row in rows if row[1:4] == ("description", "val", "words_per_expression")]
    assert statistics.bins("refer+", Quantity.MASKS_PER_SAMPLE) == {(0.0, 1.0): 1, (1.0, 2.0): 2, (2.0, 3.0): 1}
    assert statistics.families() == ("pointed", "refer+", "told")


def test_an_image_of_another_shard_is_an_error() -> None:
    sample = all_kinds_of_samples(_IMAGES)[0][0]
    with pytest.raises(DataError, match=f"image {_IMAGES[0].image_id}: a sample lies on it, but it is not in the"):
        Statistics().add(samples_to_table([sample]), _images_table(_IMAGES[1:]))
    Statistics().add(samples_to_table([replace(sample, image_id=None)]), _images_table([]))
