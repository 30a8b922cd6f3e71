"""Takes out of captions what they say of an outline that only the model that wrote them was shown.

SA-1B's objects were captioned by a model whose pictures had a yellow edge drawn around the object; its captions say
"highlighted", "yellow edge", "yellow contour" and "yellow outline". The released reader deletes those words, which
leaves "The object by a  is a dog."; here the part of speech that they belong to goes with them. A sentence that no
rule mends is left out whole.
"""

from __future__ import annotations

import re

from pipelines.curation.steps.texts import single_line

__all__ = ["without_leftovers"]

_LEFTOVER = re.compile(r"highlighted|outlined\s+in\s+yellow\b|yellow[\s-]+(?:edge|contour|outline)s?\b", re.IGNORECASE)
_EDGE = (
    r"(?:(?:an?|the|its|this)\s+)?(?:(?:bright|thin|thick|bold|distinct)\s+)?yellow[\s-]+(?:edge|contour|outline)s?\b"
    r"(?:\s+around\s+(?:it|him|her|them)\b)?"
)
_BY = r"(?:by|with|in|within|inside|using)"
_DRAWN = r"(?:outlined|marked|surrounded|enclosed|encircled|delineated|defined|indicated|framed|bordered)"
_IMAGE = r"(?:\s+(?:in|of)\s+(?:the|this)\s+(?:image|picture|photo|scene)\b)?"
_VERB = r"(?:is|are|was|were|has|have|shows|appears|features|depicts|contains|consists|seems|stands|sits|lies|wears)\b"
_IS = r"(?:is|are|was|were)(?:\s+(?:being|clearly|also))?"
_IN_YELLOW = rf"in\s+yellow(?=[.,;!?]|\s+{_VERB}|$)"
_BY_EDGE = rf"(?:(?:highlighted|{_DRAWN})\s+{_BY}\s+{_EDGE}|(?:highlighted|outlined)\s+{_IN_YELLOW})"
_SHOWN = rf"(?:{_BY_EDGE}|highlighted){_IMAGE}"

_NAMES_NOTHING = re.compile(r"(?:it|this|(?:the|this)\s+(?:object|area|region|part|item|thing))\W*", re.IGNORECASE)
_PREDICATE = re.compile(rf"\s+(?:{_IS}\s+{_SHOWN}|(?:has|have)\s+{_EDGE})\s*(?=[.!?]*$)", re.IGNORECASE)
"""The whole of what a sentence says: "The dog is highlighted by a yellow edge."."""

# In this order: each rule may rely on what those before it have taken out.
_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        # "A dog, which is highlighted by a yellow edge, sits"
        (rf",?\s+(?:which|that)\s+{_IS}\s+{_SHOWN}(?=\s+{_VERB}|[.,;!?]|$),?", ""),
        # "The dog is highlighted by a yellow edge and sits"; "... and made of"
        (rf"\s+{_IS}\s+{_SHOWN},?\s+and(?=\s+(?:{_VERB}|\w+s\b))", ""),
        (rf"(\s+{_IS})\s+{_SHOWN},?\s+and(?=\s+\w+(?:ed|ing|en|de)\b)", r"\1"),
        # "The dog is highlighted by a yellow edge, showing its fur"
        (rf"\s+{_IS}\s+{_SHOWN}(?=,\s+(?:\w+ing|with|which)\b)", ""),
        # "Highlighted by a yellow edge, a dog sits"; "The yellow edge outlines a dog"
        (rf"^{_SHOWN},\s*", ""),
        (rf"^{_EDGE}\s+(?:highlights|outlines|surrounds|marks|encloses|encircles|indicates|shows|defines)\s+", ""),
        # "A dog, highlighted by a yellow edge, sits"; the same without commas
        (rf",\s*{_SHOWN}(?:,(?=\s)|(?=[.;!?]|$))", ""),
        (rf",?\s+{_BY_EDGE}{_IMAGE}", ""),
        # "The object highlighted in the image is a dog"; "the object highlighted."
        (rf"(?<!\bis)(?<!\bare)\s+highlighted(?=\s+(?:{_VERB}|in\s+(?:the|this)\s)|[.,;!?]|$)", ""),
        # "The object inside the yellow edge is a dog"; "A dog with a yellow edge"
        (rf",?\s+{_BY}\s+{_EDGE}", ""),
        # "An highlighted area"; "The highlighted dog"
        (r"\b(a)n?\s+highlighted\s+(?=[aeiou])", r"\1n "),
        (r"\b(a)n?\s+highlighted\s+(?=[^\Waeiou])", r"\1 "),
        (r"(?<!\bis\s)(?<!\bare\s)\bhighlighted\s+(?!(?:by|with|in|within|against|and|or|as|on|from)\b)(?=\w)", ""),
    )
)
_TIDY = ((re.compile(r"\s+([.,;:!?])"), r"\1"), (re.compile(r",+([.,;:!?])"), r"\1"), (re.compile(r"^[,;:.\s]+"), ""))
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")


def without_leftovers(caption: str) -> str:
    """A caption without the words that describe the outline of its object; empty where it says nothing else.

    Of a sentence that says no more than that its object is outlined, the object that it names stays where it is
    the first sentence.

    >>> without_leftovers("The object highlighted by a yellow edge is a dog. It is highlighted in the image.")
    'The object is a dog.'
    >>> without_leftovers("A highlighted apple, outlined with a yellow contour, lies on a plate.")
    'An apple lies on a plate.'
    >>> without_leftovers("A red bus is highlighted by a yellow edge. It has two doors.")
    'A red bus. It has two doors.'
    >>> without_leftovers("The yellow contour outlines a cat. A yellow leaf lies beside it.")
    'A cat. A yellow leaf lies beside it.'
    """
    text = single_line(caption)
    if not _LEFTOVER.search(text):
        return text
    kept: list[str] = []
    for place, sentence in enumerate(_SENTENCE_END.split(text)):
        if not _LEFTOVER.search(sentence):
            kept.append(sentence)
            continue
        name, is_outlined = _PREDICATE.subn("", sentence)
        mended = _mended(name if is_outlined else sentence)
        says_nothing = is_outlined and (place > 0 or _NAMES_NOTHING.fullmatch(mended))
        if mended and not says_nothing and not _LEFTOVER.search(mended):
            kept.append(mended)
    return " ".join(kept)


def _mended(sentence: str) -> str:
    """A sentence after all rules, with a capital letter where it had one."""
    text = sentence
    for pattern, replacement in (*_RULES, *_TIDY):
        text = pattern.sub(replacement, text)
    text = single_line(text)
    return text[:1].upper() + text[1:] if sentence[:1].isupper() else text
