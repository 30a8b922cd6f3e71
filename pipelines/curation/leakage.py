"""The gate between training and evaluation: what it takes for one, and how strict it is.

Training samples on a picture that any set evaluates on are taken out of every family. A picture is an evaluation
picture if its bytes, its COCO id or its looks are those of one.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Literal, cast

from pydantic import Field

from pipelines.curation.records import RecordError
from pipelines.curation.steps.fields import shown
from pipelines.curation.steps.paths import SourceFolder, safe_join
from storage.errors import LeakingCorpus, SourceError
from storage.objects import Objects
from storage.parquet_files import read_table
from storage.recipe import RecipeModel

__all__ = ["LeakageConfig", "check_sealed", "read_evaluation_ids"]


class LeakageConfig(RecipeModel):
    """What may not be trained on."""

    gate: Literal["remove", "refuse", "off"] = "remove"
    """`remove`: training samples on evaluation pictures become rejects. `refuse`: if there are any, nothing is
    published. `off`: they stay, and the first line of the corpus's card says so."""
    training_splits: tuple[str, ...] = ("train",)
    """Splits, after relabelling, that are trained on; samples of all others are for evaluation."""
    evaluation_ids: tuple[str, ...] = ()
    """JSON files below the curation's root with COCO ids of further evaluation pictures: a list of integers, or lists
    by the name of the set."""
    max_hash_distance: int = Field(default=6, ge=-1, le=16)
    """Bits in which the perceptual hashes of two pictures that look alike may differ; -1: looks don't count."""
    max_look_difference: float = Field(default=6.0, ge=0)
    """Largest mean difference of their 16 x 16 grey thumbnails, in grey levels, each less its mean."""


def read_evaluation_ids(root: str, name: str) -> dict[str, list[int]]:
    """COCO ids of evaluation pictures, by the set that has them.

    Raises:
        SourceError: the file is absent, or of another form.
    """
    try:
        content = cast("object", json.loads(SourceFolder(root).read(safe_join("", name))))
    except (RecordError, ValueError) as error:
        raise SourceError(f"{name}: expected a JSON file of COCO ids under {root} ({error})") from None
    sets = cast("dict[str, object]", content) if isinstance(content, dict) else {name: content}
    return {key: list(_ids(name, value)) for key, value in sets.items()}


def check_sealed(
    output: Objects, files: Iterable[str], training_splits: Collection[str], evaluation_ids: Mapping[str, Sequence[int]]
) -> None:
    """Looks once more, at the files that are about to be published, for training samples on evaluation pictures.

    Args:
        output: the corpus's prefix.
        files: its Parquet files.
        training_splits: splits that are trained on.
        evaluation_ids: COCO ids of further evaluation pictures.

    Raises:
        LeakingCorpus: there is one, by its bytes or its COCO id.
    """
    trained: set[str] = set()
    evaluated: set[str] = set()
    coco_ids: dict[str, int] = {}
    for path in files:
        if path.startswith("samples/"):
            for row in _columns(output, path, ["image_id", "split"]):
                (trained if row["split"] in training_splits else evaluated).add(cast(str, row["image_id"]))
        elif path.startswith("images/"):
            rows = _columns(output, path, ["image_id", "coco_id"])
            coco_ids |= {cast(str, row["image_id"]): cast(int, row["coco_id"]) for row in rows if row["coco_id"]}
    held = {coco_ids[image_id] for image_id in evaluated if image_id in coco_ids}
    held.update(coco_id for ids in evaluation_ids.values() for coco_id in ids)
    leaking = (trained & evaluated) | {image_id for image_id in trained if coco_ids.get(image_id) in held}
    leaking.discard(cast(str, None))
    if leaking:
        raise LeakingCorpus(
            f"{output.url}: {len(leaking)} pictures are trained on and evaluated on, such as {min(leaking)[:12]}; "
            "the corpus isn't published. Delete it and run curate again"
        )


def _columns(output: Objects, path: str, names: list[str]) -> list[Mapping[str, object]]:
    return cast("list[Mapping[str, object]]", read_table(output, path, names).to_pylist())


def _ids(name: str, value: object) -> Iterator[int]:
    if not isinstance(value, list):
        raise SourceError(f"{name}: expected a list of COCO ids, or such lists by name, got {shown(value)}")
    for item in cast("list[object]", value):
        if isinstance(item, bool) or not isinstance(item, int):
            raise SourceError(f"{name}: expected COCO ids as integers, got {shown(item)}")
        yield item
