"""Histograms and contact sheets: what is drawn where, and the same bytes again."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pipelines.curation.cards.drawing import (
    ACCENT,
    BACKGROUND,
    GREY,
    INK,
    MASK_COLOURS,
    PROMPT,
    font,
    mask_at,
    tinted,
    wrapped,
)
from pipelines.curation.cards.histograms import draw_histograms
from pipelines.curation.cards.sheets import draw_sheet
from pipelines.curation.cards.statistics import Statistics
from storage.corpus import images_to_table, samples_to_table
from storage.schema import Sample, Task, Turn
from tests.small_corpora import all_kinds_of_samples, box_region, noise_picture


def _pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        assert not image.info  # no time, no software
        return np.asarray(image)


def _count(pixels: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((pixels == np.array(colour)).all(axis=-1).sum())


def _statistics(rows: list[Sample]) -> Statistics:
    statistics = Statistics()
    images = [noise_picture(number, 48, 64) for number in range(3)]
    statistics.add(samples_to_table(rows), images_to_table(images).select(["image_id", "height", "width"]))
    return statistics


def _texts(numbers: dict[int, int]) -> list[Sample]:
    """So many samples of so many words."""
    words = [number for number, times in numbers.items() for _ in range(times)]
    return [
        Sample(
            sample_id=str(place),
            image_id=None,
            family="a",
            task=Task.CONVERSATION,
            split="train",
            turns=(Turn(text="word " * number),),
            source_file="",
            locator="",
        )
        for place, number in enumerate(words)
    ]


def test_histograms_have_a_panel_for_each_quantity() -> None:
    images = [noise_picture(number, 48, 64) for number in range(3)]
    statistics = _statistics([sample for shard in all_kinds_of_samples(images) for sample in shard])
    sheets = {family: draw_histograms(statistics, family) for family in statistics.families()}
    drawn = {family: _pixels(sheet).shape[1] for family, sheet in sheets.items() if sheet is not None}
    # Words of expressions, answers and masks; no answers; no masks.
    assert drawn["pointed"] > drawn["refer+"] == drawn["told"]
    assert draw_histograms(statistics, "refer+") == sheets["refer+"]
    assert draw_histograms(statistics, "absent") is None


@pytest.mark.parametrize("numbers", [{1: 1}, {3: 5, 4: 2}, {1: 2000, 900: 1}, {200: 10, 350: 30}, {2: 10**4, 3: 1}])
def test_bars_are_as_high_as_their_counts(numbers: dict[int, int]) -> None:
    sheet = draw_histograms(_statistics(_texts(numbers)), "a")
    assert sheet is not None
    bars = (_pixels(sheet) == np.array(ACCENT)).all(axis=-1)
    columns = bars.sum(axis=0)
    is_bar = np.flatnonzero(np.diff(np.concatenate([[0], columns > 0, [0]]).astype(int)))
    heights = [int(columns[start:end].max()) for start, end in zip(is_bar[::2], is_bar[1::2], strict=True)]
    assert 1 <= len(heights) <= len(numbers)
    least, most = min(heights), max(heights)
    counts = sorted(numbers.values())
    if len(heights) == len(counts) > 1:
        # A row of pixels more or less, and the two rows that the smallest bar has at least.
        assert least == pytest.approx(max(counts[0] / counts[-1] * most, 2), abs=2)


def test_a_sheet_shows_masks_prompts_and_words() -> None:
    images = [noise_picture(number, 48, 64) for number in range(3)]
    shards = all_kinds_of_samples(images)
    data = {image.image_id: image.data or b"" for image in images}
    refer, pointed = [[s for shard in shards for s in shard if s.family == f] for f in ("refer+", "pointed")]
    sheet = _pixels(draw_sheet("refer+: 4 samples", refer, data))
    assert _count(sheet, MASK_COLOURS[0]) > 300
    assert _count(sheet, PROMPT) == 0
    assert _count(sheet, ACCENT) == 0  # no answers
    sheet = _pixels(draw_sheet("pointed: 6 samples", pointed, data))
    assert min(_count(sheet, colour) for colour in (*MASK_COLOURS[:2], PROMPT)) > 300
    assert min(_count(sheet, colour) for colour in (ACCENT, INK, GREY)) > 100
    assert _count(sheet, MASK_COLOURS[2]) == 0  # at most two targets
    again = draw_sheet("pointed: 6 samples", pointed, data)
    assert (_pixels(again) == sheet).all()


def test_a_sheet_of_text_alone() -> None:
    talk = all_kinds_of_samples([noise_picture(number, 48, 64) for number in range(3)])[1][-1]
    assert talk.image_id is None
    sheet = _pixels(draw_sheet("told", [talk], {}))
    assert _count(sheet, BACKGROUND) > 0.9 * sheet.shape[0] * sheet.shape[1]
    assert _count(sheet, ACCENT) > 100


def test_a_small_target_gets_a_ring() -> None:
    picture = noise_picture(0, 480, 640)
    sample = Sample(
        sample_id="",
        image_id=picture.image_id,
        family="a",
        task=Task.REFERRING,
        split="train",
        regions=(box_region((320, 240, 322, 242), 480, 640),),
        turns=(Turn(text="the speck", targets=((0,),)),),
        source_file="",
        locator="",
    )
    data = {picture.image_id: picture.data or b""}
    assert _count(_pixels(draw_sheet("a", [sample], data)), MASK_COLOURS[0]) > 100


def test_masks_at_another_size_keep_their_smallest_part() -> None:
    mask = np.zeros((480, 640), np.bool_)
    mask[101, 333] = True
    assert mask_at(mask, 60, 80).nonzero() == (12, 41)
    assert mask_at(mask, 960, 1280).sum() == 4
    assert mask_at(mask, 480, 640) is mask


def test_the_border_of_a_picture_is_no_outline() -> None:
    grey = np.full((20, 30, 3), 100, np.uint8)
    left = np.zeros((20, 30), np.bool_)
    left[:, :15] = True
    drawn = tinted(grey, left, (200, 0, 0))
    assert (drawn[:, 13:15] == (200, 0, 0)).all()
    assert (drawn[:, 15] == 33).all()
    assert (drawn[:, 16:] == 100).all()
    assert (drawn[:, :13] == (142, 58, 58)).all()


def test_text_is_wrapped_to_its_width() -> None:
    assert wrapped("", 100, 20, 3) == []
    assert wrapped(" one\ntwo ", 400, 20, 3) == ["one two"]
    lines = wrapped("the second cup from the left " * 9, 200, 20, 3)
    assert len(lines) == 3
    assert lines[-1].endswith("...")
    assert all(font(20).getlength(line) <= 200 for line in lines)
    (line,) = wrapped("x" * 10**6, 200, 20, 3)
    assert line.endswith("x...")
    assert font(20).getlength(line) <= 200
