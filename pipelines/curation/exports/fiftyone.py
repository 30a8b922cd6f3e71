"""Export for FiftyOne, without the library and its database: a folder per split that it imports as it stands.

    <split>/labels.json                     COCO's JSON, masks as compressed RLE
    <split>/data/<shard>/<image id>.jpg     the pictures; `file_name` is the path below `data/`

FiftyOne calls the layout `COCODetectionDataset` (docs.voxel51.com, "Importing datasets"). Further fields of an
annotation become attributes of its label; lists of texts among them can be filtered by.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias, cast

from pipelines.curation.exports.chosen import Chosen, ExportCounts
from pipelines.curation.exports.coco import export_coco_as
from pipelines.curation.naming import file_word
from pipelines.progress import Progress
from storage.keys import Json

__all__ = ["export_fiftyone"]

_Entry: TypeAlias = dict[str, Json]

_LAYOUT = """\
```python
import fiftyone as fo

dataset = fo.Dataset.from_dir(
    dataset_dir="path/of/this/folder/val",
    dataset_type=fo.types.COCODetectionDataset,
    label_types="segmentations",
    label_field="ground_truth",
)
dataset.add_dynamic_sample_fields()
```

Each label is a region with its mask: `label` is its category, `expressions` are the texts that mean it, `pointed_at`
those that point at it, `families` and `tasks` where they come from. What means no mask (captions, expressions without
target) stands under its image in `labels.json`, where FiftyOne passes it over; so it does pictures that lie
elsewhere."""


class _FiftyOne:
    """A folder for each split, with texts as lists of words."""

    about = _LAYOUT

    def labels(self, folder: Path, split: str) -> Path:
        return folder / file_word(split) / "labels.json"

    def pictures(self, folder: Path, split: str) -> Path:
        return folder / file_word(split) / "data"

    def annotation(self, entry: _Entry) -> _Entry:
        said = cast("list[Mapping[str, str]]", entry["expressions"])
        by_role = {role: [one["text"] for one in said if one["role"] == role] for role in ("target", "prompt")}
        return {
            **entry,
            "expressions": _distinct(by_role["target"]),
            "pointed_at": _distinct(by_role["prompt"]),
            "families": _distinct(one["family"] for one in said),
            "tasks": _distinct(one["task"] for one in said),
        }


def export_fiftyone(chosen: Chosen, folder: Path, progress: Progress) -> ExportCounts:
    """Writes the export into an empty folder; arguments and errors as of `export_coco_as`."""
    return export_coco_as(_FiftyOne(), chosen, folder, progress)


def _distinct(texts: Iterable[str]) -> list[Json]:
    """Each text once, in order."""
    return list(dict.fromkeys(texts))
