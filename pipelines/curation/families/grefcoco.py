"""gRefCOCO: references to no, one or several annotations; `[-1]` stands for no target."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pipelines.curation.families.base import Published, Source
from pipelines.curation.families.references import referring_records
from pipelines.curation.records import Draft, DraftRegion, RecordError
from pipelines.curation.steps.coco import CocoIndex
from pipelines.curation.steps.fields import integer, sequence, shown
from pipelines.curation.steps.source_files import SourceFiles
from storage.schema import Reject, RejectReason

__all__ = ["GRefCocoSource"]

_FAMILY = "grefcoco"


class GRefCocoSource(Source):
    """gRefCOCO in the layout of its publishers: `grefs(unc).json` and `instances.json`."""

    published: ClassVar[Published] = Published(
        url="https://github.com/henghuiding/gRefCOCO",
        size="278,232 expressions on 19,994 pictures",
    )

    kind: Literal["grefcoco"] = "grefcoco"
    """The family's module."""
    folder: str = "grefcoco"
    """Folder of both files under the root."""

    @property
    def refs_file(self) -> str:
        """The file with the references."""
        return f"{self.folder}/grefs(unc).json"

    @property
    def instances_file(self) -> str:
        """The COCO file with their annotations."""
        return f"{self.folder}/instances.json"

    def source_files(self) -> tuple[str, ...]:
        """The references and the annotations."""
        return self.refs_file, self.instances_file

    def records(self, files: SourceFiles) -> Iterator[Draft | Reject]:
        """One record per sentence; its target is the union of all annotations that are named."""
        yield from referring_records(self, _FAMILY, files, self.refs_file, self.instances_file, _targets)


def _targets(ref: dict[str, object], image_id: int, index: CocoIndex) -> tuple[DraftRegion, ...]:
    ids = sequence(ref, "ann_id")
    no_target = ref.get("no_target", ids == [-1])
    if not isinstance(no_target, bool) or no_target != (ids == [-1]) or not ids:
        raise RecordError(
            RejectReason.FIELD_INVALID,
            f"ann_id: expected [-1] if and only if no_target, got {len(ids)} ids and no_target {shown(no_target)}",
        )
    if no_target:
        return ()
    targets = tuple(index.annotation(integer({"ann_id": value}, "ann_id"), image_id) for value in ids)
    if len(set(map(str, ids))) != len(ids):
        raise RecordError(RejectReason.FIELD_INVALID, f"ann_id: expected each annotation once, got {shown(ids)}")
    return targets
