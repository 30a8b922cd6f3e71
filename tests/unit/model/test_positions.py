"""Three-axis positions and their rotary angles."""

from __future__ import annotations

import pytest
import torch

from model.positions import rotary_embedding, sequence_positions


def test_one_image_between_text() -> None:
    found = sequence_positions([2, (3, 2), 3])
    assert found.tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5, 6, 7],
        [0, 1, 2, 2, 3, 3, 4, 4, 5, 6, 7],
        [0, 1, 2, 3, 2, 3, 2, 3, 5, 6, 7],
    ]


def test_two_images_of_one_row() -> None:
    """The second image begins behind the first one's longer side and what is written between them."""
    found = sequence_positions([1, (1, 3), 2, (2, 1), 1])
    assert found.tolist() == [
        [0, 1, 1, 1, 4, 5, 6, 6, 8],
        [0, 1, 1, 1, 4, 5, 6, 7, 8],
        [0, 1, 2, 3, 4, 5, 6, 6, 8],
    ]


def test_an_image_right_behind_another_begins_where_that_one_ends() -> None:
    found = sequence_positions([(2, 2), (1, 2)])
    assert found.tolist() == [[0, 0, 0, 0, 2, 2], [0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 2, 3]]


def test_text_behind_goes_on_from_the_longer_side() -> None:
    wide, tall = sequence_positions([1, (2, 7), 1]), sequence_positions([1, (7, 2), 1])
    assert wide[:, -1].tolist() == tall[:, -1].tolist() == [8, 8, 8]
    assert wide[:, :-1].max() == 7


@pytest.mark.parametrize("segments", [[4], [0, 4], [2, 2], [1, 1, 2]])
def test_text_alone_counts_up(segments: list[int]) -> None:
    assert sequence_positions(segments).tolist() == [[0, 1, 2, 3]] * 3


def test_nothing_has_no_positions() -> None:
    assert sequence_positions([]).shape == (3, 0)


@pytest.mark.parametrize("lengths", [[3], [2, 4, 1], [2, 0, 3]])
@pytest.mark.parametrize("segments", [[1, (2, 2), 1], [1, (2, 2), 3, (1, 4), 1], [5]])
def test_each_branch_stands_where_it_would_alone(segments: list[int | tuple[int, int]], lengths: list[int]) -> None:
    together = sequence_positions(segments, lengths)
    start = shared = sequence_positions(segments).shape[1]
    for length in lengths:
        alone = sequence_positions([*segments, length])
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
