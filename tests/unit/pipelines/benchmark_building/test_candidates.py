"""Which regions are asked about: sizes, hashes, and pictures in turn."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest

from pipelines.benchmark_building.build import item_key, pictures_of
from pipelines.benchmark_building.candidates import candidates, eligible_regions
from pipelines.benchmark_building.records import BenchmarkTask
from pipelines.benchmark_building.regions import overlaps
from pipelines.benchmark_building.settings import BuildConfig
from storage.corpus import Corpus


def test_sizes_are_limited(corpus: Corpus) -> None:
    picture = pictures_of(corpus, BuildConfig())[0][0]
    assert len(picture.regions) == 4
    names = {
        name: [picture.regions[place].category for place in eligible_regions(picture, config)]
        for name, config in {
            "all": BuildConfig(),
            "small": BuildConfig(max_area_share=0.1),
            "large": BuildConfig(min_area_share=0.1),
            "broad": BuildConfig(min_side_px=30),
        }.items()
    }
    assert {name: sorted(map(str, found)) for name, found in names.items()} == {
        "all": ["cup", "cup", "dog", "table"],
        "small": ["cup", "cup"],
        "large": ["dog", "table"],
        "broad": ["cup", "dog"],
    }


def test_each_region_is_asked_about_once_per_task(corpus: Corpus) -> None:
    config = BuildConfig()
    pictures, _ = pictures_of(corpus, config)
    found = list(candidates(pictures, config))
    assert Counter(candidate.task for candidate in found) == dict.fromkeys(BenchmarkTask, 8 * 4)
    subjects = Counter(
        (candidate.task, candidate.picture.image_id, (candidate.targets or candidate.prompts)[0]) for candidate in found
    )
    assert set(subjects.values()) == {1}
    assert len({item_key(candidate) for candidate in found}) == len(found)


def test_pictures_take_turns_and_tasks_too(corpus: Corpus) -> None:
    config = BuildConfig()
    first = list(islice(candidates(pictures_of(corpus, config)[0], config), 8))
    assert len({candidate.picture.image_id for candidate in first}) == 8
    assert len({candidate.task for candidate in first}) == 3


def test_the_order_follows_from_the_seed_alone(corpus: Corpus) -> None:
    def order(seed: int, backwards: bool = False) -> list[str]:
        config = BuildConfig(seed=seed)
        pictures, _ = pictures_of(corpus, config)
        return [item_key(one) for one in candidates(pictures[::-1] if backwards else pictures, config)]

    assert order(0) == order(0, backwards=True)
    assert order(0) != order(1)


def test_a_prompt_never_covers_its_target(corpus: Corpus) -> None:
    config = BuildConfig(tasks=(BenchmarkTask.VISUAL_TEXT_REFERRING,))
    for candidate in candidates(pictures_of(corpus, config)[0], config):
        regions = candidate.picture.regions
        assert candidate.prompts != candidate.targets
        assert overlaps(regions[candidate.targets[0]], [regions[candidate.prompts[0]]]) == [0.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_area_share": 0.6}, "min_area_share: expected at most max_area_share, 0.5, got 0.6"),
        ({"min_caption_words": 200}, "min_caption_words: expected at most max_caption_words, 150, got 200"),
        ({"tasks": ()}, "expected each of detailed_caption, mcq, visual_text_res once at most, and one at least"),
        ({"tasks": ("mcq", "mcq")}, "once at most"),
    ],
)
def test_settings_that_contradict_themselves(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BuildConfig.model_validate(settings)
