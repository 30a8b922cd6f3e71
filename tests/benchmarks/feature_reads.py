"""Reading from a local disk: against bare `preadv`, against other forms, and against a slow storage."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import numpy as np

from storage.feature_plan import PlannedRow
from storage.features import BufferRing, FeatureStore
from storage.keys import Json
from storage.objects import Objects
from tests.benchmarks.feature_peers import PEERS_THAT_VERIFY, Reader, peers, preadv_reader
from tests.benchmarks.feature_workloads import (
    FeatureMaker,
    calibrated,
    drop_page_cache,
    photograph_grids,
    scratch_folder,
    square_images,
    write_store,
)
from tests.benchmarks.measuring import Figures, Options, alternate, compared_times, judged, machine

__all__ = ["feed_klt_vs_npy16_500mbs", "read_cold_vs_preadv", "read_warm_vs_preadv"]

WARM_TARGET, COLD_TARGET, FEED_TARGET = 0.70, 0.90, 2.0
_BATCH = 16
_BYTES_PER_S = 500e6
_NUM_IMAGES = 96
_NUM_PASSES = 5  # one takes some 20 ms, of which the start of threads would be a part
_WORKLOADS: dict[str, Callable[[int], list[PlannedRow]]] = {
    "sam2_64x64": square_images,
    "coco_histogram": photograph_grids,
    "increment_of_200": lambda num_images: photograph_grids(min(num_images, 200)),
}


def read_warm_vs_preadv(options: Options) -> Figures:
    """`raw16` in random order from the page cache, batches of 16 into memory used again, checksums verified."""
    return {name: _warm(options, images) for name, images in _sized(options).items()} | {
        "machine": machine(options, options.times(9))
    }


def read_cold_vs_preadv(options: Options) -> Figures:
    """The same, after the page cache was dropped."""
    return {name: _cold(options, images) for name, images in _sized(options).items()} | {
        "machine": machine(options, options.times(5))
    }


def _sized(options: Options) -> dict[str, list[PlannedRow]]:
    counts = {"sam2_64x64": _NUM_IMAGES, "coco_histogram": 2 * _NUM_IMAGES, "increment_of_200": 200}
    return {name: make(6 if options.tiny else counts[name]) for name, make in _WORKLOADS.items()}


def _warm(options: Options, images: Sequence[PlannedRow]) -> dict[str, Json]:
    with scratch_folder() as folder:
        store = write_store(folder / "store", images, calibrated("raw16"), FeatureMaker())
        ids = [row.image_id for row in images]
        sides = {"preadv": preadv_reader(store, ids, _BATCH), "ours": _reader(store, ids), **peers(folder, store, ids)}
        passes = 1 if options.tiny else _NUM_PASSES
        orders = [np.random.default_rng(number).permutation(len(ids)).tolist() for number in range(passes)]
        seconds = alternate({name: _bound(read, orders) for name, read in sides.items()}, options.times(9), 1)
    figures, ratio = compared_times(seconds, "s", ("preadv", "ours"))
    against = {
        name: compared_times(seconds, "s", (name, "ours"))[1] for name in sides if name not in ("preadv", "ours")
    }
    verifying: dict[str, Json] = {name: judged(against[name], at_least=1.0) for name in PEERS_THAT_VERIFY}
    return {
        "workload": _described(images),
        "page_cache": "warm",
        "passes": passes,
        "seconds": figures,
        "ratio": judged(ratio, at_least=WARM_TARGET),
        "peers_that_verify": verifying,
        "peers_that_do_not": {name: ratio for name, ratio in against.items() if name not in PEERS_THAT_VERIFY},
    }


def _cold(options: Options, images: Sequence[PlannedRow]) -> dict[str, Json]:
    with scratch_folder() as folder:
        store = write_store(folder, images, calibrated("raw16"), FeatureMaker())
        ids = [row.image_id for row in images]
        sides = {"preadv": preadv_reader(store, ids, _BATCH), "ours": _reader(store, ids)}
        orders = [np.random.default_rng(0).permutation(len(ids)).tolist()]
        seconds = alternate(
            {name: _bound(read, orders) for name, read in sides.items()},
            options.times(5),
            1,
            before=lambda: drop_page_cache(folder),
        )
    figures, ratio = compared_times(seconds, "s", ("preadv", "ours"))
    return {
        "workload": _described(images),
        "page_cache": "dropped by posix_fadvise before each run; the disk may have caches of its own",
        "seconds": figures,
        "ratio": judged(ratio, at_least=COLD_TARGET),
    }


def feed_klt_vs_npy16_500mbs(options: Options) -> Figures:
    """Images per second of one reader from a storage of 500 MB/s: `klt` to integers, against float16 in .npy files."""
    images = square_images(8 if options.tiny else 128)
    ids, repeats = [row.image_id for row in images], options.times(5)
    with scratch_folder() as folder:
        maker, codec = FeatureMaker(), calibrated("klt")
        store = write_store(folder / "store", images, codec, maker, 16 * 2**20)
        for number in range(len(images)):
            np.save(folder / f"{number}.npy", maker.features(number).astype(np.float16))
        sides = {"npy16": lambda: _read_npy(folder, len(images)), "klt": lambda: _scan(store, ids)}
        seconds = alternate(sides, repeats, 1)
    figures, ratio = compared_times(seconds, "s", ("npy16", "klt"))
    stored = sum(file.size_bytes for file in store.manifests[0].files if "/c/" in file.path)
    return {
        "workload": {**_described(images), "stored_mib": round(stored / 2**20, 1), "shards_ahead": 2},
        "machine": machine(options, repeats),
        "seconds": figures,
        "ratio": judged(ratio, at_least=FEED_TARGET),
    }


class _Line:
    """A storage of so many bytes per second: a read lasts as long as its bytes would take to come."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s, self._lock, self._free_s = bytes_per_s, threading.Lock(), time.perf_counter()

    def carry(self, num_bytes: int) -> None:
        """Waits until the bytes have come, behind those that were asked for before."""
        with self._lock:
            self._free_s = max(self._free_s, time.perf_counter()) + num_bytes / self._bytes_per_s
            until_s = self._free_s
        time.sleep(max(0.0, until_s - time.perf_counter()))


