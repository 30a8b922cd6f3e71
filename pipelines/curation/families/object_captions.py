"""Rows of a picture and its objects, as PerBench and the SAM captions list them: `{image_name, object_annotations}`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from pipelines.curation.families.base import Source, draft_or_reject, rejected
from pipelines.curation.records import Draft, DraftRegion, RecordError, SourceImage
from pipelines.curation.steps.coco import checked_segmentation
from pipelines.curation.steps.fields import mapping, sequence, string
from pipelines.curation.steps.images import coco_id_of
from pipelines.curation.steps.paths import safe_join
from pipelines.curation.steps.source_files import SourceFiles
from pipelines.curation.steps.texts import region_token, required_text, single_line
from storage.schema import PromptKind, Reject, RejectReason, Task, Turn, VisualPrompt

__all__ = ["OBJECT_PROMPT", "BuildItem", "image_of", "item_records", "object_captions"]

OBJECT_PROMPT = (VisualPrompt(kind=PromptKind.MASK, region=0),)
"""Points at the one region of a record."""
BuildItem = Callable[[str, dict[str, object], object], Draft]
"""Makes the draft of a locator, a row and one entry of its list; raises RecordError."""


def item_records(family: str, files: SourceFiles, name: str, key: str, build: BuildItem) -> Iterator[Draft | Reject]:
    """One record per entry of each row's list `key`, and one per row whose list can't be read or is empty."""
    for row, value in enumerate(files.rows(name)):
        locator = f"row={row}"
        try:
            record = mapping(value, "record")
            items = sequence(record, key)
            if not items:
                raise RecordError(RejectReason.ANNOTATION_MISSING, f"{key}: expected at least one, got none")
        except RecordError as error:
            yield rejected(family, name, locator, error)
            continue
        for place, item in enumerate(items):
            where = f"{locator}/{key}[{place}]"
            yield draft_or_reject(family, name, where, partial(build, where, record, item))


def object_captions(
    source: Source, family: str, split: str, files: SourceFiles, name: str, clean: Callable[[str], str] = single_line
) -> Iterator[Draft | Reject]:
    """A DESCRIPTION per object: the prompt is its mask, the answer its caption.

    Args:
        source: knows the folder of the images and the names of splits.
        family: of the samples.
        split: the source's word for the split of the file.
        files: of the source.
        name: the file.
        clean: brings a caption into the family's normal form; the result needn't have words.
    """

    def build(locator: str, record: dict[str, object], item: object) -> Draft:
        fields = mapping(item, "object")
        caption = string(fields, "caption")
        answer = required_text(clean(caption), "caption", caption)
        return Draft(
            family=family,
            task=Task.DESCRIPTION,
            split=source.split_name(split),
            image=image_of(record, source),
            regions=(DraftRegion(segmentation=checked_segmentation(fields.get("segmentation"))),),
            prompts=OBJECT_PROMPT,
            turns=(Turn(text=region_token(1), answer=answer),),
            source_file=name,
            locator=locator,
        )

    yield from item_records(family, files, name, "object_annotations", build)


def image_of(record: dict[str, object], source: Source) -> SourceImage:
    """The image of a row's `image_name`."""
    image_name = string(record, "image_name")
    return SourceImage(path=safe_join(source.images, image_name), coco_id=coco_id_of(image_name))
