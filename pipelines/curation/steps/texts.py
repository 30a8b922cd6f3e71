"""Normal forms of expressions, category names and region placeholders."""

from __future__ import annotations

import re

from pipelines.curation.records import RecordError
from storage.schema import RejectReason

__all__ = [
    "SEG",
    "category_phrase",
    "expression",
    "multi_line",
    "normalise_placeholders",
    "region_numbers",
    "region_token",
    "renumber_regions",
    "required_text",
    "single_line",
]

SEG = "[SEG]"
"""Stands in an answer for the next mask."""

_REGION = re.compile(r"<region([0-9]{1,6})>")
# Seen in the wild: <Region1>, <regon1>, < region 1 >, and the word without brackets (but never "region 1" in prose).
_REGION_VARIANT = re.compile(r"<\s*reg(?:i|io|o)n\s*([0-9]{1,6})\s*>|\breg(?:i|io|o)n([0-9]{1,6})\b", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\ufeff]")


def single_line(text: str) -> str:
    """Control characters removed, white space collapsed.

    >>> single_line("  a\\tred\\x00  cup ")
    'a red cup'
    """
    return " ".join(_CONTROL.sub(" ", text.replace("\t", " ")).split())


def multi_line(text: str) -> str:
    """The same line by line: paragraphs and lists of an answer keep their shape.

    >>> multi_line(" a  list:\\r\\n- cup \\n\\n- mug ")
    'a list:\\n- cup\\n\\n- mug'
    """
    return "\n".join(single_line(line) for line in text.splitlines()).strip()


def expression(raw: str) -> str:
    """A referring expression as the released loaders train on it: lower case, without the final full stop.

    Raises:
        RecordError: nothing is left.

    >>> expression("THE LADY WITH THE BLUE SHIRT.")
    'the lady with the blue shirt'
    """
    text = single_line(raw).lower()
    text = text.removesuffix(".").rstrip()
    return required_text(text, "expression", raw)


def required_text(text: str, what: str, raw: object = None) -> str:
    """`text`, if it holds a letter or digit of any script.

    Raises:
        RecordError: it is empty, or punctuation alone.
    """
    if not any(character.isalnum() for character in text):
        shown = ascii(text if raw is None else raw)[:60]
        raise RecordError(RejectReason.TEXT_EMPTY, f"{what}: expected words, got {shown}")
    return text


def category_phrase(name: str) -> str:
    """A COCO category as a phrase: panoptic suffixes dropped, dashes to spaces.

    >>> category_phrase("building-other-merged"), category_phrase("wall-brick"), category_phrase("door-stuff")
    ('building', 'wall brick', 'door')
    """
    for suffix in ("-merged", "-other", "-stuff"):
        name = name.removesuffix(suffix)
    return single_line(name.replace("-", " "))


def region_token(number: int) -> str:
    """The placeholder of a visual prompt, counted from 1.

    >>> region_token(1)
    '<region1>'
    """
    return f"<region{number}>"


def normalise_placeholders(text: str) -> str:
    """Writes every variant of a region placeholder as `<regionN>`.

    >>> normalise_placeholders("<Region1> beside regon12, region 3 of the river")
    '<region1> beside <region12>, region 3 of the river'
    """
    return _REGION_VARIANT.sub(lambda found: region_token(int(found[1] or found[2])), text)


def region_numbers(*texts: str) -> list[int]:
    """Numbers of the `<regionN>` placeholders, in order of first appearance.

    >>> region_numbers("<region2> left of <region1>", "<region2>")
    [2, 1]
    """
    return list(dict.fromkeys(int(found) for text in texts for found in _REGION.findall(text)))


def renumber_regions(text: str, numbers: dict[int, int]) -> str:
    """Replaces each `<regionN>` by `<region{numbers[N]}>` at once, so that 1 never hits 10.

    >>> renumber_regions("<region1> and <region10>", {1: 2, 10: 1})
    '<region2> and <region1>'
    """
    return _REGION.sub(lambda found: region_token(numbers[int(found[1])]), text)
