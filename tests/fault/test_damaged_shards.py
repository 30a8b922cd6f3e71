"""Whatever befalls a stored byte, reading raises and names the file; nothing is read as zeros."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from storage.errors import CorruptObject
from storage.features import FeatureRow, FeatureStore
from storage.objects import Objects
from storage.testing import example_features, publish_example_part

NUM_FLIPS = 2000


@pytest.fixture(scope="module", params=["raw16", "int8", "klt"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two parts whose every row holds features, so that every byte of a shard is read."""
    folder = tmp_path_factory.mktemp("store")
    rows = [row for row in example_features() if row.values is not None]
    more = [FeatureRow(f"more {row.image_id}", row.height, row.width, row.values) for row in rows]
    for number, part in enumerate((rows, more)):
        publish_example_part(Objects.open(folder), f"part{number}", part, str(request.param))
    return folder


def _shards(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("parts/*/*/c/**/*") if path.is_file())


@contextmanager
def _changed(path: Path, data: bytes) -> Iterator[None]:
    good = path.read_bytes()
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(good)


def _read_at_random(folder: Path) -> None:
    features = FeatureStore.open(folder)
    features.read(list(features))


def _read_whole_shards(folder: Path) -> None:
    list(FeatureStore.open(folder).scan())


def _named(path: Path, folder: Path) -> str:
    return re.escape(path.relative_to(folder / "parts").as_posix())


def test_any_flipped_byte_of_a_shard_raises_with_its_name(folder: Path) -> None:
    """A third of the flips for each encoding; in turns by range, by whole shard, and by the files' hashes."""
    generator = np.random.default_rng(0)
    shards = _shards(folder)
    sizes = [path.stat().st_size for path in shards]
    readers = (_read_at_random, _read_whole_shards, lambda store: FeatureStore.open(store).verify())
    for number in range(-(-NUM_FLIPS // 3)):
        path = shards[generator.choice(len(shards), p=np.array(sizes) / sum(sizes))]
        data = bytearray(path.read_bytes())
        data[generator.integers(len(data))] ^= generator.integers(1, 256)
        with _changed(path, bytes(data)), pytest.raises(CorruptObject, match=_named(path, folder)):
            readers[number % 3](folder)
    _read_at_random(folder)
    FeatureStore.open(folder).verify()


@pytest.mark.parametrize("read", [_read_at_random, _read_whole_shards])
def test_a_cut_or_missing_shard_raises_with_its_name(folder: Path, read: object) -> None:
    assert callable(read)
    generator = np.random.default_rng(1)
    for path in _shards(folder):
        data = path.read_bytes()
        for kept in (0, 1, len(data) - 1, *generator.integers(2, len(data) - 1, 5).tolist()):
            with _changed(path, data[:kept]), pytest.raises(CorruptObject, match=_named(path, folder)):
                read(folder)
        path.unlink()
        try:
            with pytest.raises(CorruptObject, match=f"{_named(path, folder)}: missing"):
                read(folder)
        finally:
            path.write_bytes(data)


def test_shards_in_each_others_place_raise(folder: Path) -> None:
    """Every checksum is right then; only what a shard says of itself tells."""
    shards = [path for path in _shards(folder) if path.parts[-5] == "l20"]
    assert len(shards) == 2
    first, second = (path.read_bytes() for path in shards)
    with _changed(shards[0], second), pytest.raises(CorruptObject, match="isn't image image0, as the index says"):
        _read_at_random(folder)
    assert first != second


def test_any_flipped_byte_of_the_metadata_raises(folder: Path) -> None:
    generator = np.random.default_rng(2)
    files = [path for path in folder.rglob("*") if path.is_file() and path not in _shards(folder)]
    for number in range(100):
        path = files[number % len(files)]
        data = bytearray(path.read_bytes())
        data[generator.integers(len(data))] ^= 1 << generator.integers(8)
        with _changed(path, bytes(data)):
            if path.parent.name == "index" and path.name != "00000002.json":
                continue  # an earlier snapshot, which nobody reads
            with pytest.raises(CorruptObject, match=re.escape(path.name)):
                FeatureStore.open(folder).verify()
