"""Predictions of one or two evaluations as a table held in memory; masks and answers stay where they are."""

# pyright: reportUnknownParameterType=false, reportUnknownMemberType=false
# (pyarrow has no types: every `pa.Table` in a signature is unknown to the checker)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute

from pipelines.evaluation.records import Prediction, Variant, table_to_predictions
from pipelines.viewer.search import Found, Index
from storage.errors import DataError
from storage.manifest import Manifest
from storage.objects import Objects
from storage.parquet_files import read_table

__all__ = ["LABELS", "ORDERS", "PAIRED_ORDERS", "Ordered", "PredictionFiles", "PredictionIndex"]

pc: Any = pyarrow.compute

LABELS = ("benchmark", "task", "family", "split")
ORDERS: Mapping[str, str] = {"worst": "worst first", "best": "best first", "unsure": "least certain first"}
"""Orders of one evaluation, in words."""
PAIRED_ORDERS: Mapping[str, str] = {
    "gains": "biggest gains of B first",
    "losses": "biggest losses of B first",
    "apart": "biggest differences first",
    "worst": "worst of both first",
}
"""Orders of two."""

_PLACE = ("benchmark", "sample_id", "turn", "truth_sample_id", "truth_turn")
"""What makes two predictions answers to one question."""
_COLUMNS = ("variant", *_PLACE, "task", "family", "split", "expression", "question", "mask_scores", "score")
_READERS = 4


class PredictionFiles:
    """The predictions of an evaluation, file by file.

    Args:
        objects: the evaluation's prefix.
        manifest: as published there.
    """

    def __init__(self, objects: Objects, manifest: Manifest) -> None:
        self._objects = objects
        self._paths = sorted(entry.path for entry in manifest.files if entry.path.startswith("predictions/"))

    def table(self) -> pa.Table:
        """The narrow columns of all answers to the questions as they are meant, with `file` and `row` of each.

        Raises:
            DataError: columns of another version.
        """

        def read(number: int) -> pa.Table:
            try:
                table = read_table(self._objects, self._paths[number], _COLUMNS)
            except KeyError as error:
                raise DataError(
                    f"{self._objects.url}/{self._paths[number]}: {error}; an earlier version wrote it: evaluate again"
                ) from error
            table = table.append_column("file", pa.array([number] * table.num_rows, pa.int32()))
            table = table.append_column("row", pa.array(range(table.num_rows), pa.int32()))
            return table.filter(pc.equal(table["variant"], Variant.STANDARD.value))

        with ThreadPoolExecutor(_READERS, thread_name_prefix="predictions") as threads:
            tables = list(threads.map(read, range(len(self._paths))))
        if not tables:
            raise DataError(f"{self._objects.url}: expected predictions, got none; evaluate again")
        return pa.concat_tables(tables)

    def read(self, places: Sequence[tuple[int, int]]) -> list[Prediction]:
        """Whole predictions by file and row."""
        tables = {file: read_table(self._objects, self._paths[file]) for file in {file for file, _ in places}}
        return table_to_predictions(pa.concat_tables([tables[file].slice(row, 1) for file, row in places]))


@dataclass(frozen=True, slots=True)
class Ordered(Found):
    """A page of what was searched, and figures over all pages; scores are fractions."""

    first: float
    second: float | None
    """Mean score of the second evaluation; None: there is one alone."""
    num_better: int = 0
    """Questions that the second answers better."""
    num_worse: int = 0


class PredictionIndex(Index):
    """Questions that all evaluations answered, in several orders.

    Args:
        tables: of one evaluation or two, see `PredictionFiles.table`.
    """

    def __init__(self, tables: Sequence[pa.Table]) -> None:
        table = _paired(*tables) if len(tables) == 2 else tables[0]
        self.num_alone = sum(own.num_rows - table.num_rows for own in tables)
        """Questions that one of two evaluations answered alone."""
        self._is_paired = len(tables) == 2
        words = pc.if_else(pc.equal(table["expression"], ""), table["question"], table["expression"])
        super().__init__(table.drop_columns(["question", "expression"]), LABELS, words)
        self._orders = {name: pc.sort_indices(key) for name, key in self._keys().items()}

    @property
    def orders(self) -> Mapping[str, str]:
        """The orders, in words; the first one is what a list begins with."""
        return PAIRED_ORDERS if self._is_paired else ORDERS

    def ordered(self, wanted: Mapping[str, str], words: str, order: str, first: int, num: int) -> Ordered:
        """Questions that match, in an order.

        Args:
            wanted: see `Index.matching`.
            words: see `Index.matching`.
            order: one of `orders`; any other is the first of them.
            first: questions that match and are passed over.
            num: upper bound of those that are given.
        """
        rows = self._orders[order if order in self._orders else next(iter(self.orders))]
        mask = self.matching(wanted, words)
        if mask is not None:
            rows = rows.filter(pc.take(mask, rows))
        chosen = self.table if mask is None else self.table.filter(mask)
        found = len(rows), tuple(cast("list[int]", rows.slice(first, num).to_pylist()))
        if not self._is_paired:
            return Ordered(*found, _mean(chosen["score"]), None)
        difference = pc.subtract(chosen["second_score"], chosen["score"])
        better, worse = (cast(int, pc.sum(compare(difference, 0.0)).as_py() or 0) for compare in (pc.greater, pc.less))
        return Ordered(*found, _mean(chosen["score"]), _mean(chosen["second_score"]), better, worse)

    def places(self, row: int) -> list[tuple[int, int]]:
        """File and row of a question's answer in each evaluation."""
        prefixes = ("", "second_") if self._is_paired else ("",)
        return [
            (cast(int, self.table[f"{prefix}file"][row].as_py()), cast(int, self.table[f"{prefix}row"][row].as_py()))
            for prefix in prefixes
        ]

    def _keys(self) -> Mapping[str, Any]:
        """What each order sorts by, ascending; equal ones stay in the order of the files."""
        score = self.table["score"]
        if not self._is_paired:
            certainty = pc.fill_null(_least(self.table["mask_scores"]), 2.0)  # no mask comes last
            return {"worst": score, "best": pc.negate(score), "unsure": certainty}
        difference = pc.subtract(self.table["second_score"], score)
        return {
            "gains": pc.negate(difference),
            "losses": difference,
            "apart": pc.negate(pc.abs(difference)),
            "worst": pc.add(self.table["second_score"], score),
        }


def _paired(first: pa.Table, second: pa.Table) -> pa.Table:
    """The first table with file, row and score of the answer to the same question in the second, where there is one."""
    numbered = first.select(list(_PLACE)).append_column("number", pa.array(range(first.num_rows), pa.int64()))
    names = {"file": "second_file", "row": "second_row", "score": "second_score"}
    other = second.select([*_PLACE, *names]).rename_columns([*_PLACE, *names.values()])
    joined = numbered.join(other, list(_PLACE), join_type="inner").sort_by("number")
    table = first.take(joined["number"])
    for name in names.values():
        table = table.append_column(name, joined[name])
    return table.combine_chunks()


def _least(lists: pa.ChunkedArray) -> pa.Array:
    """The least value of each list; null for an empty one."""
    combined = lists.combine_chunks()
    flat = pa.table({"row": pc.list_parent_indices(combined), "value": pc.list_flatten(combined)})
    least = flat.group_by("row").aggregate([("value", "min")])
    places = pc.index_in(pa.array(range(len(combined)), least["row"].type), value_set=least["row"])
    return pc.take(least["value_min"].combine_chunks(), places)


def _mean(column: pa.ChunkedArray) -> float:
    return cast(float, pc.mean(column).as_py() or 0.0)
