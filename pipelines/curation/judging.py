"""What can only be said when all pictures have been looked at: which leak, and which are there twice."""

# pyright: reportUnknownParameterType=false
# (pyarrow has no types: every `pa.Table` in a signature is unknown to the checker)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from pipelines.curation.config import CurationConfig
from pipelines.curation.looks import looks_file
from pipelines.curation.steps.look_alikes import look_alikes
from storage.objects import Objects
from storage.parquet_files import read_table
from storage.schema import Task

__all__ = ["UNMASKED_TASKS", "Verdicts", "judge", "read_looks"]

pc: Any = pyarrow.compute
UNMASKED_TASKS = (Task.CAPTION, Task.UNLABELLED)
"""Tasks without masks: of pictures that look alike, one is enough for them."""
_COLUMNS = ("image_id", "difference_hash", "thumbnail", "names", "uses")
_NO_ID = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Pictures whose training samples go, each with the reason in words."""

    leaking: Mapping[str, str]
    """Evaluation pictures: every training sample goes."""
    duplicates: Mapping[str, str]
    """Pictures of which another one stays: captions and unlabelled samples go."""

    def of(self, image_id: str) -> tuple[str | None, str | None]:
        """Why a picture leaks, and why another one stays in its place; None: it doesn't."""
        return self.leaking.get(image_id), self.duplicates.get(image_id)


@dataclass(frozen=True, slots=True)
class _Looks:
    """Columns of all pictures that could be opened, in order of their ids."""

    image_id: npt.NDArray[Any]
    coco_id: npt.NDArray[np.int64]
    """-1: none."""
    difference_hash: npt.NDArray[np.uint64]
    thumbnail: npt.NDArray[np.uint8]
    """(pictures, cells)."""
    evaluated_by: npt.NDArray[Any]
    """Family and split of a sample that evaluates on it; empty: none does."""
    is_trained: npt.NDArray[np.bool_]
    """Whether a sample trains on it."""
    is_trained_unmasked: npt.NDArray[np.bool_]
    """Whether a sample without masks trains on it."""


def read_looks(shards: Sequence[tuple[Objects, str]], config: CurationConfig) -> _Looks:
    """The pictures of all shards, and what samples do with them.

    Args:
        shards: where the files of each lie, and its name.
        config: tells which splits are trained on.
    """
    looks = pa.concat_tables([read_table(objects, looks_file(name), _COLUMNS) for objects, name in shards])
    looks = looks.take(pc.sort_indices(looks["image_id"])).combine_chunks()
    ids = looks["image_id"]
    place, uses = _flat(looks["uses"])
    trains = pc.is_in(uses.field("split"), value_set=pa.array(config.leakage.training_splits, pa.string())).to_numpy(
        zero_copy_only=False
    )
    unmasked = pc.is_in(uses.field("task"), value_set=pa.array([str(task) for task in UNMASKED_TASKS])).to_numpy(
        zero_copy_only=False
    )
    is_trained, is_unmasked = np.zeros(len(ids), np.bool_), np.zeros(len(ids), np.bool_)
    is_trained[place[trains]] = True
    is_unmasked[place[trains & unmasked]] = True
    sets = pc.binary_join_element_wise(uses.field("family"), uses.field("split"), " ").to_numpy(zero_copy_only=False)
    evaluated_by = np.full(len(ids), "", object)
    names_of = sorted({(int(place[row]), str(sets[row])) for row in np.flatnonzero(~trains)}, reverse=True)
    for row, name in names_of:  # of several the first by name
        evaluated_by[row] = name
    named, names = _flat(looks["names"])
    coco_ids = np.full(len(ids), _NO_ID, np.int64)
    np.minimum.at(coco_ids, named, np.asarray(pc.fill_null(names.field("coco_id"), _NO_ID)))
    cells = looks["thumbnail"].to_pylist()
    return _Looks(
        image_id=np.asarray(ids.to_numpy(zero_copy_only=False)),
        coco_id=np.where(coco_ids == _NO_ID, -1, coco_ids),
        difference_hash=np.asarray(looks["difference_hash"].to_numpy()).view(np.uint64),
        thumbnail=np.frombuffer(b"".join(cells), np.uint8).reshape(len(cells), -1 if cells else 1),
        evaluated_by=evaluated_by,
        is_trained=is_trained,
        is_trained_unmasked=is_unmasked,
    )


