"""The pages of a corpus in a real browser, headless: search, pages, one sample, rejects, by mouse and keyboard.

Pictures of the pages are kept in the test's folder.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.objects import Objects
from tests.browsing import OpenPage, wait_for_pictures
from tests.many_samples import write_many_samples
from tests.view_server import ViewServer

_NUM_SAMPLES = 100_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ViewServer]:
    """`sailloft view` of a hundred thousand samples."""
    folder = tmp_path_factory.mktemp("corpus")
    corpus = write_many_samples(Objects.open(folder / "corpus"), _NUM_SAMPLES)
    server = ViewServer(corpus.objects.url, folder / "server.log")
    yield server
    server.stop(signal.SIGTERM)


@pytest.mark.timeout(240)
def test_samples_are_found_and_shown(server: ViewServer, open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(server.address)
    assert "token" not in page.url
    assert page.inner_text("#num") == "100,000 samples"
    wait_for_pictures(page)
    page.screenshot(path=tmp_path / "samples.png")

    page.keyboard.press("/")
    page.keyboard.type("brown dog 4321")
    page.keyboard.press("Enter")
    page.wait_for_url("**/?words=brown+dog+4321**")
    # Numbers that hold 4321 and have the dog: 2 modulo 4.
    meant = [number for number in range(_NUM_SAMPLES) if "4321" in str(number) and number % 4 == 2]
    assert page.locator(".card").count() == len(meant)
    shown = sorted(text.rpartition(" ")[2] for text in page.locator(".card .words").all_inner_texts())
    assert shown == sorted(map(str, meant))

    page.goto(page.url.partition("?")[0])
    with page.expect_navigation():
        page.select_option("#split", "val")
    assert page.inner_text("#num") == "10,000 samples"
    first = page.locator(".card").first.get_attribute("href")
    with page.expect_navigation():
        page.keyboard.press("ArrowRight")
    assert "page 2 of 209" in page.inner_text(".pager")
    assert page.locator(".card").first.get_attribute("href") != first
    with page.expect_navigation():
        page.keyboard.press("ArrowLeft")
    assert page.locator(".card").first.get_attribute("href") == first


@pytest.mark.timeout(120)
def test_a_sample_with_and_without_its_masks(server: ViewServer, open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(server.address)
    where = page.url
    with page.expect_navigation():
        page.locator(".card").nth(2).click()
    wait_for_pictures(page)
    page.screenshot(path=tmp_path / "sample.png", full_page=True)
    drawn = page.get_attribute("#picture", "src")
    page.keyboard.press("m")
    assert str(page.get_attribute("#picture", "src")).endswith("/plain.jpg")
    page.click("#masks")
    assert page.get_attribute("#picture", "src") == drawn
    assert "refs.json" in page.inner_text(".facts")
    with page.expect_navigation():
        page.keyboard.press("Escape")
    assert page.url == where


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("name", "width_px", "scheme"), [("wide", 1366, "light"), ("narrow", 400, "dark")])
def test_rejects_by_reason(
    server: ViewServer, open_page: OpenPage, tmp_path: Path, name: str, width_px: int, scheme: str
) -> None:
    page = open_page(server.address, viewport={"width": width_px, "height": 850}, color_scheme=scheme)
    wait_for_pictures(page)
    page.screenshot(path=tmp_path / f"samples-{name}.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= width_px
    with page.expect_navigation():
        page.click("text=Rejects")
    assert page.inner_text("#num") == "1,000 rejects"
    with page.expect_navigation():
        page.select_option("#reason", "text_empty")
    assert page.inner_text("#num") == "10 rejects"
    page.screenshot(path=tmp_path / f"rejects-{name}.png")
