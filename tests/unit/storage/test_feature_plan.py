from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.feature_plan import ArrayPlan, PlannedRow, class_cells, plan_rows


@given(st.integers(1, 2**31))
def test_classes_hold_their_grids_with_little_padding(num_cells: int) -> None:
    cells = class_cells(num_cells)
    assert cells >= num_cells
    assert (cells - num_cells) / cells < 0.029
    assert class_cells(cells) == cells


def test_small_grids_and_powers_of_two_have_no_padding() -> None:
    assert [class_cells(number) for number in range(1, 35)] == list(range(1, 35))
    assert all(class_cells(2**power) == 2**power for power in range(32))


def test_the_ladder_is_fixed() -> None:
    """These are names of stored arrays: they must never change."""
    found = [class_cells(number) for number in (35, 1000, 1200, 4097, 19200, 300_000)]
    assert found == [35, 1024, 1217, 4216, 19483, 302868]


@pytest.mark.parametrize("number", [0, -1, 2**31 + 1])
def test_impossible_grids(number: int) -> None:
    with pytest.raises(ValueError, match=r"expected 1 to 2147483648 cells"):
        class_cells(number)


images = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), max_size=60).map(
    lambda shapes: [(f"i{number}", height, width) for number, (height, width) in enumerate(shapes)]
)


@given(images, st.integers(1, 4), st.sampled_from([1, 2]), st.integers(1, 2000))
def test_every_image_has_one_row(
    images: list[tuple[str, int, int]], num_channels: int, bytes_per_value: int, max_shard_bytes: int
) -> None:
    plan = plan_rows(images, num_channels, bytes_per_value, max_shard_bytes)
    shards = list(plan.shards())
    planned = [row for shard in shards for row in shard.rows]
    assert sorted(planned, key=str) == sorted((PlannedRow(*image) for image in images), key=str)
    assert plan.num_images == len(images)
    assert plan == plan_rows(iter(images), num_channels, bytes_per_value, max_shard_bytes)
    for shard in shards:
        array = shard.array
        assert len(shard.rows) == len(array.shard_rows(shard.index)) <= array.rows_per_shard
        row_bytes = num_channels * array.cells * bytes_per_value
        assert array.rows_per_shard == 1 or array.rows_per_shard * row_bytes <= max_shard_bytes
        assert all(class_cells(row.height * row.width) == array.cells for row in shard.rows)
    assert len({shard.key for shard in shards}) == len(shards)


@given(images)
def test_images_of_a_shape_are_contiguous_and_in_order(images: list[tuple[str, int, int]]) -> None:
    position = {image_id: number for number, (image_id, _, _) in enumerate(images)}
    for rows in plan_rows(images, 1, 1).rows:
        shapes = [(row.height, row.width) for row in rows]
        changes = [shape for before, shape in zip([None, *shapes], shapes, strict=False) if shape != before]
        assert len(changes) == len(set(changes))
        for shape in changes:
            order = [position[row.image_id] for row in rows if (row.height, row.width) == shape]
            assert order == sorted(order)


def test_shards_are_balanced_between_half_and_full() -> None:
    row_bytes = 256 * 4096 * 2
    plan = plan_rows([(f"i{number}", 64, 64) for number in range(33)], 256, 2)
    assert plan.arrays == (ArrayPlan("l4096", 33, 256, 4096, 17),)
    assert [len(shard.rows) for shard in plan.shards()] == [17, 16]
    assert 32 * 2**20 <= 17 * row_bytes <= 64 * 2**20
    small = plan_rows([(f"i{number}", 64, 64) for number in range(3)], 256, 2)
    assert small.arrays[0].rows_per_shard == 3


def test_an_image_larger_than_a_shard_has_its_own() -> None:
    plan = plan_rows([("a", 10, 10), ("b", 10, 10)], 4, 2, max_shard_bytes=100)
    assert [shard.key for shard in plan.shards()] == ["l101/c/0/0/0", "l101/c/1/0/0"]


def test_wrong_input() -> None:
    with pytest.raises(ValueError, match="image a is listed twice"):
        plan_rows([("a", 1, 1), ("a", 2, 2)], 1, 1)
    with pytest.raises(ValueError, match="image a has a grid of 0x3 cells"):
        plan_rows([("a", 0, 3)], 1, 1)
    with pytest.raises(ValueError, match="must be at least 1"):
        plan_rows([], 0, 1)
    with pytest.raises(ValueError, match="no shard 1, it has 1"):
        plan_rows([("a", 1, 1)], 1, 1).arrays[0].shard_rows(1)
