"""The pages of a feature store in a real browser, headless: search, pages, one image in all colourings, rejects.

Pictures of the pages are kept in the test's folder.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from pipelines.viewer.application import create_application
from pipelines.viewer.pages import PageOptions
from pipelines.viewer.pages import open_page as show_url
from storage.objects import Objects
from tests.browsing import OpenPage, wait_for_pictures
from tests.many_features import image_name, write_many_features
from tests.view_server import ViewServer
from tests.viewed_workspaces import ViewedWorkspace

_NUM_IMAGES = 100_000
_PORT = 8400


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    """Features of a hundred thousand images."""
    objects = Objects.open(tmp_path_factory.mktemp("many") / "store")
    write_many_features(objects, _NUM_IMAGES)
    return objects


@pytest.fixture(scope="module")
def many(store: Objects, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ViewServer]:
    server = ViewServer(store.url, tmp_path_factory.mktemp("log") / "server.log")
    yield server
    server.stop(signal.SIGTERM)


@pytest.fixture(scope="module")
def server(viewed_root: Path, viewed: ViewedWorkspace) -> Iterator[ViewServer]:
    """`sailloft view` of the address that `teach` prints."""
    server = ViewServer(str(viewed_root / viewed.coverage_path), viewed_root / "server.log")
    yield server
    server.stop(signal.SIGTERM)


@pytest.mark.timeout(240)
def test_many_images_open_at_once(store: Objects) -> None:
    begun_s = time.process_time()  # the machine may be busy with other things
    page = show_url(store.url, PageOptions())
    client = TestClient(create_application(page, "token", _PORT), base_url=f"http://127.0.0.1:{_PORT}")
    assert "99,900 images" in client.get("/?token=token").text
    assert time.process_time() - begun_s < 2


@pytest.mark.timeout(240)
def test_many_images_are_searched(many: ViewServer, open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(many.address)
    assert "token" not in page.url
    assert page.inner_text("#num") == "99,900 images"
    wait_for_pictures(page)
    page.screenshot(path=tmp_path / "many.png")
    page.keyboard.press("/")
    page.keyboard.type(image_name(4321)[3:20])
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert page.locator(".card").count() == 1
    assert image_name(4321) in page.inner_text(".card")
    page.goto(page.url.partition("?")[0])
    with page.expect_navigation():
        page.keyboard.press("ArrowRight")
    assert "page 2 of 2,082" in page.inner_text(".pager")
    with page.expect_navigation():
        page.click("text=Rejects")
    assert page.inner_text("#num") == "100 rejects"


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("name", "width_px", "scheme"), [("wide", 1366, "light"), ("narrow", 400, "dark")])
def test_an_image_beside_its_features(
    server: ViewServer, open_page: OpenPage, tmp_path: Path, name: str, width_px: int, scheme: str
) -> None:
    page = open_page(server.address, viewport={"width": width_px, "height": 850}, color_scheme=scheme)
    where = page.url
    wait_for_pictures(page)
    page.screenshot(path=tmp_path / f"images-{name}.png")
    with page.expect_navigation():
        page.locator(".card").nth(2).click()
    wait_for_pictures(page)
    assert page.locator("#original").count() == 1
    page.screenshot(path=tmp_path / f"image-{name}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width_px
    for key, colours in (("2", "image"), ("3", "norm"), ("1", "store")):
        page.keyboard.press(key)
        wait_for_pictures(page)
        assert str(page.get_attribute("#features", "src")).endswith(f"/{colours}.png")
        assert page.get_attribute(f"button[data-picture$='/{colours}.png']", "aria-pressed") == "true"
        page.screenshot(path=tmp_path / f"{colours}-{name}.png")
    with page.expect_navigation():
        page.keyboard.press("Escape")
    assert page.url == where
    with page.expect_navigation():
        page.click("text=Store")
    assert "sam2" in page.inner_text("dl.facts")
    assert page.evaluate("document.documentElement.scrollWidth") <= width_px
    page.screenshot(path=tmp_path / f"store-{name}.png", full_page=True)
