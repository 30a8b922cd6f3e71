"""PerBench: regions described in detail, multiple-choice questions on a region, and expressions that name regions.

Three files, each a list of rows with `image_name`; masks are RLE.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import ClassVar, Literal

from pipelines.curation.families.base import Published, Source, draft_or_reject
from pipelines.curation.families.object_captions import OBJECT_PROMPT, image_of, item_records, object_captions
from pipelines.curation.records import Draft, DraftRegion, RecordError
from pipelines.curation.steps.coco import checked_segmentation
from pipelines.curation.steps.fields import mapping, shown, string
from pipelines.curation.steps.source_files import SourceFiles
from pipelines.curation.steps.texts import (
    SEG,
    normalise_placeholders,
    region_numbers,
    region_token,
    required_text,
    single_line,
)
from storage.schema import PromptKind, Reject, RejectReason, Task, Turn, VisualPrompt

__all__ = ["PerBenchSource"]

_FAMILY = "perbench"
_OPTION = re.compile(r"(?:^|(?<=\s))\(?([A-H])[.):]\s+")


class PerBenchSource(Source):
    """The three files of PerBench, or some of them."""

    published: ClassVar[Published] = Published(url="https://arxiv.org/abs/2504.10465")

    kind: Literal["perbench"] = "perbench"
    """The family's module."""
    detailed_caption: str | None = "perbench/val/detailed_caption.json"
    """File of regions with captions, under the root; null: none."""
    mcq: str | None = "perbench/val/mcq.json"
    """File of multiple-choice questions, under the root; null: none."""
    visual_text_res: str | None = "perbench/val/visual_text_res.json"
    """File of expressions that name regions, under the root; null: none."""
    split: str = "val"
    """Split of all its records; the format has none."""

    def source_files(self) -> tuple[str, ...]:
        """Those of the three files that are named."""
        return tuple(name for name in (self.detailed_caption, self.mcq, self.visual_text_res) if name is not None)

    def parts(self) -> tuple[Source, ...]:
        """One for each file."""
        fields = ("detailed_caption", "mcq", "visual_text_res")
        return tuple(
            self.model_copy(update={other: None for other in fields if other != field})
            for field in fields
            if getattr(self, field) is not None
        )

    def records(self, files: SourceFiles) -> Iterator[Draft | Reject]:
        """One record per caption, question and expression."""
        if self.detailed_caption is not None:
            yield from object_captions(self, _FAMILY, self.split, files, self.detailed_caption)
        if self.mcq is not None:
            yield from item_records(_FAMILY, files, self.mcq, "mcqs", partial(self._question, self.mcq))
        if self.visual_text_res is not None:
            name = self.visual_text_res
            for row, value in enumerate(files.rows(name)):
                locator = f"row={row}"
                yield draft_or_reject(_FAMILY, name, locator, partial(self._expression, name, locator, value))

    def _question(self, name: str, locator: str, record: dict[str, object], item: object) -> Draft:
        fields = mapping(item, "mcq")
        stem, options = split_options(string(fields, "question"))
        stem = normalise_placeholders(stem)
        if not region_numbers(stem):  # the question is about the one object of the record
            stem = f"{region_token(1)} {stem}"
        answer = single_line(string(fields, "answer"))
        turn = Turn(text=required_text(stem, "question"), answer=required_text(answer, "answer"), options=options)
        region = DraftRegion(segmentation=checked_segmentation(fields.get("object")))
        return self._draft(name, locator, Task.MULTIPLE_CHOICE, record, (region,), OBJECT_PROMPT, turn)

    def _expression(self, name: str, locator: str, value: object) -> Draft:
        record = mapping(value, "record")
        question, answer = single_line(string(record, "question")), single_line(string(record, "answer"))
        masks = mapping(record.get("segmentations"), "segmentations")
        prompts, targets = _tags_by_side(masks, question, answer)
        numbers = {tag: region_token(place) for place, tag in enumerate(prompts, start=1)}
        regions = tuple(
            DraftRegion(segmentation=checked_segmentation(masks[tag]), source_id=tag) for tag in (*prompts, *targets)
        )
        places = {tag: place for place, tag in enumerate((*prompts, *targets))}
        named = _tags_in(answer, targets)
        turn = Turn(
            text=required_text(_replace_tags(question, numbers), "question"),
            answer=_replace_tags(answer, numbers | dict.fromkeys(targets, SEG)),
            targets=tuple((places[tag],) for tag in named),
        )
        visual_prompts = tuple(VisualPrompt(kind=PromptKind.MASK, region=place) for place in range(len(prompts)))
        return self._draft(name, locator, Task.VISUAL_TEXT_REFERRING, record, regions, visual_prompts, turn)

    def _draft(
        self,
        name: str,
        locator: str,
        task: Task,
        record: dict[str, object],
        regions: tuple[DraftRegion, ...],
        prompts: tuple[VisualPrompt, ...],
        turn: Turn,
    ) -> Draft:
        return Draft(
            family=_FAMILY,
            task=task,
            split=self.split_name(self.split),
            image=image_of(record, self),
            regions=regions,
            prompts=prompts,
            turns=(turn,),
            source_file=name,
            locator=locator,
        )


def split_options(question: str) -> tuple[str, tuple[str, ...]]:
    """A multiple-choice question as its stem and its options.

    Options are lettered from A on; a question without such letters is all stem.

    >>> split_options("What colour is <region1>? A. red B. dark blue")
    ('What colour is <region1>?', ('red', 'dark blue'))
    """
    text = single_line(question)
    found = list(_OPTION.finditer(text))
    letters = [match[1] for match in found]
    if len(found) < 2 or letters != [chr(ord("A") + place) for place in range(len(found))]:
        return text, ()
    ends = [match.start() for match in found[1:]] + [len(text)]
    options = tuple(text[match.end() : end].strip(" ,;") for match, end in zip(found, ends, strict=True))
    return (text[: found[0].start()].strip(), options) if all(options) else (text, ())


def _tags_by_side(masks: dict[str, object], question: str, answer: str) -> tuple[list[str], list[str]]:
    """Tags that are visual prompts (in the question) and those that are ground truth (in the answer only)."""
    for tag in masks:
        if not isinstance(tag, str) or not tag.strip():
            raise RecordError(RejectReason.FIELD_INVALID, f"segmentations: expected tags as text, got {shown(tag)}")
    prompts = list(dict.fromkeys(_tags_in(question, list(masks))))
    targets = [tag for tag in dict.fromkeys(_tags_in(answer, list(masks))) if tag not in prompts]
    lost = [tag for tag in masks if tag not in prompts and tag not in targets]
    if lost:
        raise RecordError(
            RejectReason.PLACEHOLDER_MISMATCH,
            f"segmentations: {shown(lost[0])} stands neither in the question nor in the answer",
        )
    return prompts, targets


def _pattern(tags: list[str]) -> re.Pattern[str]:
    """Any of the tags as a whole: the longest first, never inside a word or a longer number."""
    words = "|".join(re.escape(tag) for tag in sorted(tags, key=lambda tag: (-len(tag), tag)))
    return re.compile(rf"(?<!\w)(?:{words})(?!\w)" if words else r"(?!)")


def _tags_in(text: str, tags: list[str]) -> list[str]:
    return _pattern(tags).findall(text)


def _replace_tags(text: str, by: dict[str, str]) -> str:
    return _pattern(list(by)).sub(lambda found: by[found[0]], text)
