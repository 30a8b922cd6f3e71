"""Which images of a corpus need features, and which of those a store lacks: columns, not records."""

from __future__ import annotations

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


_CHUNK = 2**16
"""Images that are Python strings at a time: a million of them take more memory than all the columns."""


@dataclass(frozen=True, eq=False)
class WantedImages:
    """Images in the order of the corpus."""

    image_ids: pa.Array
    height_px: npt.NDArray[np.int32]
    width_px: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.image_ids)

    def ids(self, mask: npt.NDArray[np.bool_]) -> list[str]:
        """Ids of the images of a mask."""
        return self.image_ids.filter(pa.array(mask)).to_pylist()

    def select(self, mask: npt.NDArray[np.bool_]) -> list[ImageSize]:
        """Images of a mask, with their sizes."""
        return list(zip(self.ids(mask), self.height_px[mask].tolist(), self.width_px[mask].tolist(), strict=True))

    def unknown_to(self, store: FeatureStore) -> npt.NDArray[np.bool_]:
        """Which of the images a store has never seen: neither features nor a reject."""
        starts = range(0, len(self), _CHUNK)
        chunks = [store.unknown(self.image_ids.slice(start, _CHUNK).to_pylist()) for start in starts]
        return np.concatenate(chunks) if chunks else np.zeros(0, np.bool_)

    def rejected_by(self, store: FeatureStore) -> dict[str, str]:
        """Those on which the teacher failed, with the reason."""
        reasons = store.rejected
        if not reasons:
            return {}
        found = self.ids(pc.is_in(self.image_ids, value_set=pa.array(reasons, pa.string())).to_numpy(False))
        return {image_id: reasons[image_id] for image_id in found}

    def counts(self, store: FeatureStore, unknown: npt.NDArray[np.bool_]) -> ImageCounts:
        """How many a store has, has tried and lacks; `unknown` is what it says of them."""
        num_missing, num_rejected = int(unknown.sum()), len(self.rejected_by(store))
        return ImageCounts(len(self), len(self) - num_missing - num_rejected, num_rejected, num_missing)


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
    chunks = table["image_id"].chunks
    return WantedImages(
        pa.concat_arrays(chunks) if chunks else pa.array([], pa.string()),
        table["height"].to_numpy().astype(np.int32),
        table["width"].to_numpy().astype(np.int32),
    )
