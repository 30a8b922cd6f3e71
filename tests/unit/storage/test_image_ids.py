from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pytest

from storage.image_ids import ImageIds, decoded_ids, hash_ids, ids_of_column

HASHES = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(1000)]


@pytest.mark.parametrize("names", [HASHES, ["b", "a", "longer", "ä"], ["only"], []])
def test_ids_are_found_where_they_stand(names: list[str]) -> None:
    ids = ids_of_column(pa.array(names, pa.string()))
    assert decoded_ids(ids) == names
    table = ImageIds(ids)
    assert len(table) == len(names)
    assert table.find(names[::-1]).tolist() == list(range(len(names)))[::-1]
    assert table.find(["unknown", "a" * 64, *names[:1]]).tolist() == [-1, -1, *range(len(names[:1]))]
    assert table.find(ids).tolist() == list(range(len(names)))
    assert table.find([]).tolist() == []


def test_of_an_id_that_is_there_twice_the_first_counts() -> None:
    assert ImageIds(ids_of_column(pa.array(["b", "a", "b"]))).find(["b", "a"]).tolist() == [0, 1]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_columns_of_several_slices_are_read_as_they_are(kind: pa.DataType) -> None:
    whole = pa.array(HASHES, kind)
    column = pa.chunked_array([whole.slice(3, 5), whole.slice(0, 0), whole.slice(990)])
    assert decoded_ids(ids_of_column(column)) == [*HASHES[3:8], *HASHES[990:]]
    mixed = pa.chunked_array([pa.array(["a", "bc"], kind), whole.slice(7, 1)])
    assert decoded_ids(ids_of_column(mixed)) == ["a", "bc", HASHES[7]]


def test_ids_that_collide_get_another_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = ids_of_column(pa.array(HASHES))
    seed, hashes = hash_ids(ids)
    assert (seed, len(np.unique(hashes))) == (0, len(HASHES))
    monkeypatch.setattr("storage.image_ids._factors", lambda num_words, seed: np.full(num_words, seed, np.uint64))
    seed, hashes = hash_ids(ids)
    assert seed > 0
    assert len(np.unique(hashes)) == len(HASHES)