def _flat(lists: pa.ChunkedArray) -> tuple[npt.NDArray[np.int64], pa.StructArray]:
    """Elements of a column of lists, each with the row of its list."""
    column = pa.concat_arrays(lists.chunks) if lists.num_chunks else pa.array([], lists.type)
    return np.asarray(pc.list_parent_indices(column)), pc.list_flatten(column)


def judge(looks: _Looks, config: CurationConfig, evaluation_ids: Mapping[str, Sequence[int]]) -> Verdicts:
    """Which pictures leak, and which look like another one that stays.

    Args:
        looks: of all pictures.
        config: the gate and the filters.
        evaluation_ids: COCO ids of further evaluation pictures, by their set.
    """
    leaking = {} if config.leakage.gate == "off" else _leaking(looks, config, evaluation_ids)
    duplicates = _duplicates(looks, config, leaking) if config.filters.near_duplicate_images else {}
    return Verdicts(leaking, duplicates)


def _leaking(looks: _Looks, config: CurationConfig, evaluation_ids: Mapping[str, Sequence[int]]) -> dict[str, str]:
    evaluated = np.flatnonzero(looks.evaluated_by != "")
    found: dict[int, str] = {}
    for row in evaluated[looks.is_trained[evaluated]]:
        found[int(row)] = f"evaluation image of {looks.evaluated_by[row]}"
    set_of = {int(coco_id): name for name in sorted(evaluation_ids, reverse=True) for coco_id in evaluation_ids[name]}
    set_of |= {int(looks.coco_id[row]): str(looks.evaluated_by[row]) for row in evaluated if looks.coco_id[row] >= 0}
    trained = np.flatnonzero(looks.is_trained)
    for row in trained:
        name = set_of.get(int(looks.coco_id[row]))
        if name is not None:
            found.setdefault(int(row), f"COCO id {looks.coco_id[row]} is an evaluation image of {name}")
    others = np.array([row for row in trained if int(row) not in found], np.int64)
    for row, other, bits in _alike(looks, config, others, evaluated):
        found.setdefault(
            row,
            f"looks like {looks.image_id[other][:12]} ({bits} of 64 bits differ), an evaluation image of "
            f"{looks.evaluated_by[other]}",
        )
    return {str(looks.image_id[row]): detail for row, detail in sorted(found.items())}


def _duplicates(looks: _Looks, config: CurationConfig, leaking: Mapping[str, str]) -> dict[str, str]:
    trained = np.flatnonzero(looks.is_trained)
    staying = np.array([row for row in trained if looks.image_id[row] not in leaking], np.int64)
    # Of a group the one with masks stays, or else the first by id: a picture goes if a better one looks like it.
    rank = {int(row): (not _has_masks(looks, int(row)), int(row)) for row in staying}
    found: dict[int, str] = {}
    candidates = staying[looks.is_trained_unmasked[staying]]
    for row, other, bits in _alike(looks, config, candidates, staying):
        if rank[other] < rank[row]:
            found.setdefault(row, f"looks like {looks.image_id[other][:12]} ({bits} of 64 bits differ)")
    return {str(looks.image_id[row]): detail for row, detail in sorted(found.items())}


def _has_masks(looks: _Looks, row: int) -> bool:
    return not looks.is_trained_unmasked[row]


def _alike(
    looks: _Looks, config: CurationConfig, rows: npt.NDArray[np.int64], others: npt.NDArray[np.int64]
) -> list[tuple[int, int, int]]:
    gate = config.leakage
    if gate.max_hash_distance < 0:
        return []
    pairs = look_alikes(
        looks.difference_hash[rows],
        looks.difference_hash[others],
        looks.thumbnail[rows],
        looks.thumbnail[others],
        gate.max_hash_distance,
        gate.max_look_difference,
    )
    found = [(int(rows[row]), int(others[other]), bits) for row, other, bits in pairs]
    return sorted((pair for pair in found if pair[0] != pair[1]), key=lambda pair: (pair[0], pair[2], pair[1]))
