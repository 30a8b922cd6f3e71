"""Grounded conversation generation: captions of whole pictures, with a mask for each phrase that the source grounds.

Four data sets, of three formats (see `gcg_formats`). A caption is one record. Where a single phrase can't be had
(its words don't stand in the caption, its span or its masks are damaged, it overlaps another one, the source says
to ignore it) the caption is still true without that mask, as captions are whose phrases the source leaves
ungrounded: the phrase stays plain text, and is a reject of its own, so that what is lost is counted. A caption
without any mask is a reject too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import ClassVar, Literal, cast

from pydantic import model_validator

from pipelines.curation.families.base import Published, Source, draft_or_reject, rejected
from pipelines.curation.families.gcg_formats import CaptionRecord, flickr_captions, refcocog_captions, span_captions
from pipelines.curation.records import Draft, RecordError
from pipelines.curation.steps.grounding import GroundedText, ground
from pipelines.curation.steps.source_files import SourceFiles
from storage.schema import Reject, RejectReason, Task, Turn

__all__ = ["GcgSource"]

_READERS = {
    "refcocog": refcocog_captions,
    "grandf": span_captions,
    "openpsg": span_captions,
    "flickr": flickr_captions,
}
_PUBLISHED = {
    "refcocog": {"annotations": "gcg/RefCOCOg_GCG_train.json", "images": "images/train2014"},
    "grandf": {"annotations": "gcg/GranDf_HA_GCG_train.json", "images": "images/grandf"},
    "openpsg": {"annotations": "gcg/OpenPsgGCG_train.json", "images": "images/coco2017"},
    "flickr": {"annotations": "gcg/flickr_mergedGT_GCG_train.json", "images": "images/flickr30k"},
}


class GcgSource(Source):
    """One data set of grounded captions."""

    published: ClassVar[Published] = Published(
        url="https://github.com/mbzuai-oryx/groundingLMM",
        size="some 214,000 captions in four files",
    )

    kind: Literal["gcg"] = "gcg"
    """The family's module."""
    dataset: Literal["refcocog", "grandf", "openpsg", "flickr"] = "refcocog"
    """Which of the four: the format of its file, and the `family` of its samples (`gcg_grandf`)."""
    annotations: str = _PUBLISHED["refcocog"]["annotations"]
    """The JSON file, under the root; left out: the published name of the data set, in the folder `gcg`."""
    images: str = _PUBLISHED["refcocog"]["images"]
    """Folder of the images under `image_root`; left out: `images/train2014`, `grandf`, `coco2017` or `flickr30k`."""
    split: str = "train"
    """Split of all its records; the format has none."""

    @model_validator(mode="before")
    @classmethod
    def _published_names(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        given = cast("Mapping[str, object]", value)
        return {**_PUBLISHED.get(str(given.get("dataset", "refcocog")), {}), **given}

    @property
    def family(self) -> str:
        """The family of its samples."""
        return f"gcg_{self.dataset}"

    def source_files(self) -> tuple[str, ...]:
        """The JSON file."""
        return (self.annotations,)

    def records(self, files: SourceFiles) -> Iterator[Draft | Reject]:
        """One record per caption, and one per phrase that its caption goes without."""
        for found in _READERS[self.dataset](files, self.annotations, self.images):
            if isinstance(found, CaptionRecord):
                yield from self._caption(found)
            else:
                locator, error = found
                yield rejected(self.family, self.annotations, locator, error)

    def _caption(self, record: CaptionRecord) -> Iterator[Draft | Reject]:
        try:
            text, refused = ground(record.caption, record.phrases)
        except RecordError as error:
            yield rejected(self.family, self.annotations, record.locator, error)
            return
        for where, error in [*record.refused, *refused]:
            yield rejected(self.family, self.annotations, f"{record.locator}/{where}", error)
        yield draft_or_reject(self.family, self.annotations, record.locator, partial(self._draft, record, text))

    def _draft(self, record: CaptionRecord, text: GroundedText) -> Draft:
        if not text.targets:
            raise RecordError(RejectReason.ANNOTATION_MISSING, "caption: expected a phrase with a mask, got none")
        return Draft(
            family=self.family,
            task=Task.GROUNDED_CAPTION,
            split=self.split_name(self.split),
            image=record.image,
            regions=text.regions,
            turns=(Turn(text="", answer=text.text, targets=text.targets),),
            source_file=self.annotations,
            locator=record.locator,
        )
