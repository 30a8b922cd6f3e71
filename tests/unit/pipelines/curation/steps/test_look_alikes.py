"""Pairs that look alike: what comparing all with all would find."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.curation.steps import look_alikes as module
from pipelines.curation.steps.look_alikes import look_alikes


@pytest.mark.parametrize("max_distance", [0, 3, 6])
@pytest.mark.parametrize("pairs_at_once", [1, 50, 2**20])
def test_it_finds_what_comparing_all_finds(
    max_distance: int, pairs_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PAIRS_AT_ONCE", pairs_at_once)
    draw = np.random.default_rng(0)
    others = draw.integers(0, 2**64, 60, np.uint64)
    flips = [sum(1 << int(bit) for bit in draw.choice(64, draw.integers(0, 9), replace=False)) for _ in range(200)]
    hashes = others[draw.integers(0, 60, 200)] ^ np.array(flips, np.uint64)
    thumbnails = draw.integers(0, 2, (200, 4), np.uint8) * np.uint8(100)
    other_thumbnails = draw.integers(0, 2, (60, 4), np.uint8) * np.uint8(100)
    expected = set()
    for row in range(200):
        for other in range(60):
            bits = int(hashes[row] ^ others[other]).bit_count()
            a, b = (side.astype(float) - side.mean() for side in (thumbnails[row], other_thumbnails[other]))
            if bits <= max_distance and np.abs(a - b).mean() <= 50:
                expected.add((row, other, bits))
    found = look_alikes(hashes, others, thumbnails, other_thumbnails, max_distance, 50)
    assert set(found) == expected
    assert len(found) == len(expected)
    assert max_distance == 0 or len(expected) > 10


def test_of_nothing_nothing_is_found() -> None:
    none, cells = np.empty(0, np.uint64), np.empty((0, 4), np.uint8)
    some, theirs = np.zeros(2, np.uint64), np.zeros((2, 4), np.uint8)
    assert look_alikes(none, some, cells, theirs, 3, 1) == []
    assert look_alikes(some, none, theirs, cells, 3, 1) == []
    assert sorted(look_alikes(some, some, theirs, theirs, 3, 1)) == [(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0)]
