"""What the benchmarks of the feature store read and write: generated features, stores of them, sizes of photographs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from storage.calibration import TIERS, CalibrationSample
from storage.codecs import Codec, codec_of
from storage.features import (
    FeatureRow,
    FeatureStore,
    PartDescription,
    PlannedRow,
    part_objects,
    plan_rows,
    publish_part,
    write_part_metadata,
    write_shard,
)
from storage.klt import KltCodec
from storage.objects import Objects
from teachers.mask2former import Mask2FormerTeacherConfig
from tests.benchmarks.measuring import NotRun

__all__ = [
    "FeatureMaker",
    "calibrated",
    "drop_page_cache",
    "photograph_grids",
    "scratch_folder",
    "square_images",
    "write_store",
]

_LISTS = (
    "coco2017/annotations/panoptic_train2017.json",
    "coco2017/annotations/panoptic_val2017.json",
    "refer_seg/refcoco/instances.json",
    "lvis/lvis_val_half_no_images.json",
)
_STRIDE_PX = 16


class FeatureMaker:
    """Laplacian features whose channel covariance has eigenvalues k^-power in a random rotation.

    Independent from cell to cell: harder to compress than features of a network.

    Args:
        num_channels: of every image.
        power: 1.5 for a spectrum as teachers have it, 0 for a flat one.
        seed: of everything drawn.
    """

    def __init__(self, num_channels: int = 256, power: float = 1.5, seed: int = 0) -> None:
        generator = np.random.default_rng([seed, num_channels])
        rotation, _ = np.linalg.qr(generator.standard_normal((num_channels, num_channels)))
        spectrum = np.arange(1, num_channels + 1) ** -power
        deviations = np.sqrt(spectrum / spectrum.mean())
        self._mixing = (rotation * deviations).astype(np.float32)
        self._seed, self.num_channels = seed, num_channels

    def features(self, number: int, height: int = 64, width: int = 64) -> npt.NDArray[np.float32]:
        """Features [channels, height, width] of image `number`, of variance 1."""
        generator = np.random.default_rng([self._seed, 1, number])
        uniform = generator.random((self.num_channels, height * width), np.float32) - np.float32(0.5)
        # A Laplacian of variance 1 by its inverse distribution function.
        tail = np.maximum(1 - 2 * np.abs(uniform), np.float32(1e-7))
        laplacian = -np.sign(uniform) * np.log(tail) / np.float32(np.sqrt(2))
        return (self._mixing @ laplacian).reshape(self.num_channels, height, width)


@lru_cache(maxsize=8)
def calibrated(name: str, power: float = 1.5, num_images: int = 24) -> Codec:
    """The codec that recipes call `name`, for 256 channels; `klt` calibrated on other images than those measured."""
    if name not in TIERS:
        return codec_of(name)
    maker, sample = FeatureMaker(power=power), CalibrationSample()
    for number in range(num_images):
        sample.add(maker.features(1_000_000 + number))
    return KltCodec(sample.fit(TIERS[name]))


def square_images(num_images: int, side: int = 64) -> list[PlannedRow]:
    """Images of one square grid, as SAM 2 has them."""
    return [PlannedRow(f"{number:064x}", side, side) for number in range(num_images)]


def photograph_grids(num_images: int) -> list[PlannedRow]:
    """Images by the sizes of some 200 photographs of COCO, on Mask2Former's input at stride 16.

    Raises:
        NotRun: the folder with their lists isn't there.
    """
    folder = os.environ.get("SAILLOFT_SHARED")
    lists = [] if folder is None else [Path(folder) / "data" / name for name in _LISTS]
    found = [image for path in lists if path.exists() for image in json.loads(path.read_text())["images"]]
    sizes = sorted({(image["id"], image["height"], image["width"]) for image in found})
    if not sizes:
        raise NotRun("sizes of COCO's photographs: set SAILLOFT_SHARED to the folder with data/coco2017")
    teacher = Mask2FormerTeacherConfig()
    rows: list[PlannedRow] = []
    for number in range(num_images):
        height, width = teacher.input_size(*sizes[number % len(sizes)][1:])
        rows.append(PlannedRow(f"{number:064x}", -(-height // _STRIDE_PX), -(-width // _STRIDE_PX)))
    return rows


def write_store(
    url: str | Path, images: Sequence[PlannedRow], codec: Codec, maker: FeatureMaker, max_shard_bytes: int = 64 * 2**20
) -> FeatureStore:
    """Writes and publishes generated features as one part, and opens the store."""
    store = Objects.open(url)
    planned = [(row.image_id, row.height, row.width) for row in images]
    plan = plan_rows(planned, maker.num_channels, codec.bits_per_value / 8, max_shard_bytes)
    description = PartDescription("generated", codec.encoding, maker.num_channels)
    part = part_objects(store, "part")
    write_part_metadata(part, plan, description, codec)
    written = {
        shard.key: write_shard(
            part,
            shard.array,
            shard.index,
            [
                FeatureRow(
                    row.image_id, row.height, row.width, maker.features(int(row.image_id, 16), row.height, row.width)
                )
                for row in shard.rows
            ],
            codec,
        )
        for shard in plan.shards()
    }
    publish_part(store, "part", plan, description, codec, recipe={}, inputs={}, written=written)
    return FeatureStore.open(store)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder on the local disk, removed afterwards."""
    with TemporaryDirectory(prefix="sailloft-benchmark-") as folder:
        yield Path(folder)


def drop_page_cache(folder: Path) -> None:
    """Asks the system to forget the contents of all files below a folder, after writing them out."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
