"""Licences of what a corpus is made of, as far as they are known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pipelines.curation.families.base import NOT_STATED, Published, Source

__all__ = ["DRAWN_INPUT", "licence_head", "published_by_kind", "stated_licences"]

DRAWN_INPUT = "scenes"
"""Name, among a corpus's inputs, of scenes that this package drew: sources in others' layouts, but not of theirs."""

_HUB_NAMES = {
    "Apache-2.0": "apache-2.0",
    "CC BY 4.0": "cc-by-4.0",
    "CC BY-NC 4.0": "cc-by-nc-4.0",
    "CC BY-NC-SA 4.0": "cc-by-nc-sa-4.0",
    "CC BY-SA 4.0": "cc-by-sa-4.0",
    "CC0 1.0": "cc0-1.0",
    "MIT": "mit",
}
"""How the Hugging Face Hub calls licences."""


def published_by_kind(sources: Iterable[Source]) -> dict[str, Published]:
    """What is publicly known of each kind of source, sorted by kind."""
    found = {str(type(source).model_fields["kind"].default): source.published for source in sources}
    return dict(sorted(found.items()))


def stated_licences(published: Mapping[str, Published]) -> list[str]:
    """The different licences that are stated, sorted."""
    return sorted({fact.licence for fact in published.values()} - {NOT_STATED})


def licence_head(published: Mapping[str, Published], *, is_drawn: bool) -> dict[str, str]:
    """The licence as the head of a card on the Hugging Face Hub states it.

    Args:
        published: what is known of each kind of source.
        is_drawn: whether this package drew the sources.

    Returns:
        `license`, and a name of it where the Hub has none.
    """
    if is_drawn:
        return {"license": "other", "license_name": "drawn-by-sailloft"}
    names = {_HUB_NAMES.get(fact.licence) for fact in published.values()}
    (name,) = names if len(names) == 1 else (None,)
    if name is not None:
        return {"license": name}
    if not stated_licences(published):
        return {"license": "unknown"}
    return {"license": "other", "license_name": "those-of-its-sources"}
