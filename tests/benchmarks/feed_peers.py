"""Images per second of processor time: the feed from our store, from .npy files, and from a WebDataset's tar."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from pipelines.training.feed import TrainingFeed
from pipelines.training.loader import FeedSpec
from storage.features import FeatureStore
from storage.keys import Json
from storage.stored_features import StoredFeature
from tests.benchmarks.feature_workloads import scratch_folder
from tests.benchmarks.feed_workloads import FeedWorkload, demo_workload
from tests.benchmarks.measuring import Figures, Options, alternate, compared, fixed_threads, judged, machine

__all__ = ["NpyFiles", "TarFile", "feed_images_per_s_core", "images_of", "write_peers"]

TARGET = 1.0
_SHAPES = {
    "demo": None,
    "sam2_and_mask2former": {"mask2former": (256, 64, 64), "sam2": (256, 64, 64)},
}


class NpyFiles:
    """Features in a file of float16 for each image and teacher."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def missing(self, image_ids: Sequence[str]) -> list[str]:
        del image_ids
        return []

    def read_stored(self, image_ids: Sequence[str], **_: Any) -> list[StoredFeature]:
        return [_plain(np.load(self._folder / f"{image_id}.npy")) for image_id in image_ids]


class TarFile:
    """Features in one archive, in the order in which they are wanted: WebDataset reads no other way."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._members = self._read()

    def missing(self, image_ids: Sequence[str]) -> list[str]:
        del image_ids
        return []

    def read_stored(self, image_ids: Sequence[str], **_: Any) -> list[StoredFeature]:
        found: list[StoredFeature] = []
        for image_id in image_ids:
            name, values = next(self._members)
            assert name == f"{image_id}.npy"
            found.append(_plain(values))
        return found

    def _read(self) -> Iterator[tuple[str, Any]]:
        with tarfile.open(self._path, "r|") as tar:
            for member in tar:
                content = tar.extractfile(member)
                assert content is not None
                yield member.name, np.load(io.BytesIO(content.read()))


def _plain(values: Any) -> StoredFeature:
    return StoredFeature(values.reshape(len(values), -1), *values.shape[1:])


def feed_images_per_s_core(options: Options) -> Figures:
    """The same steps by each, one after the other in one thread; everything but the features is the same."""
    figures: Figures = {"machine": machine(options, options.times(5))}
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
    spec, repeats = workload.spec, options.times(5)
    num_steps = 2 if options.tiny else len(next(iter(spec.features.values()))) // spec.config.batch_rows
    steps = range(num_steps)
    feed = spec()
    orders = [images_of(feed, spec, step) for step in steps]
    for teacher, store in spec.features.items():
        write_peers(folder, teacher, store, orders)
    num_images = sum(map(len, orders))

    def with_features(features: dict[str, Any]) -> TrainingFeed:
        feed._features = cast("dict[str, FeatureStore]", features)
        return feed

    def ours() -> None:
        _run(with_features(spec.features), steps)

    def npy() -> None:
        _run(with_features({teacher: NpyFiles(folder / "npy" / teacher) for teacher in spec.features}), steps)

    def tar() -> None:
        _run(with_features({teacher: TarFile(folder / f"{teacher}.tar") for teacher in spec.features}), steps)

    with fixed_threads(1):
        seconds = alternate({"ours": ours, "npy": npy, "tar": tar}, repeats, options.warmups)
    rates = {name: found.rates(num_images).cpu for name, found in seconds.items()}
    found: dict[str, Json] = {"workload": {**workload.described(), "loader": "one thread", "steps": num_steps}}
    for peer in ("npy", "tar"):
        figures, ratio = compared(
            {name: rates[name] for name in ("ours", peer)}, "images / s of processor", ("ours", peer)
        )
        found[f"over_{peer}"] = {"figures": figures, "ratio": judged(ratio, at_least=TARGET)}
    return found


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
