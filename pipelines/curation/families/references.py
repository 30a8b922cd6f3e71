"""References: what RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO have in common.

A reference names an image and annotations, and holds several sentences; each sentence is one
record. Its own `file_name` is no image file: the image is the one that the COCO file lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import cast

from pipelines.curation.families.base import Source, draft_or_reject, rejected
from pipelines.curation.records import Draft, DraftRegion, RecordError, SourceImage
from pipelines.curation.steps.coco import CocoIndex
from pipelines.curation.steps.fields import integer, mapping, sequence, string
from pipelines.curation.steps.source_files import SourceFiles
from pipelines.curation.steps.texts import expression
from storage.schema import Reject, RejectReason, Task, Turn

__all__ = ["TargetsOf", "referring_records"]

TargetsOf = Callable[[dict[str, object], int, CocoIndex], tuple[DraftRegion, ...]]
"""Gives the regions that a reference on the image of that id means; raises RecordError."""


def referring_records(
    source: Source, family: str, files: SourceFiles, source_file: str, instances_file: str, targets_of: TargetsOf
) -> Iterator[Draft | Reject]:
    """One record per sentence, and one per reference that has none or can't be read.

    Args:
        source: knows the folder of the images and the names of splits.
        family: of the samples.
        files: of the source.
        source_file: the file of references; read twice, so that of the annotations only those are kept that it names.
        instances_file: the COCO file that they refer to.
        targets_of: how this family finds the regions of a reference.
    """
    index = CocoIndex(files, instances_file, annotations=_annotation_ids(files.rows(source_file)))
    for row, value in enumerate(files.rows(source_file)):
        locator = f"row={row}"
        try:
            ref = mapping(value, "reference")
            locator = f"ref_id={integer(ref, 'ref_id')}"
            sentences = sequence(ref, "sentences")
            if not sentences:
                raise RecordError(RejectReason.TEXT_EMPTY, "sentences: expected at least one, got none")
        except RecordError as error:
            yield rejected(family, source_file, locator, error)
            continue
        try:
            split, image, regions = _facts(source, ref, index, targets_of)
        except RecordError as error:
            for place, sentence in enumerate(sentences):
                yield rejected(family, source_file, _sentence_locator(locator, place, sentence), error)
            continue
        for place, sentence in enumerate(sentences):
            yield _sentence_draft(
                family, source_file, _sentence_locator(locator, place, sentence), sentence, split, image, regions
            )


def _annotation_ids(refs: Iterator[object]) -> set[int]:
    """Ids of all annotations that references name, whatever else is wrong with them."""
    found: set[int] = set()
    for ref in refs:
        named = cast("dict[str, object]", ref).get("ann_id") if isinstance(ref, dict) else None
        ids = cast("list[object]", named) if isinstance(named, list | tuple) else [named]
        found.update(value for value in ids if isinstance(value, int))
    return found


def _facts(
    source: Source, ref: dict[str, object], index: CocoIndex, targets_of: TargetsOf
) -> tuple[str, SourceImage, tuple[DraftRegion, ...]]:
    split = source.split_name(string(ref, "split"))
    if not split:
        raise RecordError(RejectReason.FIELD_INVALID, "split: expected a name, got ''")
    image_id = integer(ref, "image_id")
    image = index.image(image_id, source.images)
    return split, image, targets_of(ref, image_id, index)


def _sentence_locator(locator: str, place: int, sentence: object) -> str:
    number = sentence.get("sent_id") if isinstance(sentence, Mapping) else None
    if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 2**53:
        return f"{locator}/sent_id={number}"
    return f"{locator}/sentences[{place}]"


def _sentence_draft(
    family: str,
    source_file: str,
    locator: str,
    sentence: object,
    split: str,
    image: SourceImage,
    regions: tuple[DraftRegion, ...],
) -> Draft | Reject:
    def build() -> Draft:
        row = mapping(sentence, "sentence")
        integer(row, "sent_id")
        # `raw` is what the released loaders train on; where a publisher left it out, `sent` is the same less case.
        text = expression(string(row, "raw" if "raw" in row else "sent"))
        return Draft(
            family=family,
            task=Task.REFERRING,
            split=split,
            image=image,
            regions=regions,
            turns=(Turn(text=text, targets=(tuple(range(len(regions))),)),),
            source_file=source_file,
            locator=locator,
        )

    return draft_or_reject(family, source_file, locator, build)
