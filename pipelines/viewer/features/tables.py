"""The images of a feature store as tables that are searched: those with features by id, the others by reason too."""

# pyright: reportUnknownParameterType=false, reportUnknownMemberType=false
# (pyarrow has no types: every `pa.Table` in a signature is unknown to the checker)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.viewer.features.shown import shortened
from pipelines.viewer.search import Index
from storage.features import FeatureStore

__all__ = ["IMAGE_LABELS", "HeldImage", "ImageTable", "RejectTable", "RejectedImage"]

IMAGE_LABELS = ("part",)
_REJECT_FIELDS = [pa.field("image_id", pa.string()), pa.field("reason", pa.string())]


@dataclass(frozen=True, slots=True)
class HeldImage:
    """An image with features."""

    image_id: str
    part: str
    height: int
    """Rows of its grid, in cells."""
    width: int


@dataclass(frozen=True, slots=True)
class RejectedImage:
    """An image on which the teacher failed."""

    image_id: str
    reason: str


class ImageTable(Index):
    """The images with features, in the order of the store's index.

    Args:
        store: whose images.
    """

    def __init__(self, store: FeatureStore) -> None:
        index = store.index
        rows = np.flatnonzero(index.is_ok)
        names = [shortened(part.key) for part in store.parts]
        parts: Any = pa.array(names, pa.string()).take(pa.array(index.part[rows]))
        ids = pa.chunked_array([_strings(index.ids[rows])], pa.large_string())
        columns = {"image_id": ids, "part": parts, "height": index.height[rows], "width": index.width[rows]}
        super().__init__(pa.table(columns), IMAGE_LABELS, ids)

    def images(self, rows: Sequence[int]) -> list[HeldImage]:
        """Images by their places."""
        found = self.table.take(pa.array(rows, pa.int64())).to_pylist()
        return [HeldImage(**cast("dict[str, Any]", row)) for row in found]


class RejectTable(Index):
    """The images without features, searched by id and reason.

    Args:
        store: whose images.
    """

    def __init__(self, store: FeatureStore) -> None:
        pairs = list(store.rejected.items())
        words = pa.array([f"{image_id}\n{reason}" for image_id, reason in pairs], pa.string())
        columns = {"image_id": [image_id for image_id, _ in pairs], "reason": [reason for _, reason in pairs]}
        super().__init__(pa.table(columns, pa.schema(_REJECT_FIELDS)), (), pa.chunked_array([words]))

    def images(self, rows: Sequence[int]) -> list[RejectedImage]:
        """Rejects by their places."""
        found = self.table.take(pa.array(rows, pa.int64())).to_pylist()
        return [RejectedImage(**cast("dict[str, str]", row)) for row in found]


def _strings(ids: npt.NDArray[Any]) -> Any:
    """Ids of numpy's bytes as Arrow's strings, without a Python object each."""
    return pa.array(ids).cast(pa.large_binary()).cast(pa.large_string())
