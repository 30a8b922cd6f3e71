"""Routes of a feature store: images as cards, one image with its features, rejects, and the store itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from pipelines.image_files import fitted, image_file
from pipelines.viewer.features.originals import Originals, coverage_statements
from pipelines.viewer.features.pictures import Colours, FeaturePictures
from pipelines.viewer.features.shown import facts_of, parts_of, statements_of
from pipelines.viewer.features.tables import IMAGE_LABELS, ImageTable, RejectTable
from pipelines.viewer.lists import Asked
from pipelines.viewer.templates import Templates
from storage.corpus import Corpus, image_bytes
from storage.errors import DataError
from storage.feature_index import newest_snapshot
from storage.features import FeatureStore
from storage.manifest import Manifest
from storage.objects import Objects
from storage.pictures import open_picture

__all__ = ["FeaturesPage"]

_HERE = Path(__file__).parent
_CARDS, _ROWS = 48, 100
"""Images, and rejects, of a page."""
_CARD_PX = (300, 220)
_WHOLE_PX = (760, 620)


class FeaturesPage:
    """The pages of a feature store.

    Args:
        store: what is shown.
        statements: what it states of corpora.
        originals: where the pictures are.
        below: path below which the page lies.
    """

    static = _HERE / "static"

    def __init__(
        self, store: FeatureStore, statements: Sequence[Manifest], originals: Originals, below: str = ""
    ) -> None:
        self.prefix = f"{below}/features"
        self._store, self._statements, self._originals = store, statements, originals
        self._facts = facts_of(store, statements)
        self._images = ImageTable(store)
        self._pictures = FeaturePictures(store)
        self._templates = Templates(_HERE / "templates", self.prefix)

    @classmethod
    def open(cls, objects: Objects, corpus: str | None = None, below: str = "") -> FeaturesPage:
        """The pages of the store at a prefix.

        Args:
            objects: the prefix.
            corpus: URL of the corpus whose pictures are shown beside the features; None: those that the store tells of.
            below: path below which the page lies.

        Raises:
            ObjectNotFound: no store, or no corpus there.
            CorruptObject: the store is damaged.
        """
        store = FeatureStore.open(objects)
        statements = coverage_statements(objects)
        originals = Originals(objects, statements, None if corpus is None else Corpus.open(corpus))
        return cls(store, statements, originals, below)

    def has_grown(self) -> bool:
        """Whether another snapshot is there by now than the one that is shown."""
        shown = self._store.snapshot
        return newest_snapshot(self._store.objects) != (None if shown is None else shown.number)

    @cached_property
    def _rejects(self) -> RejectTable:
        return RejectTable(self._store)

    def routes(self) -> Sequence[BaseRoute]:
        """All routes, below the prefix."""
        return [
            Route("/", self._list),
            Route("/rejects", self._list_rejects),
            Route("/store", self._whole_store),
            Route("/images/{image_id}", self._image),
            Route("/images/{image_id}/card.png", self._card),
            Route("/images/{image_id}/original.jpg", self._original),
            Route("/images/{image_id}/{colours}.png", self._picture),
        ]

    def _list(self, request: Request) -> Response:
        asked = Asked.of(request, IMAGE_LABELS)
        found = self._images.find(asked.labels, asked.words, (asked.number - 1) * _CARDS, _CARDS)
        return self._templates.page(
            "images.html.j2",
            **asked.shown(found.num, _CARDS),
            facts=self._facts,
            choices=self._images.choices,
            images=self._images.images(found.rows),
        )

    def _list_rejects(self, request: Request) -> Response:
        asked = Asked.of(request, ())
        found = self._rejects.find(asked.labels, asked.words, (asked.number - 1) * _ROWS, _ROWS)
        return self._templates.page(
            "rejected.html.j2",
            **asked.shown(found.num, _ROWS),
            facts=self._facts,
            images=self._rejects.images(found.rows),
        )

    def _whole_store(self, request: Request) -> Response:
        return self._templates.page(
            "store.html.j2",
            facts=self._facts,
            parts=parts_of(self._store),
            statements=statements_of(self._statements),
        )

    def _image(self, request: Request) -> Response:
        image_id = self._known(request)
        return self._templates.page(
            "image.html.j2",
            image_id=image_id,
            ref=self._store.ref(image_id),
            original=self._originals.image(image_id),
            has_corpora=bool(self._originals.corpora),
            query=Asked.of(request, IMAGE_LABELS).query(),
            facts=self._facts,
        )

    def _card(self, request: Request) -> Response:
        return _png(self._pictures.card(self._known(request), *_CARD_PX))

    def _picture(self, request: Request) -> Response:
        image_id, name = self._known(request), request.path_params["colours"]
        if name not in list(Colours):
            raise HTTPException(404, f"Expected colours {', '.join(Colours)}, got {name}.")
        original = self._originals.image(image_id)
        if original is None:
            ref = self._store.ref(image_id)
            proportions = (ref.width, ref.height)
        else:
            proportions = (original.width, original.height)
        return _png(self._pictures.whole(image_id, Colours(name), *_WHOLE_PX, proportions))

    def _original(self, request: Request) -> Response:
        record = self._originals.image(self._known(request))
        if record is None:
            raise HTTPException(404, "No corpus at hand holds this picture.")
        try:
            with open_picture(image_bytes(record)) as picture:
                data = image_file(fitted(picture, *_WHOLE_PX), "JPEG", quality=88)
        except OSError as error:
            raise DataError(f"image {record.image_id}: can't be decoded: {error}") from error
        return Response(data, media_type="image/jpeg")

    def _known(self, request: Request) -> str:
        image_id: str = request.path_params["image_id"]
        if image_id not in self._store:
            raise HTTPException(404, "This store has no features of such an image.")
        return image_id


def _png(data: bytes) -> Response:
    return Response(data, media_type="image/png")
