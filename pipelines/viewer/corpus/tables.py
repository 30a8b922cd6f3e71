"""Tables of a corpus held in memory.

Of a sample these are its labels and its words, some hundred bytes; masks and pictures stay where they are until shown.
"""

# pyright: reportUnknownParameterType=false, reportUnknownMemberType=false
# (pyarrow has no types: every `pa.Table` in a signature is unknown to the checker)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute

from pipelines.viewer.search import Index, both
from storage.corpus import Corpus, table_to_rejects
from storage.schema import Reject

__all__ = ["REJECT_LABELS", "SAMPLE_LABELS", "RejectIndex", "SampleIndex"]

pc: Any = pyarrow.compute

SAMPLE_LABELS = ("family", "task", "split")
REJECT_LABELS = ("family", "reason", "source_file")
_BETWEEN = pa.scalar("\n", pa.large_string())


class SampleIndex(Index):
    """The samples of a corpus, in its order.

    Args:
        corpus: to be searched.
        pictured: whether samples of text alone are left out of searches.
    """

    def __init__(self, corpus: Corpus, *, pictured: bool = False) -> None:
        table = corpus.sample_table(["sample_id", "image_id", *SAMPLE_LABELS, "turns"])
        super().__init__(table.drop_columns(["turns"]), SAMPLE_LABELS, _words_of_turns(table["turns"]))

        self._has_picture = pc.is_valid(self.table["image_id"]) if pictured else None

    def matching(self, wanted: Mapping[str, str], words: str) -> Any:
        """As of every index, of those with a picture if they alone are looked for."""
        return both(super().matching(wanted, words), self._has_picture)

    def row_of(self, sample_id: str) -> int | None:
        """Where a sample stands; None: nowhere."""
        row = cast(int, pc.index(self.table["sample_id"], sample_id).as_py())
        return None if row < 0 else row

    def rows_of_image(self, image_id: str) -> tuple[int, ...]:
        """Samples on a picture."""
        return tuple(cast("list[int]", pc.indices_nonzero(pc.equal(self.table["image_id"], image_id)).to_pylist()))


class RejectIndex(Index):
    """The rejects of a corpus, in its order.

    Args:
        corpus: to be searched.
    """

    def __init__(self, corpus: Corpus) -> None:
        table = corpus.reject_table()
        parts = [table[name].cast(pa.large_string()) for name in ("locator", "detail")]
        super().__init__(table, REJECT_LABELS, pc.binary_join_element_wise(*parts, _BETWEEN))

    def rows(self, rows: Sequence[int]) -> list[Reject]:
        """Rejects by their places."""
        return table_to_rejects(self.table.take(pa.array(rows, pa.int64())))


def _words_of_turns(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts and answers of each sample, one below the other."""
    return pa.chunked_array([_words_of(chunk) for chunk in column.chunks], pa.large_string())


def _words_of(turns: pa.ListArray) -> pa.Array:
    flat = turns.flatten()
    said = pc.binary_join_element_wise(
        *(pc.fill_null(pc.struct_field(flat, name), "").cast(pa.large_string()) for name in ("text", "answer")),
        _BETWEEN,
    )
    starts = pc.subtract(turns.offsets, turns.offsets[0]).cast(pa.int64())
    return pc.binary_join(pa.LargeListArray.from_arrays(starts, said), _BETWEEN)
