"""The images that a corpus wants taught, some millions at a time: memory that doesn't follow the size of the corpus.

A window is a range of rows of the corpus. So each picture's row group belongs to one window (those at its ends to two),
parts are made in the order of the corpus, and where windows begin depends neither on what is done nor on who does it.
"""

# pyright: reportUnknownParameterType=false
# (pyarrow has no types: every `pa.Table` in a signature is unknown to the checker)

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from pipelines.distillation.config import FeaturesConfig
from pipelines.distillation.id_tables import IdTables
from pipelines.distillation.wanted import WantedImages
from storage.corpus import Corpus
from storage.image_ids import Ids, ImageIds, ids_of_column

__all__ = ["IMAGES_PER_WINDOW", "WantedWindows"]

pc: Any = pyarrow.compute

IMAGES_PER_WINDOW = 5_000_000
"""A gigabyte of ids, sizes and the way from one to the other. Whatever is smaller is one window."""


class WantedWindows:
    """The images of the splits that a recipe names (without any, all), window by window.

    Args:
        corpus: its tables are read, not the bytes of its images.
        features: names the splits; parts are whole within a window.
        images_per_window: at most, rounded up to whole parts.
    """

    tables: IdTables
    """For whatever the windows are looked up in."""

    def __init__(self, corpus: Corpus, features: FeaturesConfig, images_per_window: int = IMAGES_PER_WINDOW) -> None:
        self._corpus, self._splits = corpus, features.splits
        size = -(-images_per_window // features.images_per_part) * features.images_per_part
        self._images, self._samples = _ranges(corpus.num_images, size), _ranges(corpus.num_samples, size)
        self.tables = IdTables(len(self))

    def __len__(self) -> int:
        return len(self._images)

    def wanted(self, number: int) -> WantedImages:
        """The images of one window, read anew."""
        rows = self._images[number]
        table = self._corpus.image_table(["image_id", "height", "width"], rows if len(self) > 1 else None)
        places = np.arange(table.num_rows) + rows.start
        if self._splits:
            is_named = self._is_named(number, ids_of_column(table["image_id"]))
            table, places = table.filter(pa.array(is_named)), places[is_named]
        height_px, width_px = (table[name].to_numpy().astype(np.int32) for name in ("height", "width"))
        return WantedImages(ids_of_column(table["image_id"]), height_px, width_px, places)

    def ids(self) -> Iterator[str]:
        """All image ids, in the order of the corpus."""
        for number in range(len(self)):
            wanted = self.wanted(number)
            for _, ids in wanted.chunks(np.ones(len(wanted), np.bool_)):
                yield from ids

    def _is_named(self, number: int, ids: Ids) -> npt.NDArray[np.bool_]:
        """Which images have a sample in one of the splits."""
        is_named, index = np.zeros(len(ids), np.bool_), ImageIds(ids)
        for rows in self._samples:
            name = f"samples/{rows.start}"
            if self.tables.may_hold(name, number):
                named = ids_of_column(self.tables.read(name, partial(self._named, rows))["image_id"])
                places = index.find(named)
                is_named[places[places >= 0]] = True
                self.tables.note(name, number, int(np.count_nonzero(places >= 0)))
        return is_named

    def _named(self, rows: range) -> pa.Table:
        """Ids of the images that some samples of the splits are about, each once."""
        samples = self._corpus.sample_table(["image_id", "split"], rows if len(self._samples) > 1 else None)
        in_split = pc.is_in(samples["split"], value_set=pa.array(self._splits, pa.string()))
        return pa.table({"image_id": pc.unique(samples["image_id"].filter(in_split).drop_null())})


def _ranges(num_rows: int, size: int) -> list[range]:
    """Ranges of at most so many rows, at least one."""
    return [range(start, min(start + size, num_rows)) for start in range(0, max(num_rows, 1), size)]
