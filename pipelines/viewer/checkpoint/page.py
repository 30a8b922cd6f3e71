"""Routes of a trial: the picture, the question, the answers of one or two students, and samples of a corpus."""

from __future__ import annotations

import itertools
import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from model.checkpoint import load_config
from model.drawing import MASK_COLOURS, draw_masks
from pipelines.asking import load_predictor
from pipelines.image_files import image_file
from pipelines.viewer.checkpoint.pictures import MAX_UPLOAD_BYTES, TriedPictures
from pipelines.viewer.checkpoint.questions import MAX_NEW_TOKENS, SampleTurn, Sent, put
from pipelines.viewer.checkpoint.trial import Ask, Asking, Busy, Tried, TriedStudent
from pipelines.viewer.corpus.shelf import CARDS, SampleShelf
from pipelines.viewer.corpus.shown import cards
from pipelines.viewer.corpus.tables import SAMPLE_LABELS
from pipelines.viewer.lists import Asked
from pipelines.viewer.templates import Templates
from storage.corpus import Corpus
from storage.objects import Objects

__all__ = ["TrialPage"]

logger = logging.getLogger(__name__)

_HERE = Path(__file__).parent
_SHOWN_PX = 1000
"""Longer side of the pictures on the page."""
_KEPT_ANSWERS = 64


