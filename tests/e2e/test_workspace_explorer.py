"""The pages of a workspace in a real browser, headless: runs, outputs, curves, and the way into an output and back.

Pictures of the pages are kept in the test's folder.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browsing import OpenPage, wait_for_pictures
from tests.view_server import ViewServer
from tests.viewed_workspaces import DONE, ViewedWorkspace


@pytest.fixture(scope="module")
def server(viewed_root: Path, viewed: ViewedWorkspace) -> Iterator[ViewServer]:
    server = ViewServer(str(viewed_root), viewed_root / "server.log")
    yield server
    server.stop(signal.SIGTERM)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("name", "width_px", "scheme"), [("wide", 1366, "light"), ("narrow", 400, "dark")])
def test_runs_and_curves(
    server: ViewServer, open_page: OpenPage, tmp_path: Path, name: str, width_px: int, scheme: str
) -> None:
    page = open_page(server.address, viewport={"width": width_px, "height": 850}, color_scheme=scheme)
    assert page.inner_text("#num") == "3 runs"
    page.screenshot(path=tmp_path / f"first-{name}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width_px
    for box in page.locator("input[name=of]").all():
        box.check()
    with page.expect_navigation():
        page.click("text=Show their curves")
    assert page.locator("figure svg").count() == 8
    drawn = page.locator("polyline.mean").evaluate_all("lines => lines.map(line => getComputedStyle(line).stroke)")
    assert len(set(drawn)) == 2
    page.screenshot(path=tmp_path / f"curves-{name}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width_px
    with page.expect_navigation():
        page.click("nav >> text=Runs")
    with page.expect_navigation():
        page.click(f"text={DONE}")
    assert "done" in page.inner_text("h1")
    page.screenshot(path=tmp_path / f"run-{name}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width_px


@pytest.mark.timeout(120)
def test_into_an_output_and_back(server: ViewServer, open_page: OpenPage, viewed: ViewedWorkspace) -> None:
    page = open_page(server.address)
    where = page.url
    with page.expect_navigation():
        page.click(f"a[href$='{viewed.store}/']")
    assert page.inner_text("#num") == "29 images"
    with page.expect_navigation():
        page.locator(".card").first.click()
    wait_for_pictures(page, "#original, #features")
    with page.expect_navigation():
        page.click(".brand")
    assert page.url == where
