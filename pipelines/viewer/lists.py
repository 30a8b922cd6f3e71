"""What an address asks of a list: labels, words and a page of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request

__all__ = ["Asked"]

_MAX_WORDS = 200
"""Characters of a search."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What an address asks for."""

    labels: Mapping[str, str]
    words: str
    number: int
    """Of the page, from 1."""

    @classmethod
    def of(cls, request: Request, labels: Sequence[str]) -> Asked:
        """What a request asks for; a page number that is none is the first."""
        query = request.query_params
        number = query.get("page", "1")
        is_number = number.isdecimal() and len(number) < 10
        return cls(
            {label: query.get(label, "") for label in labels},
            query.get("words", "")[:_MAX_WORDS],
            max(int(number), 1) if is_number else 1,
        )

    def query(self) -> str:
        """As it stands in an address; fields that ask for nothing stay away."""
        fields = {**self.labels, "words": self.words, "page": str(self.number) if self.number > 1 else ""}
        return urlencode({name: value for name, value in fields.items() if value})

    def shown(self, num: int, per_page: int) -> dict[str, Any]:
        """What the template of a list needs to know of this page and those beside it.

        Args:
            num: entries that match.
            per_page: entries of a page.
        """
        last = max(-(-num // per_page), 1)
        neighbours = {
            name: replace(self, number=number).query() if 1 <= number <= last else None
            for name, number in (("previous", self.number - 1), ("following", self.number + 1))
        }
        return {"asked": self, "num": num, "last": last, **neighbours, "query": self.query()}
