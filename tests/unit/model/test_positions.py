"""Three-axis positions and their rotary angles."""

from __future__ import annotations

import pytest
import torch

from model.positions import conversation_positions, rotary_embedding


def test_one_image_between_text() -> None:
    found = conversation_positions(2, (3, 2), 3)
    assert found.tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5, 6, 7],
        [0, 1, 2, 2, 3, 3, 4, 4, 5, 6, 7],
        [0, 1, 2, 3, 2, 3, 2, 3, 5, 6, 7],
    ]


def test_text_behind_goes_on_from_the_longer_side() -> None:
    wide, tall = conversation_positions(1, (2, 7), 1), conversation_positions(1, (7, 2), 1)
    assert wide[:, -1].tolist() == tall[:, -1].tolist() == [8, 8, 8]
    assert wide[:, :-1].max() == 7


def test_text_alone_counts_up() -> None:
    assert conversation_positions(0, None, 4).tolist() == [[0, 1, 2, 3]] * 3
    assert conversation_positions(2, None, 2).tolist() == [[0, 1, 2, 3]] * 3


@pytest.mark.parametrize("lengths", [[3], [2, 4, 1]])
def test_each_branch_stands_where_it_would_alone(lengths: list[int]) -> None:
    together = conversation_positions(1, (2, 2), 1, lengths)
    shared = 1 + 4 + 1
    start = shared
    for length in lengths:
        alone = conversation_positions(1, (2, 2), 1 + length)
        assert together[:, start : start + length].equal(alone[:, shared:])
        start += length
    assert together.shape == (3, start)


def test_quarters_of_the_channels_turn_with_rows_and_columns() -> None:
    head_dim, theta = 16, 100.0
    positions = torch.tensor([[[5, 9]], [[1, 2]], [[3, 4]]])
    cosines, sines = rotary_embedding(positions, head_dim, theta)
    frequencies = [theta ** (-2 * i / head_dim) for i in range(head_dim // 2)]
    for token in range(2):
        row, column = positions[1, 0, token].item(), positions[2, 0, token].item()
        angles = [row * f for f in frequencies[:4]] + [column * f for f in frequencies[4:]]
        expected = torch.tensor(angles * 2)
        torch.testing.assert_close(cosines[0, token], expected.cos())
        torch.testing.assert_close(sines[0, token], expected.sin())


def test_the_time_axis_has_no_channels() -> None:
    positions = torch.arange(6).view(3, 1, 2)
    other = positions.clone()
    other[0] += 50
    for one, two in zip(rotary_embedding(positions, 8, 10.0), rotary_embedding(other, 8, 10.0), strict=True):
        assert one.equal(two)
