"""Routes of evaluations: predictions as rows, one of them whole, and their pictures."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from pipelines.evaluation.records import Prediction
from pipelines.viewer.evaluation.gallery import PredictionGallery, has_masks
from pipelines.viewer.evaluation.tables import LABELS, PredictionFiles, PredictionIndex
from pipelines.viewer.lists import Asked
from pipelines.viewer.templates import Templates
from storage.corpus import Corpus
from storage.errors import ObjectNotFound, UsageError
from storage.manifest import Manifest, read_manifest
from storage.objects import Objects

__all__ = ["EvaluationPage"]

_HERE = Path(__file__).parent
_ROWS = 24
_SMALL_PX, _LARGE_PX = 288, 900
_KEPT = 24 * _ROWS


class EvaluationPage:
    """The predictions of one evaluation, or of two on the same questions.

    Args:
        evaluations: prefix and manifest of each; the first is A.
        corpus: whose pictures and truths are shown; None: none are.
        below: path below which the page lies.
    """

    static = _HERE / "static"

    def __init__(self, evaluations: Sequence[tuple[Objects, Manifest]], corpus: Corpus | None, below: str = "") -> None:
        self.prefix = f"{below}/evaluation"
        self._names = [objects.url for objects, _ in evaluations]
        self._files = [PredictionFiles(objects, manifest) for objects, manifest in evaluations]
        self._index = PredictionIndex([files.table() for files in self._files])
        if not self._index.table.num_rows:
            raise UsageError(
                f"{self._names[-1]}: expected answers to questions of {self._names[0]}, got none; evaluate both on "
                "the same corpus and benchmarks"
            )
        self._same_corpus = len({manifest.inputs.get("corpus") for _, manifest in evaluations}) == 1
        self._gallery = None if corpus is None else PredictionGallery(corpus)
        self._templates = Templates(_HERE / "templates", self.prefix)
        self._kept: dict[int, list[Prediction]] = {}
        self._lock = threading.Lock()

    @classmethod
    def open(cls, objects: Objects, against: str | None, corpus: str | None, below: str = "") -> EvaluationPage:
        """Reads what is compared.

        Args:
            objects: a finished evaluation.
            against: URL of a second one.
            corpus: URL of the corpus; None: the one that lies in the workspace of the first, if it is there.
            below: path below which the page lies.

        Raises:
            ObjectNotFound: no such evaluation, or no such corpus.
            UsageError: the two share no question.
            DataError: predictions of another version.
        """
        prefixes = [objects, *([] if against is None else [Objects.open(against)])]
        evaluations: list[tuple[Objects, Manifest]] = []
        for prefix in prefixes:
            manifest = read_manifest(prefix)
            if manifest is None:
                raise ObjectNotFound(f"{prefix.url}: expected a finished evaluation, found none; evaluate first")
            evaluations.append((prefix, manifest))
        return cls(evaluations, _corpus(evaluations[0], corpus), below)

    def routes(self) -> Sequence[BaseRoute]:
        """All routes, below the prefix."""
        return [
            Route("/", self._list),
            Route("/rows/{row:int}", self._row),
            Route("/rows/{row:int}/{size}/{what}.jpg", self._picture),
        ]

    def _list(self, request: Request) -> Response:
        asked, order = Asked.of(request, (*LABELS, "order")), request.query_params.get("order", "")
        wanted = {label: asked.labels[label] for label in LABELS}
        found = self._index.ordered(wanted, asked.words, order, (asked.number - 1) * _ROWS, _ROWS)
        return self._templates.page(
            "predictions.html.j2",
            **asked.shown(found.num, _ROWS),
            **self._shared(),
            found=found,
            choices=self._index.choices,
            orders=self._index.orders,
            rows=list(zip(found.rows, self._read(found.rows), strict=True)),
            has_masks=has_masks,
        )

    def _shared(self) -> dict[str, Any]:
        """What all pages show."""
        return {
            "names": self._names,
            "num_alone": self._index.num_alone,
            "num_all": self._index.table.num_rows,
            "same_corpus": self._same_corpus,
            "has_pictures": self._gallery is not None,
        }

    def _row(self, request: Request) -> Response:
        row, predictions = self._asked_row(request)
        asked = Asked.of(request, (*LABELS, "order"))
        return self._templates.page(
            "prediction.html.j2",
            **self._shared(),
            row=row,
            predictions=predictions,
            query=asked.query(),
            has_masks=any(map(has_masks, predictions)),
        )

    def _picture(self, request: Request) -> Response:
        _, predictions = self._asked_row(request)
        what, size = request.path_params["what"], request.path_params["size"]
        if self._gallery is None or size not in ("small", "large"):
            raise HTTPException(404, "There is no such picture.")
        side_px = _SMALL_PX if size == "small" else _LARGE_PX
        answers = dict(zip(("first", "second"), predictions, strict=False))
        if what == "asked":
            data = self._gallery.asked(predictions[0], side_px)
        elif what == "truth":
            data = self._gallery.truth(predictions[0], side_px)
        elif what in answers:
            data = self._gallery.answer(answers[what], side_px)
        else:
            raise HTTPException(404, "There is no such picture.")
        return Response(data, media_type="image/jpeg")

    def _asked_row(self, request: Request) -> tuple[int, list[Prediction]]:
        row: int = request.path_params["row"]
        if row >= self._index.table.num_rows:
            raise HTTPException(404, "There is no such question.")
        return row, self._read([row])[0]

    def _read(self, rows: Sequence[int]) -> list[list[Prediction]]:
        """The answers to questions. The latest are kept: each picture of a list asks for its own once more."""
        with self._lock:
            found = {row: self._kept[row] for row in rows if row in self._kept}
        if missing := [row for row in rows if row not in found]:
            places = zip(*map(self._index.places, missing), strict=True)
            sides = [files.read(own) for files, own in zip(self._files, places, strict=True)]
            found |= {row: list(answers) for row, *answers in zip(missing, *sides, strict=True)}
            with self._lock:
                self._kept |= found
                for old in list(self._kept)[:-_KEPT]:
                    del self._kept[old]
        return [found[row] for row in rows]


def _corpus(evaluation: tuple[Objects, Manifest], named: str | None) -> Corpus | None:
    """The corpus by its address, or the one that the evaluation names by its key in the same workspace."""
    if named is not None:
        return Corpus.open(named)
    objects, manifest = evaluation
    workspace = re.fullmatch(r"(.*)/evaluate/[^/]+/?", objects.url)
    if workspace is None or "corpus" not in manifest.inputs:
        return None
    try:
        return Corpus.open(f"{workspace[1]}/curate/{manifest.inputs['corpus']}")
    except ObjectNotFound:
        return None
