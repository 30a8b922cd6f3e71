"""Which images need features, and which of those a store lacks: columns, not records."""

# pyright: reportUnknownParameterType=false
# (pyarrow has no types: every `pa.Table` in a signature is unknown to the checker)

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from pipelines.distillation.forecast import ImageCounts
from pipelines.distillation.id_tables import IdTables
from pipelines.distillation.plan import ImageSize
from storage.feature_index import OpenPart, PartEntry, Snapshot, open_part, read_rows
from storage.image_ids import Ids, ImageIds, decoded_ids, ids_of_column
from storage.objects import Objects
from storage.shards import RowStatus
from storage.stored_features import Codec

__all__ = ["KnownImages", "WantedImages"]

pc: Any = pyarrow.compute

_CHUNK = 2**16
"""Images that are Python strings at a time: a million of them take more memory than all the columns."""
_PARTS_AT_ONCE = 4
"""Tables of rows that are read together, and held."""


class WantedImages:
    """Images in the order of the corpus: all that it wants, or a window of them.

    Args:
        ids: as `storage.image_ids` has them.
        height_px: of each image.
        width_px: of each image.
        rows: of each image in the corpus; see `Corpus.images_at`.
    """

    def __init__(
        self,
        ids: Ids,
        height_px: npt.NDArray[np.int32],
        width_px: npt.NDArray[np.int32],
        rows: npt.NDArray[np.int64],
    ) -> None:
        self._ids, self.height_px, self.width_px, self._rows = ids, height_px, width_px, rows

    def __len__(self) -> int:
        return len(self._ids)

    @cached_property
    def by_id(self) -> ImageIds:
        """Positions of the images by their ids."""
        return ImageIds(self._ids)

    def ids(self, places: npt.NDArray[Any] | None = None) -> list[str]:
        """Ids of the images at some positions, or of a mask; None: of all."""
        return decoded_ids(self._ids if places is None else self._ids[places])

    def select(self, places: npt.NDArray[Any]) -> list[ImageSize]:
        """Images at some positions, or of a mask, with their sizes."""
        sizes = self.height_px[places].tolist(), self.width_px[places].tolist()
        return list(zip(self.ids(places), *sizes, strict=True))

    def corpus_rows(self, places: npt.NDArray[Any]) -> list[int]:
        """Where the images at some positions, or of a mask, lie in the corpus."""
        return self._rows[places].tolist()

    def chunks(self, mask: npt.NDArray[np.bool_]) -> Iterator[tuple[npt.NDArray[np.int64], list[str]]]:
        """Positions and ids of the images of a mask, some at a time."""
        positions = np.flatnonzero(mask)
        for start in range(0, len(positions), _CHUNK):
            some = positions[start : start + _CHUNK]
            yield some, self.ids(some)


class KnownImages:
    """What a store has seen of the wanted images. Parts never change, so each is looked at once.

    Args:
        wanted: the images that matter.
        store: prefix of the store; None: there is none yet, and nothing is known.
        codec: of the store; None together with `store`.
        tables: what other windows of the corpus have read; None: the images are all that it wants.
        window: the number of theirs.
    """

    snapshot: Snapshot | None = None
    """The state that was looked at; None: an empty store."""
    rejected: dict[str, str]
    """Wanted images on which the teacher failed, with the reason."""

    def __init__(
        self,
        wanted: WantedImages,
        store: Objects | None,
        codec: Codec | None,
        tables: IdTables | None = None,
        window: int = 0,
    ) -> None:
        self.wanted, self._store, self._codec = wanted, store, codec
        self._tables, self._window = tables or IdTables(1), window
        self._forget()

    @property
    def unknown(self) -> npt.NDArray[np.bool_]:
        """Images that the store has never seen: neither features nor a reject."""
        return ~self._is_known

    def counts(self) -> ImageCounts:
        """How many the store has, has tried and lacks."""
        num_missing = len(self.wanted) - int(np.count_nonzero(self._is_known))
        num_rejected = len(self.rejected)
        return ImageCounts(len(self.wanted), len(self.wanted) - num_missing - num_rejected, num_rejected, num_missing)

    def update(self, snapshot: Snapshot | None) -> None:
        """Looks at the parts that are new since the last look; at all of them if one was retired.

        Raises:
            CorruptObject: a part's manifest or table of rows is missing or differs.
        """
        before, parts = (() if found is None else found.parts for found in (self.snapshot, snapshot))
        if parts[: len(before)] != before:
            self._forget()
            before = ()
        new = (entry for entry in parts[len(before) :] if self._tables.may_hold(entry.part, self._window))
        with ThreadPoolExecutor(_PARTS_AT_ONCE, thread_name_prefix="rows") as pool:
            while some := list(islice(new, _PARTS_AT_ONCE)):
                for entry, table in zip(some, pool.map(self._read, some), strict=True):
                    self._tables.note(entry.part, self._window, self._add(table))
        self.snapshot = snapshot

    def _forget(self) -> None:
        self.snapshot, self.rejected = None, {}
        self._is_known, self._is_ok = (np.zeros(len(self.wanted), np.bool_) for _ in range(2))

    def _read(self, entry: PartEntry) -> pa.Table:
        return self._tables.read(entry.part, lambda: self._fetch(entry))

    def _fetch(self, entry: PartEntry) -> pa.Table:
        assert self._store is not None  # where there is no store, there are no parts
        assert self._codec is not None
        part: OpenPart = open_part(self._store, entry, {self._codec.encoding: self._codec})
        return read_rows(part).select(["image_id", "status", "detail"])

    def _add(self, table: pa.Table) -> int:
        """One more part; how many of its rows are wanted.

        Features count before a reject, and of two rejects the one that is listed first.
        """
        is_ok = pc.equal(table["status"], RowStatus.OK.value).to_numpy()
        positions = self.wanted.by_id.find(ids_of_column(table["image_id"]))
        is_wanted = positions >= 0
        self._is_known[positions[is_wanted]] = True
        self._is_ok[positions[is_wanted & is_ok]] = True
        failed = np.flatnonzero(is_wanted & ~is_ok)
        reasons = table["detail"].take(pa.array(failed)).to_pylist()
        found = dict(zip(self.wanted.ids(positions[failed]), reasons, strict=True))
        self.rejected = {**found, **self.rejected}
        if self.rejected:
            names = list(self.rejected)
            is_rejected = ~self._is_ok[self.wanted.by_id.find(names)]
            self.rejected = {name: self.rejected[name] for name, stays in zip(names, is_rejected, strict=True) if stays}
        return int(np.count_nonzero(is_wanted))
