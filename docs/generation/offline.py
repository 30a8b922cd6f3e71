"""Whether a page can be read without a network."""

from __future__ import annotations

import re
from html.parser import HTMLParser

__all__ = ["foreign_resources"]

_FOREIGN = re.compile(r"(?:https?:)?//")
_NO_REQUEST = {"a", "area", "base"}
"""Elements whose address is followed when somebody wants it."""
_NO_REQUEST_RELATIONS = {"alternate", "author", "canonical", "license", "next", "prev"}


class _Resources(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        relations = set(attributes.get("rel", "").split())
        if tag in _NO_REQUEST or (tag == "link" and relations and relations <= _NO_REQUEST_RELATIONS):
            return
        named = [attributes[name] for name in ("src", "srcset", "href", "data", "poster") if name in attributes]
        self.found += [address for address in named if _FOREIGN.match(address)]

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "style":
            self.found += re.findall(r"url\(\s*['\"]?((?:https?:)?//[^'\")\s]+)", data)


def foreign_resources(html: str) -> list[str]:
    """Addresses elsewhere that a browser asks for to show a page: scripts, styles, fonts, pictures, frames.

    >>> foreign_resources('<a href="https://example.org">there</a> <img src="https://example.org/a.png">')
    ['https://example.org/a.png']
    """
    parser = _Resources()
    parser.feed(html)
    return parser.found
