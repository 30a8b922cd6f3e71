"""Checkpoints tried and evaluations compared in a real browser, headless, by mouse and keyboard.

Pictures of the pages are kept in the test's folder.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Page, expect

from storage.objects import Objects
from tests.browsing import OpenPage, wait_for_pictures
from tests.many_samples import write_many_samples
from tests.masking_student import write_masking_student
from tests.toy_evaluations import shifted_predictions, write_evaluation
from tests.view_server import ViewServer

_NUM_QUESTIONS = 100_000
_CORPUS_KEY = "c0" * 32
_OPENED_S = 2.0
_VIEWS = [("wide", 1366, "light"), ("narrow", 400, "dark")]


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JPEG of two shapes."""
    image = Image.new("RGB", (640, 420), (214, 205, 188))
    draw = ImageDraw.Draw(image)
    draw.ellipse((80, 90, 260, 300), fill=(190, 48, 44), outline=(90, 20, 20), width=5)
    draw.rectangle((360, 160, 560, 340), fill=(52, 96, 170), outline=(20, 36, 80), width=5)
    path = tmp_path_factory.mktemp("picture") / "two shapes.jpg"
    image.save(path, quality=92)
    return path


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ViewServer]:
    """`sailloft view A --against B`: the first student draws masks, the second one answers in words."""
    folder = tmp_path_factory.mktemp("trial")
    first = write_masking_student(folder / "first")
    second = write_masking_student(folder / "second", "red")
    corpus = write_many_samples(Objects.open(folder / "corpus"), 200, 5)
    server = ViewServer(str(first), folder / "server.log", "--against", str(second), "--corpus", corpus.objects.url)
    yield server
    server.stop(signal.SIGTERM)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ViewServer]:
    """`sailloft view A --against B` of two evaluations of a hundred thousand answers each."""
    folder = tmp_path_factory.mktemp("comparison")
    corpus = write_many_samples(Objects.open(folder / "curate" / _CORPUS_KEY), _NUM_QUESTIONS, 5)
    shifts: list[Callable[[int], int]] = [lambda number: 8, lambda number: {3: 0, 5: 20}.get(number % 1000, 8)]
    first, second = (
        write_evaluation(Objects.open(folder / "evaluate" / name), shifted_predictions(corpus, shift), _CORPUS_KEY)
        for name, shift in zip("ab", shifts, strict=True)
    )
    server = ViewServer(first.url, folder / "server.log", "--against", second.url)
    yield server
    server.stop(signal.SIGTERM)


