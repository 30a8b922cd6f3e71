"""Pages of outputs are opened once, by whoever asks first, and again when more is there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.testclient import TestClient

from pipelines.viewer.features.page import FeaturesPage
from pipelines.viewer.pages import Grows, Page
from pipelines.viewer.workspace.outputs import OutputPages
from storage.objects import Objects
from tests.many_features import write_many_features


class _Numbered:
    """A page that says how many were opened before it."""

    static: Path | None = None

    def __init__(self, below: str, number: int) -> None:
        self.prefix, self._number = f"{below}/shown", number

    def routes(self) -> Sequence[BaseRoute]:
        return [Route("/", self._say)]

    def _say(self, request: Request) -> Response:
        return PlainTextResponse(str(self._number))


class _Growing(_Numbered):
    grown = False

    def has_grown(self) -> bool:
        return type(self).grown


def _client(open_page: Callable[[str, str], Page | None], look_every_s: float = 10.0) -> TestClient:
    pages = OutputPages(open_page, "/output", look_every_s)
    return TestClient(Starlette(routes=[Mount("/output/{key}", app=pages)]))


@pytest.mark.parametrize(
    ("kind", "look_every_s", "grown", "expected"),
    [
        (_Numbered, 0.0, True, ["0", "0"]),
        (_Growing, 0.0, False, ["0", "0"]),
        (_Growing, 0.0, True, ["0", "1"]),
        (_Growing, 1000.0, True, ["0", "0"]),
    ],
)
def test_what_has_grown_is_opened_again(
    monkeypatch: pytest.MonkeyPatch, kind: type[_Numbered], look_every_s: float, grown: bool, expected: list[str]
) -> None:
    monkeypatch.setattr(_Growing, "grown", grown)
    opened: list[Page] = []

    def open_page(key: str, below: str) -> Page:
        opened.append(kind(below, len(opened)))
        return opened[-1]

    client = _client(open_page, look_every_s)
    assert [client.get("/output/a/shown/").text for _ in expected] == expected
    assert len(opened) == int(expected[-1]) + 1


def test_what_takes_long_to_open_holds_up_no_other_output() -> None:
    asked, may_open = threading.Event(), threading.Event()

    def open_page(key: str, below: str) -> Page:
        if key == "large":
            asked.set()
            assert may_open.wait(30)
        return _Numbered(below, 0)

    client = _client(open_page)
    with ThreadPoolExecutor(2) as pool:
        large = pool.submit(client.get, "/output/large/shown/")
        assert asked.wait(30)
        assert client.get("/output/small/shown/").text == "0"
        assert not large.done()
        may_open.set()
        assert large.result().text == "0"


def test_feature_stores_tell_that_they_have_grown(tmp_path: Path) -> None:
    store = Objects.open(tmp_path / "store")
    write_many_features(store, 2)
    page = FeaturesPage.open(store)
    assert isinstance(page, Grows)
    assert not page.has_grown()
    write_many_features(store, 3)
    assert page.has_grown()
    assert not FeaturesPage.open(store).has_grown()
