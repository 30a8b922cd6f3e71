"""Which images of a corpus need features, and which of those a store lacks: columns, not records."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from pipelines.distillation.config import FeaturesConfig
from pipelines.distillation.forecast import ImageCounts
from pipelines.distillation.plan import ImageSize
from storage.corpus import Corpus
from storage.features import FeatureStore

__all__ = ["WantedImages", "wanted_images"]

pc: Any = pyarrow.compute


@dataclass(frozen=True, eq=False)
class WantedImages:
    """Images in the order of the corpus."""

    image_ids: list[str]
    height_px: npt.NDArray[np.int32]
    width_px: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.image_ids)

    def select(self, mask: npt.NDArray[np.bool_]) -> list[ImageSize]:
        """Those of the mask, with their sizes."""
        chosen = np.flatnonzero(mask)
        sizes = zip(self.height_px[chosen].tolist(), self.width_px[chosen].tolist(), strict=True)
        return [
            (self.image_ids[number], height, width)
            for number, (height, width) in zip(chosen.tolist(), sizes, strict=True)
        ]

    def counts(self, store: FeatureStore, unknown: npt.NDArray[np.bool_]) -> ImageCounts:
        """How many a store has, has tried and lacks; `unknown` is what it says of them."""
        num_missing, num_rejected = int(unknown.sum()), _num_within(store.rejected, self.image_ids)
        present = len(self) - num_missing - num_rejected
        return ImageCounts(len(self), present, num_rejected, num_missing)


def wanted_images(corpus: Corpus, features: FeaturesConfig) -> WantedImages:
    """The images of the splits that a recipe names; without any, all.

    Args:
        corpus: its table of images is read, not their bytes.
        features: names the splits.
    """
    table = corpus.image_table(["image_id", "height", "width"])
    if features.splits:
        samples = corpus.sample_table(["image_id", "split"])
        in_split = pc.is_in(samples["split"], value_set=pa.array(features.splits, pa.string()))
        named = pc.unique(samples["image_id"].filter(in_split))
        table = table.filter(pc.is_in(table["image_id"], value_set=named))
    return WantedImages(
        table["image_id"].to_pylist(),
        table["height"].to_numpy().astype(np.int32),
        table["width"].to_numpy().astype(np.int32),
    )


def _num_within(some: Iterable[str], image_ids: list[str]) -> int:
    few = set(some)
    return sum(image_id in few for image_id in image_ids) if few else 0