def _ask(page: Page, times: int) -> list[str]:
    """Asks by the keyboard, as often as that by now; the states of both students, once they have answered."""
    page.keyboard.press("Control+Enter")
    page.locator(f".student[data-done='{times}']").nth(1).wait_for()
    return page.locator(".student .state").all_inner_texts()


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("name", "width_px", "scheme"), _VIEWS)
def test_an_own_picture_is_asked_about(
    trial: ViewServer, open_page: OpenPage, picture: Path, tmp_path: Path, name: str, width_px: int, scheme: str
) -> None:
    page = open_page(trial.address, viewport={"width": width_px, "height": 850}, color_scheme=scheme)
    assert page.is_disabled("#go")
    page.set_input_files("#file", picture)
    page.wait_for_selector("#go:not([disabled])")
    assert page.inner_text("#size") == "640 x 420 px"

    page.fill("#words", "the red ellipse")
    page.fill("#tokens", "2")
    states = _ask(page, 1)
    assert [state.startswith("Answered in ") for state in states] == [True, True]
    first, second = (page.locator(f".student[data-student='{number}']") for number in (0, 1))
    assert first.locator(".said").inner_text() == "[SEG][SEG]"
    assert first.locator(".masks li").count() == 2
    assert "certainty 0." in first.locator(".masks").inner_text()
    assert second.locator(".masks li").count() == 0
    assert "asked: Please segment the red ellipse in this image." in first.inner_text()
    wait_for_pictures(page, ".drawn")

    # A box, drawn from corner to corner with the mouse, gets words.
    page.check("input[name=tool][value=box]")
    assert page.input_value("#kind") == "describe"
    assert page.is_disabled("#words")
    page.locator("#photo").scroll_into_view_if_needed()
    box = page.locator("#photo").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + box["height"] * 0.75)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5, steps=4)
    page.mouse.up()
    corners = [float(page.input_value(f"#{side}")) for side in ("x0", "y0", "x1", "y1")]
    assert corners == pytest.approx([320, 210, 480, 315], abs=3)
    _ask(page, 2)
    assert "Please describe <region1> in detail." in second.inner_text()
    assert len(second.locator(".said").inner_text()) > 0

    # A point, written as numbers.
    page.check("input[name=tool][value=point]")
    page.fill("#x0", "170")
    page.fill("#y0", "200")
    assert page.is_visible("#mark")
    _ask(page, 3)
    page.screenshot(path=tmp_path / f"trial-{name}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width_px


@pytest.mark.timeout(120)
def test_files_that_are_refused_and_a_picture_that_is_dropped(
    trial: ViewServer, open_page: OpenPage, tmp_path: Path
) -> None:
    page = open_page(trial.address)
    (tmp_path / "notes.png").write_text("no picture")
    page.set_input_files("#file", tmp_path / "notes.png")
    page.wait_for_selector("#message:not([hidden])")
    assert "notes.png: picture: expected an image that PIL can read" in page.inner_text("#message")
    assert page.is_disabled("#go")
    page.evaluate(
        """async () => {
          const canvas = document.createElement("canvas");
          canvas.width = 90; canvas.height = 60;
          canvas.getContext("2d").fillRect(10, 10, 30, 30);
          const blob = await new Promise((resolve) => canvas.toBlob(resolve));
          const carried = new DataTransfer();
          carried.items.add(new File([blob], "dropped.png", { type: "image/png" }));
          const drop = new DragEvent("drop", { dataTransfer: carried, bubbles: true });
          document.getElementById("stage").dispatchEvent(drop);
        }"""
    )
    page.wait_for_selector("#go:not([disabled])")
    assert page.inner_text("#size") == "90 x 60 px"
    page.click("#go")
    expect(page.locator(".student .state:not(.bad)")).to_have_count(0)
    refusals = page.locator(".student .state").all_inner_texts()
    assert refusals
    assert all("words: expected some, got none" in refusal for refusal in refusals)


@pytest.mark.timeout(120)
def test_a_sample_of_the_corpus_beside_its_truth(trial: ViewServer, open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(trial.address)
    with page.expect_navigation():
        page.click("text=Samples of the corpus")
    page.keyboard.press("/")
    page.keyboard.type("brown dog 42")
    page.keyboard.press("Enter")
    page.wait_for_url("**words=brown+dog+42**")
    with page.expect_navigation():
        page.locator(".card").first.click()
    assert "brown dog" in page.input_value("#words")
    page.fill("#tokens", "1")
    states = _ask(page, 1)
    assert all("IoU 0." in state for state in states)
    wait_for_pictures(page, ".drawn")
    page.screenshot(path=tmp_path / "sample.png", full_page=True)


@pytest.mark.timeout(280)
@pytest.mark.parametrize(("name", "width_px", "scheme"), _VIEWS)
def test_two_evaluations_are_compared(
    comparison: ViewServer, open_page: OpenPage, tmp_path: Path, name: str, width_px: int, scheme: str
) -> None:
    page = open_page(comparison.address, viewport={"width": width_px, "height": 850}, color_scheme=scheme)
    begun = time.monotonic()
    page.goto(page.url)
    opened_s = time.monotonic() - begun
    assert page.inner_text("#num") == "100,000 questions"
    assert opened_s < _OPENED_S
    assert "B is better on 100, worse on 100, equal on 99,800" in page.inner_text("#means")
    assert "+0." in page.locator(".row .change").first.inner_text()
    wait_for_pictures(page, num=3)
    page.screenshot(path=tmp_path / f"comparison-{name}.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= width_px

    with page.expect_navigation():
        page.select_option("#order", "losses")
    assert "-0." in page.locator(".row .change").first.inner_text()
    page.fill("#words", 'cup "number 1005"')
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert page.inner_text("#num") == "5 questions"
    with page.expect_navigation():
        page.locator(".row h2 a").first.click()
    wait_for_pictures(page, ".views img")
    assert page.locator(".views img").count() == 3
    page.screenshot(path=tmp_path / f"prediction-{name}.png", full_page=True)
    with page.expect_navigation():
        page.keyboard.press("Escape")
    assert page.inner_text("#num") == "5 questions"
