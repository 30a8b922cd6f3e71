"""Draws: fixed for ever, in range, independent by name."""

from __future__ import annotations

import pytest

from pipelines.scenes.chance import Chance


def test_draws_are_those_of_every_python_version() -> None:
    chance = Chance(7, "train", 3)
    assert [chance.below(1000) for _ in range(4)] == [int(value * 1000) for value in _first_numbers()]


def _first_numbers() -> list[float]:
    import random

    stream = random.Random("7/train/3")
    return [stream.random() for _ in range(4)]


def test_names_make_different_streams() -> None:
    firsts = {Chance(seed, split, index).random() for seed in (0, 1) for split in "ab" for index in range(5)}
    assert len(firsts) == 20


def test_sample_takes_each_place_once() -> None:
    assert sorted(Chance("s").sample("abcdef", 6)) == list("abcdef")


def test_weighted_follows_the_weights_and_never_takes_zero() -> None:
    chance = Chance("w")
    drawn = [chance.weighted({"a": 3.0, "b": 0.0, "c": 1.0}) for _ in range(4000)]
    assert "b" not in drawn
    assert drawn.count("a") / len(drawn) == pytest.approx(0.75, abs=0.03)


def test_between_stays_in_range() -> None:
    chance = Chance("r")
    values = [chance.between(-2, 3) for _ in range(1000)]
    assert min(values) >= -2
    assert max(values) < 3
