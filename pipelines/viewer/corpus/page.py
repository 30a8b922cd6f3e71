"""Routes of a corpus: samples as cards, one sample whole, rejects, and pictures drawn when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from pipelines.viewer.corpus.shelf import CARDS, SampleShelf
from pipelines.viewer.corpus.shown import cards, facts_of, prompt_in_words, turns_of
from pipelines.viewer.corpus.tables import REJECT_LABELS, SAMPLE_LABELS, RejectIndex
from pipelines.viewer.lists import Asked
from pipelines.viewer.search import Found
from pipelines.viewer.templates import Templates
from storage.corpus import Corpus
from storage.objects import Objects

__all__ = ["CorpusPage"]

_HERE = Path(__file__).parent
_ROWS = 100
"""Rejects of a page."""


class CorpusPage:
    """The pages of a corpus.

    Args:
        corpus: what is shown.
        below: path below which the page lies.
    """

    static = _HERE / "static"

    def __init__(self, corpus: Corpus, below: str = "") -> None:
        self.prefix = f"{below}/corpus"
        self._corpus = corpus
        self._shelf = SampleShelf(corpus)
        self._templates = Templates(_HERE / "templates", self.prefix)

    @classmethod
    def open(cls, objects: Objects, below: str = "") -> CorpusPage:
        """The pages of the corpus at a prefix; raises as `Corpus.open`."""
        return cls(Corpus.open(objects), below)

    @cached_property
    def _rejects(self) -> RejectIndex:
        return RejectIndex(self._corpus)

    def routes(self) -> Sequence[BaseRoute]:
        """All routes, below the prefix."""
        return [
            Route("/", self._list),
            Route("/rejects", self._list_rejects),
            Route("/samples/{sample_id}", self._sample),
            Route("/samples/{sample_id}/card.jpg", self._card),
            Route("/samples/{sample_id}/plain.jpg", self._plain),
            Route("/samples/{sample_id}/picture/{turn:int}.jpg", self._picture),
        ]

    def _list(self, request: Request) -> Response:
        asked = Asked.of(request, SAMPLE_LABELS)
        found = self._shelf.index.find(asked.labels, asked.words, (asked.number - 1) * CARDS, CARDS)
        return self._templates.page(
            "samples.html.j2",
            **self._shared(asked, found, CARDS),
            choices=self._shelf.index.choices,
            cards=cards(self._shelf.read(found.rows)),
        )

    def _list_rejects(self, request: Request) -> Response:
        asked = Asked.of(request, REJECT_LABELS)
        found = self._rejects.find(asked.labels, asked.words, (asked.number - 1) * _ROWS, _ROWS)
        return self._templates.page(
            "rejects.html.j2",
            **self._shared(asked, found, _ROWS),
            choices=self._rejects.choices,
            rejects=self._rejects.rows(found.rows),
        )

    def _shared(self, asked: Asked, found: Found, per_page: int) -> dict[str, Any]:
        """What both lists show."""
        return {**asked.shown(found.num, per_page), "facts": facts_of(self._corpus.manifest)}

    def _sample(self, request: Request) -> Response:
        row = self._shelf.row(request)
        sample = self._shelf.read([row])[0]
        asked = Asked.of(request, SAMPLE_LABELS)
        others = () if sample.image_id is None else self._shelf.index.rows_of_image(sample.image_id)
        return self._templates.page(
            "sample.html.j2",
            sample=sample,
            turns=turns_of(sample),
            prompts=[prompt_in_words(prompt) for prompt in sample.prompts],
            image=None if sample.image_id is None else self._corpus.image(sample.image_id),
            others=cards(self._shelf.read([other for other in others if other != row][:CARDS])),
            query=asked.query(),
            facts=facts_of(self._corpus.manifest),
        )

    def _card(self, request: Request) -> Response:
        return _jpeg(self._shelf.card(self._shelf.row(request)))

    def _picture(self, request: Request) -> Response:
        return _jpeg(self._shelf.whole(self._shelf.row(request), request.path_params["turn"]))

    def _plain(self, request: Request) -> Response:
        return _jpeg(self._shelf.whole(self._shelf.row(request), None))


def _jpeg(data: bytes) -> Response:
    return Response(data, media_type="image/jpeg")
