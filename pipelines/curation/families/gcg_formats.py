"""The three formats of grounded captions, each as captions with phrases.

- RefCOCOg: a list of `{id: {refs, img_file_name, caption}}`. The caption is wrapped in double quotes; its phrases
  are the sentences of `refs`, found by their words. A sentence that the caption words otherwise is refused.
- GranDf and OpenPsg: a list of rows whose `groundings` give each phrase the span of its characters and its masks,
  or null where it is not grounded. A span that holds other words than its phrase is refused.
- Flickr: a COCO file, whose images have captions, and whose annotations have a mask and the spans that mention it;
  each span is a mention with the mask of its own. Captions of less than three words are filtered out, and so are
  annotations that the source says to ignore, or whose box holds no whole pixel: their masks were made from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import cast

from pipelines.curation.records import DraftRegion, RecordError, SourceImage
from pipelines.curation.steps.coco import checked_segmentation, source_image
from pipelines.curation.steps.coco_groups import ImageGroup, image_groups
from pipelines.curation.steps.fields import integer, mapping, numbers, optional_integer, sequence, shown, string
from pipelines.curation.steps.grounding import Phrase, RefusedPhrase, find_phrases, without_quotes
from pipelines.curation.steps.images import coco_id_of
from pipelines.curation.steps.paths import safe_join
from pipelines.curation.steps.source_files import SourceFiles
from pipelines.curation.steps.texts import required_text, single_line
from storage.schema import RejectReason

__all__ = ["CaptionRecord", "flickr_captions", "refcocog_captions", "span_captions"]

_LEAST_WORDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionRecord:
    """A caption, its phrases, and those that can't be used."""

    locator: str
    caption: str
    """As the spans of phrases count it."""
    image: SourceImage
    phrases: tuple[Phrase, ...]
    refused: tuple[RefusedPhrase, ...]


FoundCaption = CaptionRecord | tuple[str, RecordError]
"""A caption, or the locator of a row that gives none and why."""


def refcocog_captions(files: SourceFiles, name: str, images: str) -> Iterator[FoundCaption]:
    """Captions of RefCOCOg; see the module.

    Args:
        files: of the source.
        name: the JSON file.
        images: folder of the images.
    """
    yield from _rows(files, name, partial(_refcocog, images=images))


def span_captions(files: SourceFiles, name: str, images: str) -> Iterator[FoundCaption]:
    """Captions of GranDf and OpenPsg; arguments as of `refcocog_captions`."""
    yield from _rows(files, name, partial(_spans, images=images))


def flickr_captions(files: SourceFiles, name: str, images: str) -> Iterator[FoundCaption]:
    """Captions of Flickr; arguments as of `refcocog_captions`."""
    for group in image_groups(files, name):
        if isinstance(group, ImageGroup):
            try:
                yield _flickr(group, images)
            except RecordError as error:
                yield group.locator, error
        else:
            yield group


def _rows(
    files: SourceFiles, name: str, read: Callable[[str, dict[str, object]], CaptionRecord]
) -> Iterator[FoundCaption]:
    for row, value in enumerate(files.rows(name)):
        locator = f"row={row}"
        try:
            yield read(locator, mapping(value, "record"))
        except RecordError as error:
            yield locator, error


def _refcocog(locator: str, record: dict[str, object], images: str) -> CaptionRecord:
    if len(record) != 1:
        raise RecordError(RejectReason.FIELD_INVALID, f"record: expected one id, got {len(record)} keys")
    (fields,) = (mapping(value, "record") for value in record.values())
    file_name = string(fields, "img_file_name")
    caption = without_quotes(string(fields, "caption"))
    phrases: list[Phrase] = []
    refused: list[RefusedPhrase] = []
    sentences: list[tuple[str, str, DraftRegion]] = []
    for place, value in enumerate(sequence(fields, "refs")):
        try:
            sentences.append((f"refs[{place}]", *_reference(value, place)))
        except RecordError as error:
            refused.append((f"refs[{place}]", error))
    spans = find_phrases(caption, [sentence for _, sentence, _ in sentences])
    for (where, sentence, region), span in zip(sentences, spans, strict=True):
        if span is not None:
            phrases.append(Phrase(where, *span, (region,)))
        else:
            detail = f"sentence: expected in the caption, outside longer ones, but {shown(sentence)} isn't there"
            refused.append((where, RecordError(RejectReason.FILTERED, detail)))
    return CaptionRecord(
        locator=locator,
        caption=caption,
        image=SourceImage(path=safe_join(images, file_name), coco_id=coco_id_of(file_name)),
        phrases=tuple(phrases),
        refused=tuple(refused),
    )


