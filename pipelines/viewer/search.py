"""Tables held in memory, so that a search through all rows takes milliseconds."""

# pyright: reportUnknownParameterType=false, reportUnknownMemberType=false
# (pyarrow has no types: every `pa.Table` in a signature is unknown to the checker)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute

__all__ = ["Found", "Index", "both"]

pc: Any = pyarrow.compute


@dataclass(frozen=True, slots=True)
class Found:
    """A page of what was searched."""

    num: int
    """Rows that match, on all pages."""
    rows: tuple[int, ...]
    """Those of this page, by their places in the table."""


class Index:
    """Rows by labels and words.

    Args:
        table: the rows.
        labels: columns whose values are chosen from.
        words: of each row, what is searched.
    """

    def __init__(self, table: pa.Table, labels: Sequence[str], words: pa.ChunkedArray) -> None:
        self.table = table
        self._words = words
        self.choices: Mapping[str, Mapping[str, int]] = {label: _counts(table[label]) for label in labels}
        """How many rows have each value of a label."""

    def matching(self, wanted: Mapping[str, str], words: str) -> Any:
        """Which rows match, as a column of bool; None: all.

        Args:
            wanted: values by label; an empty one admits all.
            words: separated by spaces, each of which a row has to hold, whatever its case; what stands in quotation
                marks is looked for as it is.
        """
        mask = None
        for label, value in wanted.items():
            if value:
                mask = both(mask, pc.equal(self.table[label], value))
        for word in _split(words):
            mask = both(mask, pc.match_substring(self._words, word, ignore_case=True))
        return mask

    def find(self, wanted: Mapping[str, str], words: str, first: int, num: int) -> Found:
        """Rows that match, in the order of the table.

        Args:
            wanted: see `matching`.
            words: see `matching`.
            first: rows that match and are passed over.
            num: upper bound of the rows that are given.
        """
        mask = self.matching(wanted, words)
        if mask is None:
            return Found(self.table.num_rows, tuple(range(self.table.num_rows)[first : first + num]))
        places = pc.indices_nonzero(mask)
        return Found(len(places), tuple(cast("list[int]", places.slice(first, num).to_pylist())))


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    pairs = ((item["values"], item["counts"]) for item in pc.value_counts(column).to_pylist())
    return dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))


def both(mask: Any, other: Any) -> Any:
    """Where two columns of bool are true; None stands for one that is true everywhere."""
    if mask is None or other is None:
        return other if mask is None else mask
    return pc.and_(mask, other)


def _split(words: str) -> list[str]:
    parts = words.split('"')
    return [word for place, part in enumerate(parts) for word in ([part] if place % 2 else part.split()) if word]
