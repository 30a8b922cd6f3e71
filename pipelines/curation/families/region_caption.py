"""Region captions of RefCOCOg: a COCO caption file each of whose `images` is one region of a picture.

`annotations` hold the captions; several of one `image_id` are reference captions of the same region. The schema
knows one answer per turn, so each caption is a record of its own, with the same image and prompt: the part of its
locator before the slash (`image_id=5/annotation_id=7`) says which captions belong together, and an answer is scored
against all of them.

The region is the `segmentation` of its annotations or of its image entry; where there is none it is the `bbox`, and
the prompt is that box: no mask is invented for it. An entry that states two regions is ambiguous, and rejected.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import ClassVar, Literal

from pipelines.curation.families.base import Published, Source, draft_or_reject, rejected
from pipelines.curation.records import Draft, DraftRegion, RecordError, SourceImage
from pipelines.curation.steps.coco import checked_segmentation, source_image
from pipelines.curation.steps.coco_groups import ImageGroup, image_groups
from pipelines.curation.steps.fields import numbers, string
from pipelines.curation.steps.source_files import SourceFiles
from pipelines.curation.steps.texts import region_token, required_text, single_line
from storage.schema import PromptKind, Reject, RejectReason, Task, Turn, VisualPrompt

__all__ = ["RegionCaptionSource"]

_FAMILY = "region_caption"


class RegionCaptionSource(Source):
    """A COCO file of captions of regions."""

    published: ClassVar[Published] = Published(
        url="https://github.com/mbzuai-oryx/groundingLMM",
    )

    kind: Literal["region_caption"] = "region_caption"
    """The family's module."""
    annotations: str = "region_caption/finetune_refcocog_val_captions.json"
    """The JSON file, under the root."""
    split: str = "val"
    """Split of all its records; the format has none."""

    def source_files(self) -> tuple[str, ...]:
        """The JSON file."""
        return (self.annotations,)

    def records(self, files: SourceFiles) -> Iterator[Draft | Reject]:
        """One record per caption, and one per region that has none."""
        for group in image_groups(files, self.annotations):
            if isinstance(group, ImageGroup):
                yield from self._captions(group)
            else:
                locator, error = group
                yield rejected(_FAMILY, self.annotations, locator, error)

    def _captions(self, group: ImageGroup) -> Iterator[Draft | Reject]:
        if not group.annotations:
            error = RecordError(RejectReason.ANNOTATION_MISSING, "annotations: expected a caption of it, got none")
            yield rejected(_FAMILY, self.annotations, group.locator, error)
            return
        locators = [f"{group.locator}/{where}" for where, _ in group.annotations]
        try:
            image = source_image(group.image, self.images)
            region, prompt = _pointed_at([group.image, *(annotation for _, annotation in group.annotations)])
        except RecordError as error:
            for locator in locators:
                yield rejected(_FAMILY, self.annotations, locator, error)
            return
        for locator, (_, annotation) in zip(locators, group.annotations, strict=True):
            build = partial(self._draft, locator, annotation, image, region, prompt)
            yield draft_or_reject(_FAMILY, self.annotations, locator, build)

    def _draft(
        self,
        locator: str,
        annotation: dict[str, object],
        image: SourceImage,
        region: DraftRegion | None,
        prompt: VisualPrompt,
    ) -> Draft:
        caption = single_line(string(annotation, "caption"))
        return Draft(
            family=_FAMILY,
            task=Task.DESCRIPTION,
            split=self.split_name(self.split),
            image=image,
            regions=() if region is None else (region,),
            prompts=(prompt,),
            turns=(Turn(text=region_token(1), answer=required_text(caption, "caption")),),
            source_file=self.annotations,
            locator=locator,
        )


def _pointed_at(rows: list[dict[str, object]]) -> tuple[DraftRegion | None, VisualPrompt]:
    """The one region that the rows of an entry state, and the prompt that points at it."""
    masks = _stated(rows, "segmentation")
    if len(masks) == 1:
        region = DraftRegion(segmentation=checked_segmentation(masks[0]["segmentation"]))
        return region, VisualPrompt(kind=PromptKind.MASK, region=0)
    boxes = _stated(rows, "bbox")
    if masks or len(boxes) != 1:
        key, found = ("segmentation", masks) if masks else ("bbox", boxes)
        reason = RejectReason.FIELD_INVALID if found else RejectReason.ANNOTATION_MISSING
        raise RecordError(reason, f"{key}: expected one region per image entry, got {len(found)}")
    x, y, width, height = numbers(boxes[0], "bbox", 4)
    return None, VisualPrompt(kind=PromptKind.BOX, box_xyxy_px=(x, y, x + width, y + height))


def _stated(rows: list[dict[str, object]], key: str) -> list[dict[str, object]]:
    """Rows that state something under `key`, one of each value."""
    found: list[dict[str, object]] = []
    for row in rows:
        if row.get(key) and all(row[key] != other[key] for other in found):
            found.append(row)
    return found
