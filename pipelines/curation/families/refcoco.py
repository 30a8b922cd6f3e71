"""RefCOCO, RefCOCO+, RefCOCOg: a pickled list of references, joined with a COCO file by `ann_id`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal, Self

from pydantic import model_validator

from pipelines.curation.families.base import Published, Source
from pipelines.curation.families.references import referring_records
from pipelines.curation.records import Draft, DraftRegion
from pipelines.curation.steps.coco import CocoIndex
from pipelines.curation.steps.fields import integer
from pipelines.curation.steps.source_files import SourceFiles
from storage.schema import Reject

__all__ = ["RefCocoSource"]


class RefCocoSource(Source):
    """One dataset of the RefCOCO family, in the layout of its publishers.

    Files: `<dataset>/refs(<split_by>).p` and `<dataset>/instances.json`.
    """

    published: ClassVar[Published] = Published(
        url="https://github.com/lichengunc/refer",
        size="142,209 expressions on 19,994 pictures; RefCOCO+ 141,564 on 19,992; RefCOCOg (umd) 95,010 on 25,799",
    )

    kind: Literal["refcoco"] = "refcoco"
    """The family's module."""
    dataset: Literal["refcoco", "refcoco+", "refcocog"] = "refcoco"
    """Which of the three: the folder of its files, and the `family` of its samples."""
    split_by: Literal["unc", "umd", "google"] | None = None
    """Who split it; null: unc for RefCOCO and RefCOCO+, umd for RefCOCOg."""

    @model_validator(mode="after")
    def _published_split(self) -> Self:
        published = ("umd", "google") if self.dataset == "refcocog" else ("unc", "google")
        if self.split_by is not None and self.split_by not in published:
            raise ValueError(f"split_by: {self.dataset} was split by {' and '.join(published)}, not by {self.split_by}")
        return self

    @property
    def refs_file(self) -> str:
        """The file with the references."""
        return f"{self.dataset}/refs({self.split_by or ('umd' if self.dataset == 'refcocog' else 'unc')}).p"

    @property
    def instances_file(self) -> str:
        """The COCO file with their annotations."""
        return f"{self.dataset}/instances.json"

    def source_files(self) -> tuple[str, ...]:
        """The references and the annotations."""
        return self.refs_file, self.instances_file

    def records(self, files: SourceFiles) -> Iterator[Draft | Reject]:
        """One record per sentence; its target is one annotation."""
        yield from referring_records(self, self.dataset, files, self.refs_file, self.instances_file, _target)


def _target(ref: dict[str, object], image_id: int, index: CocoIndex) -> tuple[DraftRegion, ...]:
    if "category_id" in ref:
        index.category(integer(ref, "category_id"))
    return (index.annotation(integer(ref, "ann_id"), image_id),)
