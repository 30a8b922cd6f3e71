"""Which samples are shown depends on their ids alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipelines.curation.cards.selection import NUM_SHOWN, Selection
from storage.corpus import samples_to_table
from storage.schema import Sample, Task


def _sample(number: int, image: int | None, task: Task, family: str = "a") -> Sample:
    return Sample(
        sample_id=f"{number * 7919 % 10007:064x}",  # ids in no order
        image_id=None if image is None else f"{image:064x}",
        family=family,
        task=task,
        split="train",
        source_file="",
        locator=str(number),
    )


def _shown(shards: list[list[Sample]], family: str = "a") -> list[Sample]:
    selection = Selection()
    for number, shard in enumerate(shards):
        selection.add(f"{number:05d}", samples_to_table(shard))
    return [candidate.sample for candidate in selection.of(family)]


@given(st.lists(st.integers(0, 300), max_size=120, unique=True), st.integers(1, 50), st.randoms(use_true_random=False))
def test_order_and_shards_change_nothing(numbers: list[int], size: int, chance: object) -> None:
    tasks = (Task.REFERRING, Task.CAPTION)
    rows = [_sample(number, number % 40, tasks[number % 2]) for number in numbers]
    shuffled = sorted(rows, key=lambda row: row.locator)
    shards = [shuffled[start : start + size] for start in range(0, len(shuffled), size)]
    assert _shown(shards[::-1]) == _shown([rows]) if rows else _shown(shards) == []


def test_tasks_take_turns_on_images_of_their_own() -> None:
    many = [_sample(number, number // 10, Task.REFERRING) for number in range(400)]
    few = [_sample(number, number // 10, Task.CAPTION) for number in range(400, 403)]
    other = [_sample(999, 7, Task.CAPTION, family="b")]
    shown = _shown([many, [*few, *other]])
    assert len(shown) == NUM_SHOWN
    assert [sample.task for sample in shown[:7]] == [Task.CAPTION, Task.REFERRING] * 3 + [Task.REFERRING]
    assert len({sample.image_id for sample in shown}) == NUM_SHOWN - 2  # the three captions share an image
    assert _shown([many, [*few, *other]], "b") == other


def test_few_images_are_shown_again() -> None:
    rows = [_sample(number, number % 2, Task.REFERRING) for number in range(5)]
    assert sorted(_shown([rows]), key=lambda row: row.sample_id) == sorted(rows, key=lambda row: row.sample_id)
    assert [sample.image_id for sample in _shown([[_sample(0, None, Task.CONVERSATION)]])] == [None]
