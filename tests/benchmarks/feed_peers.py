"""Images per second of processor time: the feed from our store, from .npy files, and from a WebDataset's tar."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
from webdataset.compat import WebDataset

from pipelines.training.feed import TrainingFeed
from pipelines.training.loader import FeedSpec
from storage.features import FeatureStore
from storage.keys import Json
from storage.stored_features import StoredFeature
from tests.benchmarks.feature_workloads import drop_page_cache, scratch_folder
from tests.benchmarks.feed_workloads import FeedWorkload, demo_workload
from tests.benchmarks.measuring import Figures, Options, alternate, compared_pairs, fixed_threads, judged, machine

__all__ = ["NpyFiles", "WebDatasetTar", "feed_images_per_s_core", "images_of", "write_peers"]

TARGET = 1.0
_REPEATS = 9
_SHAPES = {
    "demo": None,
    "sam2_and_mask2former": {"mask2former": (256, 64, 64), "sam2": (256, 64, 64)},
}


Extents: TypeAlias = Mapping[str, tuple[int, int]]
"""(rows, columns) of each image's features."""


class _Peer:
    """What the feed asks of a feature store beside the features."""

    def __init__(self, extents: Extents) -> None:
        self._extents = extents

    def missing(self, image_ids: Sequence[str]) -> list[str]:
        del image_ids
        return []

    def extents(self, image_ids: Sequence[str]) -> list[tuple[int, int]]:
        return [self._extents[image_id] for image_id in image_ids]


class NpyFiles(_Peer):
    """Features in a file of float16 for each image and teacher."""

    def __init__(self, folder: Path, extents: Extents) -> None:
        super().__init__(extents)
        self._folder = folder

    def read_stored(self, image_ids: Sequence[str], **_: Any) -> list[StoredFeature]:
        return [_plain(np.load(self._folder / f"{image_id}.npy")) for image_id in image_ids]


class WebDatasetTar(_Peer):
    """Features in one archive, in the order in which they are wanted: the library reads no other way."""

    def __init__(self, path: Path, extents: Extents) -> None:
        super().__init__(extents)
        data: Any = WebDataset(str(path), shardshuffle=False).decode()
        self._samples = iter(data)

    def read_stored(self, image_ids: Sequence[str], **_: Any) -> list[StoredFeature]:
        found: list[StoredFeature] = []
        for image_id in image_ids:
            sample = next(self._samples)
            assert sample["__key__"] == image_id
            found.append(_plain(sample["npy"]))
        return found


def _plain(values: Any) -> StoredFeature:
    return StoredFeature(values.reshape(len(values), -1), *values.shape[1:])


def feed_images_per_s_core(options: Options) -> Figures:
    """The same steps by each, one after the other in one thread; everything but the features is the same."""
    figures: Figures = {"machine": machine(options, options.times(_REPEATS))}
    for name, shapes in _SHAPES.items():
        for codec in ("klt", "raw16") if not options.tiny else ("klt",):
            if options.tiny and shapes is not None:
                shapes = {teacher: (8, 4, 4) for teacher in shapes}
            with scratch_folder() as folder:
                num_images = 24 if options.tiny else 768 if shapes is None else 96
                workload = demo_workload(folder, num_images, codec, shapes)
                figures[f"{name}_{codec}"] = _compared(folder, workload, options)
    return figures


def _compared(folder: Path, workload: FeedWorkload, options: Options) -> dict[str, Json]:
    """Both from the page cache, per second of processor time, and from the disk, per second on one core."""
    spec, repeats = workload.spec, options.times(_REPEATS)
    num_steps = 2 if options.tiny else len(next(iter(spec.features.values()))) // spec.config.batch_rows
    steps = range(num_steps)
    feed = spec()
    orders = [images_of(feed, spec, step) for step in steps]
    for teacher, store in spec.features.items():
        write_peers(folder, teacher, store, orders)
    num_images = sum(map(len, orders))
    extents = {teacher: dict.fromkeys(store, workload.shapes[teacher][1:]) for teacher, store in spec.features.items()}

    def with_features(features: dict[str, Any]) -> TrainingFeed:
        feed._features = cast("dict[str, FeatureStore]", features)
        return feed

    def ours() -> None:
        _run(with_features(spec.features), steps)

    def npy() -> None:
        of_teachers = {teacher: NpyFiles(folder / "npy" / teacher, extents[teacher]) for teacher in spec.features}
        _run(with_features(of_teachers), steps)

    def tar() -> None:
        of_teachers = {teacher: WebDatasetTar(folder / f"{teacher}.tar", extents[teacher]) for teacher in spec.features}
        _run(with_features(of_teachers), steps)

    sides = {"ours": ours, "npy": npy, "webdataset": tar}
    with fixed_threads(1), _one_core():
        cached = alternate(sides, repeats, options.warmups)
        from_disk = alternate(sides, repeats, 0, before=lambda: drop_page_cache(folder))
    found: dict[str, Json] = {"workload": {**workload.described(), "loader": "one thread", "steps": num_steps}}
    rates = {
        "page_cache": ({name: each.rates(num_images).cpu for name, each in cached.items()}, "images / s of processor"),
        "disk": ({name: each.rates(num_images).wall for name, each in from_disk.items()}, "images / s on one core"),
    }
    for place, (of_sides, unit) in rates.items():
        for peer in ("npy", "webdataset"):
            figures, ratio = compared_pairs({name: of_sides[name] for name in ("ours", peer)}, unit, ("ours", peer))
            found[f"{place}_over_{peer}"] = {"figures": figures, "ratio": judged(ratio, at_least=TARGET)}
    return found


@contextmanager
def _one_core() -> Generator[None]:
    """Everything of this process on one core, where the system can do that."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _run(feed: TrainingFeed, steps: range) -> None:
    for step in steps:
        feed.step_batches(step)


def images_of(feed: TrainingFeed, spec: FeedSpec, step: int) -> list[str]:
    """Images of a step in the order in which the feed asks for them."""
    first = step * spec.config.batch_rows
    found = [feed.source(feed.place(row)).image_id for row in range(first, first + spec.config.batch_rows)]
    return [image_id for image_id in found if image_id is not None]


def write_peers(folder: Path, teacher: str, store: FeatureStore, orders: Sequence[Sequence[str]]) -> None:
    (folder / "npy" / teacher).mkdir(parents=True)
    values = {image_id: store[image_id].astype(np.float16) for image_id in {i for order in orders for i in order}}
    for image_id, features in values.items():
        np.save(folder / "npy" / teacher / f"{image_id}.npy", features)
    with tarfile.open(folder / f"{teacher}.tar", "w") as tar:
        for order in orders:
            for image_id in order:
                sink = io.BytesIO()
                np.save(sink, values[image_id])
                member = tarfile.TarInfo(f"{image_id}.npy")
                member.size = sink.tell()
                sink.seek(0)
                tar.addfile(member, sink)