def _reference(value: object, place: int) -> tuple[str, DraftRegion]:
    ref = mapping(value, "ref")
    text = single_line(without_quotes(string(ref, "sentence"))).removesuffix(".").rstrip()
    region = DraftRegion(segmentation=checked_segmentation(ref.get("segmentation")), source_id=str(place))
    return required_text(text, "sentence"), region


def _spans(locator: str, record: dict[str, object], images: str) -> CaptionRecord:
    caption = without_quotes(string(record, "caption"))
    image = source_image(record, images)
    phrases: list[Phrase] = []
    refused: list[RefusedPhrase] = []
    for place, (words, value) in enumerate(mapping(record.get("groundings"), "groundings").items()):
        if value is None:
            continue
        try:
            phrases.append(_span_phrase(caption, f"groundings[{place}]", words, value))
        except RecordError as error:
            refused.append((f"groundings[{place}]", error))
    return CaptionRecord(locator=locator, caption=caption, image=image, phrases=tuple(phrases), refused=tuple(refused))


def _span_phrase(caption: str, where: str, words: str, value: object) -> Phrase:
    grounding = mapping(value, "grounding")
    masks = sequence(grounding, "rle_masks")
    if not masks:
        raise RecordError(RejectReason.MASK_EMPTY, f"rle_masks: expected at least one for {shown(words)}, got none")
    start, end = _span(sequence(grounding, "token_positives"))
    found = caption[max(start, 0) : max(end, 0)]
    if single_line(found).lower() != single_line(words).lower():
        raise RecordError(
            RejectReason.FIELD_INVALID,
            f"token_positives: expected {shown(words)} at [{start}, {end}] of the caption, got {shown(found)}",
        )
    return Phrase(where, start, end, tuple(_rle_region(mask, words) for mask in masks))


def _flickr(group: ImageGroup, images: str) -> CaptionRecord:
    caption = string(group.image, "caption")
    image = source_image(group.image, images)
    num_words = len(caption.split())
    if num_words < _LEAST_WORDS:
        raise RecordError(
            RejectReason.FILTERED,
            f"caption: expected at least {_LEAST_WORDS} words, got {num_words} in {shown(caption)}",
        )
    phrases: list[Phrase] = []
    refused: list[RefusedPhrase] = []
    for where, annotation in group.annotations:
        try:
            phrases += _mentions(where, annotation, image)
        except RecordError as error:
            refused.append((where, error))
    return CaptionRecord(
        locator=group.locator, caption=caption, image=image, phrases=tuple(phrases), refused=tuple(refused)
    )


def _mentions(where: str, annotation: dict[str, object], image: SourceImage) -> list[Phrase]:
    """A phrase for each span of an annotation."""
    if annotation.get("ignore"):
        raise RecordError(RejectReason.FILTERED, "ignore: the source says not to use this annotation")
    x, y, width, height = numbers(annotation, "bbox", 4)
    shared = [
        min(start + length, float(limit or 0)) - max(start, 0.0)
        for start, length, limit in ((x, width, image.width), (y, height, image.height))
    ]
    if min(width, height) < 1 or min(shared) <= 0:
        detail = f"bbox: expected at least 1 x 1 px in the image, got {x:g}, {y:g}, {width:g}, {height:g} (x, y, w, h)"
        raise RecordError(RejectReason.FILTERED, detail)
    spans = sequence(annotation, "tokens_positive")
    if not spans:
        raise RecordError(RejectReason.FIELD_INVALID, "tokens_positive: expected at least one span, got none")
    own_id = optional_integer(annotation, "id")
    region = _rle_region(annotation.get("sam_mask"), None if own_id is None else str(own_id))
    return [Phrase(f"{where}/tokens_positive[{place}]", *_span(span), (region,)) for place, span in enumerate(spans)]


def _rle_region(value: object, source_id: str | None) -> DraftRegion:
    return DraftRegion(segmentation=checked_segmentation(mapping(value, "mask")), source_id=source_id)


def _span(value: object) -> tuple[int, int]:
    """A span of characters; whether it lies in the caption is seen when it is marked."""
    ends = cast("list[object]", value) if isinstance(value, list | tuple) else []
    if len(ends) != 2:
        raise RecordError(RejectReason.FIELD_INVALID, f"span: expected [start, end], got {shown(value)}")
    fields: dict[str, object] = {"start": ends[0], "end": ends[1]}
    return integer(fields, "start", minimum=-1), integer(fields, "end", minimum=-1)