class TrialPage:
    """A checkpoint, or two, to be tried.

    Args:
        students: one or two.
        corpus: whose samples can be tried, if any.
    """

    prefix = "/checkpoint"
    static = _HERE / "static"

    def __init__(self, students: Sequence[TriedStudent], corpus: Corpus | None = None) -> None:
        self.uploads = {"/pictures": MAX_UPLOAD_BYTES}
        self._asking = Asking(students)
        self._shelf = None if corpus is None else SampleShelf(corpus, pictured=True)
        self._pictures = TriedPictures(corpus)
        self._templates = Templates(_HERE / "templates")
        self._drawn: OrderedDict[int, bytes] = OrderedDict()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    @classmethod
    def open(cls, objects: Objects, against: str | None, corpus: str | None, device: str) -> TrialPage:
        """Loads what is tried.

        Args:
            objects: a checkpoint.
            against: URL of a second one.
            corpus: URL of a corpus.
            device: where the students run.

        Raises:
            UsageError: no such device, or no checkpoint of a student.
            DataError: a damaged one.
            ObjectNotFound: no such corpus.
        """
        opened = None if corpus is None else Corpus.open(corpus)
        urls = [objects.url, *([] if against is None else [Objects.open(against).url])]
        students = [
            TriedStudent(url, load_predictor(url, device), load_config(Objects.open(url)).wordings) for url in urls
        ]
        return cls(students, opened)

    def routes(self) -> Sequence[BaseRoute]:
        """All routes, below the prefix."""
        return [
            Route("/", self._try),
            Route("/pictures", self._take_picture, methods=["POST"]),
            Route("/pictures/{picture_id}.jpg", self._picture),
            Route("/students/{student:int}", self._ask, methods=["POST"]),
            Route("/answers/{number:int}.jpg", self._answer_picture),
            Route("/samples", self._list),
            Route("/samples/{sample_id}/card.jpg", self._card),
            Route("/samples/{sample_id}/{turn:int}/asked.jpg", self._sample_asked),
            Route("/samples/{sample_id}/{turn:int}/truth.jpg", self._sample_truth),
        ]

    def _try(self, request: Request) -> Response:
        sample_id, turn = request.query_params.get("sample", ""), request.query_params.get("turn", "0")
        asked = None
        if sample_id:
            if not (turn.isdecimal() and len(turn) < 6):
                raise HTTPException(404, "There is no such turn.")
            asked = self._sample_turn(sample_id, int(turn))
        return self._templates.page(
            "try.html.j2",
            students=[student.name for student in self._asking.students],
            has_corpus=self._shelf is not None,
            asked=asked,
            has_masks=asked is not None and asked.has_masks,
            max_upload_bytes=MAX_UPLOAD_BYTES,
            max_new_tokens=MAX_NEW_TOKENS,
        )

    async def _take_picture(self, request: Request) -> Response:
        data = await request.body()
        return await run_in_threadpool(self._taken, data)

    def _taken(self, data: bytes) -> Response:
        try:
            picture_id = self._pictures.add(data)
        except ValueError as error:
            return JSONResponse({"message": str(error)}, 422)
        height_px, width_px = self._pictures.pixels(picture_id).shape[:2]
        return JSONResponse({"picture": picture_id, "width_px": width_px, "height_px": height_px})

    def _picture(self, request: Request) -> Response:
        try:
            pixels = self._pictures.pixels(request.path_params["picture_id"])
        except ValueError as error:
            raise HTTPException(404, str(error)) from error
        return _jpeg(draw_masks(pixels, (), side_px=_SHOWN_PX))

    async def _ask(self, request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            return JSONResponse({"message": "expected JSON"}, 415)
        student = request.path_params["student"]
        if student >= len(self._asking.students):
            return JSONResponse({"message": "there is no such student"}, 404)
        try:
            sent = Sent.model_validate_json(await request.body())
        except ValidationError as error:
            first = error.errors()[0]
            return JSONResponse({"message": f"{'.'.join(map(str, first['loc']))}: {first['msg']}"}, 400)
        return await run_in_threadpool(self._answered, student, sent)

    def _answered(self, student: int, sent: Sent) -> Response:
        style = self._asking.students[student].wordings
        try:
            turn = self._sample_turn(sent.sample, sent.turn) if sent.sample else None
            pixels = self._pictures.pixels(sent.picture)
            text, regions = put(sent, turn, style, (pixels.shape[0], pixels.shape[1]))
            tried = self._asking.ask(student, pixels, text, regions, sent.max_new_tokens)
        except Busy as error:
            return JSONResponse({"message": str(error)}, 503)
        except HTTPException as error:
            return JSONResponse({"message": error.detail}, error.status_code)
        except ValueError as error:
            return JSONResponse({"message": str(error)}, 422)
        except RuntimeError as error:  # storage out of reach, or an accelerator's memory
            logger.warning("asking %s: %s", self._asking.students[student].name, error)
            return JSONResponse({"message": str(error)}, 500)
        picture = self._keep(draw_masks(pixels, tried.answer.masks, regions, side_px=_SHOWN_PX))
        is_its_own = turn is not None and sent.ask is Ask.SAMPLE and sent.words == turn.words
        iou = turn.iou(tried.answer.masks) if is_its_own and turn is not None else None
        return JSONResponse({"question": text, **_shown(tried), "iou": iou, "picture": picture})

    def _answer_picture(self, request: Request) -> Response:
        with self._lock:
            data = self._drawn.get(request.path_params["number"])
        if data is None:
            raise HTTPException(404, "This answer is gone; ask again.")
        return Response(data, media_type="image/jpeg")

    def _list(self, request: Request) -> Response:
        shelf, asked = self._own_shelf(), Asked.of(request, SAMPLE_LABELS)
        found = shelf.index.find(asked.labels, asked.words, (asked.number - 1) * CARDS, CARDS)
        return self._templates.page(
            "choose.html.j2",
            **asked.shown(found.num, CARDS),
            students=[student.name for student in self._asking.students],
            has_corpus=True,
            choices=shelf.index.choices,
            cards=cards(shelf.read(found.rows)),
        )

    def _card(self, request: Request) -> Response:
        shelf = self._own_shelf()
        return Response(shelf.card(shelf.row(request)), media_type="image/jpeg")

    def _sample_asked(self, request: Request) -> Response:
        return self._of_sample(request, with_truth=False)

    def _sample_truth(self, request: Request) -> Response:
        return self._of_sample(request, with_truth=True)

    def _of_sample(self, request: Request, *, with_truth: bool) -> Response:
        turn = self._sample_turn(request.path_params["sample_id"], request.path_params["turn"])
        pixels, masks = self._pictures.pixels(turn.unit.image_id), turn.truths() if with_truth else []
        return _jpeg(draw_masks(pixels, masks, turn.prompts(), side_px=_SHOWN_PX))

    def _sample_turn(self, sample_id: str, number: int) -> SampleTurn:
        shelf = self._own_shelf()
        row = shelf.index.row_of(sample_id)
        sample = None if row is None else shelf.read([row])[0]
        if sample is None or sample.image_id is None or number >= len(sample.turns):
            raise HTTPException(404, "There is no such sample with a picture in this corpus.")
        image = self._pictures.pixels(sample.image_id)
        return SampleTurn.of(sample, number, image.shape[0], image.shape[1])

    def _own_shelf(self) -> SampleShelf:
        if self._shelf is None:
            raise HTTPException(404, "There is no corpus here; name one by --corpus.")
        return self._shelf

    def _keep(self, image: Image.Image) -> str:
        """Where the browser finds a picture that was drawn."""
        data = image_file(image, "JPEG", quality=90)
        with self._lock:
            number = next(self._numbers)
            self._drawn[number] = data
            while len(self._drawn) > _KEPT_ANSWERS:
                self._drawn.popitem(last=False)
        return f"{self.prefix}/answers/{number}.jpg"


def _shown(tried: Tried) -> dict[str, object]:
    """An answer as the page's script takes it."""
    masks = [
        {
            "score": score,
            "num_px": int(mask.sum()),
            "share": float(mask.mean()),
            "colour": "#{:02x}{:02x}{:02x}".format(*MASK_COLOURS[number % len(MASK_COLOURS)]),
        }
        for number, (mask, score) in enumerate(zip(tried.answer.masks, tried.answer.scores, strict=True))
    ]
    return {"text": tried.answer.text, "masks": masks, "took_s": tried.took_s, "waited_s": tried.waited_s}


def _jpeg(image: Image.Image) -> Response:
    return Response(image_file(image, "JPEG", quality=90), media_type="image/jpeg")