def _read_npy(folder: Path, num_images: int) -> None:
    line = _Line(_BYTES_PER_S)
    for number in range(num_images):
        path = folder / f"{number}.npy"
        line.carry(path.stat().st_size)
        np.load(path)


def _scan(store: FeatureStore, image_ids: Sequence[str]) -> None:
    line, read = _Line(_BYTES_PER_S), Objects.read_buffer

    def throttled(objects: Objects, key: str) -> memoryview:
        data = read(objects, key)
        line.carry(len(data))
        return data

    with mock.patch.object(Objects, "read_buffer", throttled):
        num_read = sum(1 for _ in store.scan(image_ids))
    assert num_read == len(image_ids)


def _reader(store: FeatureStore, image_ids: Sequence[str]) -> Reader:
    ring = BufferRing(_BATCH)

    def read(order: Sequence[int]) -> None:
        for start in range(0, len(order), _BATCH):
            wanted = [image_ids[number] for number in order[start : start + _BATCH]]
            assert len(store.read_stored(wanted, memory=ring)) == len(wanted)

    return read


def _bound(read: Reader, orders: Sequence[Sequence[int]]) -> Callable[[], None]:
    def passes() -> None:
        for order in orders:
            read(order)

    return passes


def _described(images: Sequence[PlannedRow]) -> dict[str, Json]:
    cells = [row.height * row.width for row in images]
    return {
        "images": len(images),
        "channels": 256,
        "distinct_grids": len({(row.height, row.width) for row in images}),
        "cells": {"min": min(cells), "mean": round(float(np.mean(cells)), 1), "max": max(cells)},
        "float16_mib": round(512 * sum(cells) / 2**20, 1),
    }
