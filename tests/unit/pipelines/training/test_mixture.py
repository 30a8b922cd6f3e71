"""The order of an epoch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipelines.training.config import MixtureEntry, TrainingConfig
from pipelines.training.mixture import Place, build_mixture, row_generator
from storage.errors import DataError
from storage.schema import Sample, Task, Turn


def sample(name: str, image: str | None, family: str = "refer", task: Task = Task.REFERRING, turns: int = 1) -> Sample:
    return Sample(
        sample_id=name,
        image_id=image,
        family=family,
        task=task,
        split="train",
        turns=(Turn(text=name, targets=((),)),) * turns,
        source_file="f",
        locator=name,
    )


SAMPLES = [
    sample("a1", "a"),
    sample("b1", "b"),
    sample("a0", "a"),
    sample("talk", "a", "talk", Task.CONVERSATION, turns=3),
    sample("text", None, "talk", Task.CONVERSATION),
    sample("c0", "c", "other"),
]


def config(*entries: MixtureEntry) -> TrainingConfig:
    return TrainingConfig(num_steps=1, mixture=entries or (MixtureEntry(),))


def test_single_turns_of_an_image_share_a_row_and_others_stand_alone() -> None:
    mixture = build_mixture(SAMPLES, config(MixtureEntry(turns_per_row=4)))
    found = [(source.image_id, [s.sample_id for s in source.samples], source.num_turns) for source in mixture.sources]
    assert found == [
        ("a", ["a0", "a1"], 4),
        ("b", ["b1"], 4),
        ("c", ["c0"], 4),
        ("a", ["talk"], 3),
        (None, ["text"], 1),
    ]


def test_the_order_of_the_corpus_does_not_matter() -> None:
    entries = (MixtureEntry(families=("refer",)), MixtureEntry(tasks=(Task.CONVERSATION,)))
    assert (
        build_mixture(reversed(SAMPLES), config(*entries)).sources == build_mixture(SAMPLES, config(*entries)).sources
    )


def test_entries_choose_by_family_and_task() -> None:
    def ids(entry: MixtureEntry) -> list[str]:
        return sorted(s.sample_id for source in build_mixture(SAMPLES, config(entry)).sources for s in source.samples)

    assert ids(MixtureEntry(families=("refer", "other"))) == ["a0", "a1", "b1", "c0"]
    assert ids(MixtureEntry(tasks=(Task.CONVERSATION,))) == ["talk", "text"]
    assert ids(MixtureEntry(families=("other",), tasks=(Task.REFERRING,))) == ["c0"]


def test_an_epoch_holds_every_source_as_often_as_asked() -> None:
    entries = (MixtureEntry(families=("refer",), repeats=3), MixtureEntry(families=("talk",)))
    mixture = build_mixture(SAMPLES, config(*entries))
    for epoch in range(3):
        counts = Counter(mixture.order(5, epoch).tolist())
        assert counts == {0: 3, 1: 3, 2: 1, 3: 1}


def test_a_fraction_takes_a_share() -> None:
    many = [sample(f"s{number}", f"i{number}") for number in range(400)]
    mixture = build_mixture(many, config(MixtureEntry(repeats=1.25)))
    order = mixture.order(0, 0)
    counts = Counter(order.tolist())
    assert set(counts) == set(range(400))
    assert set(counts.values()) == {1, 2}
    assert len(order) == pytest.approx(500, abs=40)
    again = {number for number, count in counts.items() if count == 2}
    assert again != {number for number, count in Counter(mixture.order(0, 1).tolist()).items() if count == 2}
    less = build_mixture(many, config(MixtureEntry(repeats=0.25))).order(0, 0)
    assert len(less) == len(set(less.tolist())) == pytest.approx(100, abs=40)


@settings(deadline=None)
@given(seed=st.integers(0, 2**40), epoch=st.integers(0, 1000))
def test_order_is_a_function_of_seed_and_epoch(seed: int, epoch: int) -> None:
    many = [sample(f"s{number}", f"i{number}") for number in range(30)]
    mixture, again = (build_mixture(many, config()) for _ in range(2))
    order = mixture.order(seed, epoch)
    mixture.order(seed, epoch + 1)
    np.testing.assert_array_equal(again.order(seed, epoch), order)
    assert sorted(order.tolist()) == list(range(30))
    assert order.tolist() != mixture.order(seed, epoch + 1).tolist()
    assert order.tolist() != mixture.order(seed + 1, epoch).tolist()


def test_rows_draw_from_generators_of_their_own() -> None:
    def draw(seed: int, epoch: int, row: int) -> float:
        return row_generator(seed, Place(epoch, row)).random()

    places = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 1, 1), (1, 0, 1)]
    assert len({draw(*place) for place in places}) == len(places)
    assert draw(0, 1, 7) == draw(0, 1, 7)


def test_an_empty_part_is_refused_by_its_number() -> None:
    entries = (MixtureEntry(), MixtureEntry(families=("osprey",), tasks=(Task.CAPTION,)))
    message = (
        r"training\.mixture\[1\]: expected samples of families \['osprey'\] and tasks \['caption'\] in splits "
        r"\['train'\], found none among 6"
    )
    with pytest.raises(DataError, match=message):
        build_mixture(SAMPLES, config(*entries))
    with pytest.raises(DataError, match="found none among 0"):
        build_mixture([], config())


def test_a_task_of_more_weight_is_drawn_more_often() -> None:
    samples = [sample("word", "a"), *(sample(f"talk{i}", "a", "talk", Task.SEMANTIC) for i in range(3))]
    [source] = build_mixture(samples, config(MixtureEntry(task_weights={Task.REFERRING: 6.0}))).sources
    assert dict(zip([s.sample_id for s in source.samples], source.weights or (), strict=True)) == {
        "word": 6.0,
        "talk0": 1.0,
        "talk1": 1.0,
        "talk2": 1.0,
    }
    [plain] = build_mixture(samples, config(MixtureEntry(task_weights={Task.CAPTION: 2.0}))).sources
    assert plain.weights is None


def test_a_weight_of_zero_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"referring: expected a weight above 0"):
        MixtureEntry(task_weights={Task.REFERRING: 0.0})
