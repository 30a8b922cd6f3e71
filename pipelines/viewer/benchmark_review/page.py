"""Routes of the review: who reviews, the overview, the items one by one, and the decisions on them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qs, quote, unquote

from pydantic import Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from pipelines.benchmark_building.checks import Limits, Subject, check, normalised
from pipelines.benchmark_building.drafts import Drafts
from pipelines.benchmark_building.drawing import mask_layer
from pipelines.benchmark_building.records import Finding, Item, Record, Texts
from pipelines.benchmark_building.review.decisions import Verdict, clean_name, reviewer_key
from pipelines.benchmark_building.review.log import DecisionLog
from pipelines.benchmark_building.review.outcomes import State, agreement, outcomes
from pipelines.benchmark_building.review.queue import Desk, review_order
from pipelines.image_files import image_file
from pipelines.viewer.benchmark_review.shown import (
    FINDING_WORDS,
    TASK_WORDS,
    cells,
    lines_of,
    reviewers,
    set_aside,
    tasks,
    texts_before,
)
from pipelines.viewer.templates import Templates
from storage.objects import Objects
from storage.pictures import open_picture

__all__ = ["ReviewPage"]

_RecordT = TypeVar("_RecordT", bound=Record)

logger = logging.getLogger(__name__)

_HERE = Path(__file__).parent
_REVIEWER_COOKIE = "sailloft_reviewer"
_FRESH_S = 2.0
"""Others' decisions are looked for again after so long."""
_KEPT_LAYERS = 64
_MEDIA_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif", "BMP": "image/bmp"}


class _Edited(Record):
    """What a browser sends of an item's texts; fields that the task doesn't use stay away."""

    caption: str = Field(default="", max_length=8000)
    question: str = Field(default="", max_length=4000)
    options: tuple[str, ...] = Field(default=(), max_length=26)
    right: int = 0
    answer: str = Field(default="", max_length=4000)


class _Decided(Record):
    """What a browser sends of a decision."""

    verdict: str = Field(pattern="^(accept|reject)$")
    texts: _Edited | None = None
    reason: str = Field(default="", max_length=500)
    despite: bool = False


class ReviewPage:
    """The review of some drafts.

    Args:
        drafts: what is reviewed.
        reviewer: name that the page begins with; None: it asks.
        reviewers_per_item: how many have to decide.
        fresh_s: how old, in seconds, the knowledge of others' decisions may be.
    """

    prefix = "/review"
    static = _HERE / "static"

    def __init__(
        self, drafts: Drafts, reviewer: str | None, reviewers_per_item: int, fresh_s: float = _FRESH_S
    ) -> None:
        self._drafts, self._reviewer, self._reviewers_per_item = drafts, reviewer, reviewers_per_item
        self._items = review_order(drafts.to_review)
        self._log = DecisionLog(drafts.objects)
        self._fresh_s, self._read_at = fresh_s, float("-inf")
        self._lock = threading.Lock()
        self._limits = Limits.of(drafts.manifest.recipe)
        self._templates = Templates(_HERE / "templates")
        self._layer = lru_cache(_KEPT_LAYERS)(self._drawn_layer)

    @classmethod
    def open(cls, objects: Objects, reviewer: str | None, reviewers_per_item: int) -> ReviewPage:
        """The review of the drafts at a prefix; raises as `Drafts.open`, and UsageError for a name that is none."""
        return cls(Drafts.open(objects), reviewer, reviewers_per_item)

    def routes(self) -> Sequence[BaseRoute]:
        """All routes, below the prefix."""
        return [
            Route("/", self._overview),
            Route("/start", self._start, methods=["GET"]),
            Route("/start", self._begin, methods=["POST"]),
            Route("/open", self._first_open),
            Route("/undo", self._undo, methods=["POST"]),
            Route("/items/{item_id}", self._item),
            Route("/items/{item_id}/picture", self._picture),
            Route("/items/{item_id}/masks.png", self._masks),
            Route("/items/{item_id}/check", self._check, methods=["POST"]),
            Route("/items/{item_id}/decision", self._decide, methods=["POST"]),
        ]

    def _start(self, request: Request) -> Response:
        return self._name_page(self._name(request) or "", None)

    def _name_page(self, name: str, error: str | None) -> Response:
        return self._templates.page(
            "start.html.j2", 200 if error is None else 422, name=name, error=error, num_items=len(self._items)
        )

    async def _begin(self, request: Request) -> Response:
        fields = parse_qs((await request.body()).decode("utf-8", "replace"))
        said = fields.get("name", [""])[0]
        try:
            name = clean_name(said)
        except ValueError as error:
            return self._name_page(said[:200], str(error))
        response = RedirectResponse(f"{self.prefix}/", 303)
        response.set_cookie(_REVIEWER_COOKIE, quote(name), httponly=True, samesite="strict", path="/")
        return response

    def _overview(self, request: Request) -> Response:
        name = self._name(request)
        if name is None:
            return RedirectResponse(f"{self.prefix}/start", 303)
        desk = self._desk(name)
        disputed = [
            (number, item)
            for number, item in enumerate(self._items, 1)
            if desk.found[item.item_id].state is State.DISPUTED
        ]
        return self._templates.page(
            "overview.html.j2",
            name=name,
            desk=desk,
            tasks=tasks(self._drafts, desk.found),
            reviewers=reviewers(desk.found),
            agreement=agreement(desk.found.values()),
            disputed=disputed,
            cells=cells(desk),
            set_aside=set_aside(self._drafts),
            titles={task.value: words[0] for task, words in TASK_WORDS.items()},
            captioner=self._drafts.manifest.facts.get("captioner", ""),
            states=[state.value for state in State],
        )

    def _first_open(self, request: Request) -> Response:
        name = self._name(request)
        if name is None:
            return RedirectResponse(f"{self.prefix}/start", 303)
        return RedirectResponse(self._url_of(self._desk(name).next_open()), 303)

    def _item(self, request: Request) -> Response:
        name = self._name(request)
        if name is None:
            return RedirectResponse(f"{self.prefix}/start", 303)
        item, desk = self._wanted(request), self._desk(name)
        place = desk.place(item.item_id)
        title, asked = TASK_WORDS[item.task]
        texts = texts_before(item, desk)
        box = (item.targets or item.prompts)[0].region().box_xyxy_px
        return self._templates.page(
            "item.html.j2",
            name=name,
            item=item,
            desk=desk,
            texts=texts,
            findings=self._shown(self._found(item, texts)),
            number=place + 1,
            title=title,
            asked=asked,
            own=desk.own(item.item_id),
            others=[
                (decision, [] if decision.texts is None else lines_of(item, decision.texts))
                for decision in desk.others(item.item_id)
            ],
            state=desk.found[item.item_id].state.value,
            previous=self._url_of(self._items[place - 1]),
            following=self._url_of(self._items[(place + 1) % len(self._items)]),
            box=",".join(map(str, box)),
        )

    def _picture(self, request: Request) -> Response:
        data = self._drafts.picture(self._wanted(request))
        try:
            with open_picture(data) as image:
                form = image.format or ""
        except OSError:
            form = ""
        if form not in _MEDIA_TYPES:
            raise HTTPException(404, "This picture is of no kind that a browser shows.")
        return Response(data, media_type=_MEDIA_TYPES[form])

    def _masks(self, request: Request) -> Response:
        return Response(self._layer(self._wanted(request).item_id), media_type="image/png")

    def _drawn_layer(self, item_id: str) -> bytes:
        item = self._drafts.item(item_id)
        prompts, targets = ([region.region().mask for region in own] for own in (item.prompts, item.targets))
        return image_file(mask_layer(prompts, targets))

    async def _check(self, request: Request) -> Response:
        item = self._wanted(request)
        sent = await _read(request, _Edited)
        if isinstance(sent, Response):
            return sent
        return JSONResponse({"findings": self._shown(self._found(item, _texts(sent)))})

    async def _decide(self, request: Request) -> Response:
        item, name = self._wanted(request), self._name(request)
        if name is None:
            return JSONResponse({"message": "say who you are first"}, 409)
        sent = await _read(request, _Decided)
        if isinstance(sent, Response):
            return sent
        return await run_in_threadpool(self._decided, item, name, sent)

    def _decided(self, item: Item, name: str, sent: _Decided) -> Response:
        if sent.verdict == "reject":
            self._log.decide(name, item.item_id, Verdict.REJECTED, reason=" ".join(sent.reason.split()))
        else:
            texts = item.texts if sent.texts is None else _texts(sent.texts)
            objections = [finding for finding in self._found(item, texts) if not finding.code.is_note]
            formal = any(finding.code.is_formal for finding in objections)
            if formal or (objections and not sent.despite):
                message = "it can't be exported like this" if formal else "accept again if it is right all the same"
                return JSONResponse(
                    {"message": message, "findings": self._shown(objections), "can_insist": not formal}, 422
                )
            verdict = Verdict.ACCEPTED if texts == item.texts else Verdict.EDITED
            self._log.decide(name, item.item_id, verdict, texts, despite=objections)
        desk = self._desk(name)
        return JSONResponse({"next": self._url_of(desk.next_open(desk.place(item.item_id)))})

    async def _undo(self, request: Request) -> Response:
        name = self._name(request)
        if name is None:
            return JSONResponse({"message": "say who you are first"}, 409)
        undone = await run_in_threadpool(self._log.undo, name)
        if undone is None:
            return JSONResponse({"message": "there is nothing to undo"}, 409)
        return JSONResponse({"next": f"{self.prefix}/items/{undone.item_id}"})

    def _desk(self, name: str) -> Desk:
        with self._lock:
            if time.monotonic() - self._read_at >= self._fresh_s:
                self._log.refresh()
                self._read_at = time.monotonic()
        found = outcomes(self._log.by_reviewer(), [item.item_id for item in self._items], self._reviewers_per_item)
        return Desk(self._items, found, reviewer_key(name), self._reviewers_per_item)

    def _name(self, request: Request) -> str | None:
        try:
            return clean_name(unquote(request.cookies.get(_REVIEWER_COOKIE, self._reviewer or "")))
        except ValueError:
            return None

    def _wanted(self, request: Request) -> Item:
        try:
            item = self._drafts.item(request.path_params["item_id"])
        except KeyError:
            raise HTTPException(404, "There is no such item among these drafts.") from None
        if not item.passes:
            raise HTTPException(404, "The checks set this item aside, so that nobody reviews it.")
        return item

    def _found(self, item: Item, texts: Texts) -> tuple[Finding, ...]:
        prompts, targets, others = (
            tuple(region.region() for region in own) for own in (item.prompts, item.targets, item.others)
        )
        return check(Subject(item.task, prompts, targets, others), texts, self._limits)

    def _shown(self, findings: Sequence[Finding]) -> list[Mapping[str, object]]:
        return [
            {"code": FINDING_WORDS[finding.code], "detail": finding.detail, "is_note": finding.code.is_note}
            for finding in findings
        ]

    def _url_of(self, item: Item | None) -> str:
        """Of an item; of the overview where there is none."""
        return f"{self.prefix}/" if item is None else f"{self.prefix}/items/{item.item_id}"


async def _read(request: Request, model: type[_RecordT]) -> _RecordT | Response:
    """What a browser sent, or the answer to what can't be understood."""
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        return JSONResponse({"message": "expected JSON"}, 415)
    try:
        return model.model_validate_json(await request.body())
    except ValidationError as error:
        first = error.errors()[0]
        return JSONResponse({"message": f"{'.'.join(map(str, first['loc']))}: {first['msg']}"}, 400)


def _texts(sent: _Edited) -> Texts:
    return normalised(Texts(**sent.model_dump()))
