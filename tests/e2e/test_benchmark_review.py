"""The review in a real browser, headless: by keyboard, with a killed server, two people, and what must be refused.

Pictures of the pages are kept in the test's folder.
"""

from __future__ import annotations

import signal
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from typer.testing import CliRunner

from jobs.cli import app
from pipelines.benchmark_building.build import build_drafts
from pipelines.benchmark_building.drafts import Drafts
from pipelines.benchmark_building.review.log import DecisionLog
from pipelines.benchmark_building.review.outcomes import State, agreement, outcomes
from pipelines.benchmark_building.settings import BuildConfig
from pipelines.curation.config import CurationConfig
from pipelines.curation.corpora import curate_local
from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.pipeline import evaluate
from pipelines.progress import NullProgress
from storage.corpus import Corpus
from storage.objects import Objects
from tests.browsing import OpenPage, wait_for_pictures
from tests.masking_student import write_masking_student
from tests.object_corpora import MarkupCaptioner, write_object_corpus
from tests.view_server import ViewServer

_EVIL = '<script>document.title="evil"</script><img src=x onerror="document.title=1">'


@pytest.fixture
def drafts(tmp_path: Path) -> Drafts:
    """Six drafts on drawn objects, one of them with markup."""
    corpus = write_object_corpus(Objects.open(tmp_path / "corpus"))
    return build_drafts(
        corpus, BuildConfig(num_per_task=2), Objects.open(tmp_path / "drafts"), captioner=MarkupCaptioner(_EVIL)
    )


def as_reviewer(page: Page, name: str) -> Page:
    """Says whose name it is."""
    page.fill("#name", name)
    page.keyboard.press("Enter")
    page.wait_for_url("**/review/")
    return page


def press(page: Page, key: str) -> None:
    """Presses a key that leads to another page, and waits for that page."""
    with page.expect_navigation(wait_until="load"):
        page.keyboard.press(key)


def decisions_of(drafts: Drafts, name: str) -> list[str]:
    log = DecisionLog(drafts.objects)
    log.refresh()
    return [
        decision.verdict.value for acts in log.by_reviewer().values() for decision in acts if decision.reviewer == name
    ]


@pytest.mark.timeout(240)
def test_two_people_review_by_keyboard_and_a_killed_server_loses_nothing(
    drafts: Drafts, open_page: OpenPage, tmp_path: Path
) -> None:
    server = ViewServer(drafts.objects.url, tmp_path / "first.log")
    try:
        page = as_reviewer(open_page(server.address), "Ada")
        assert "token" not in page.url
        page.screenshot(path=tmp_path / "overview.png")
        press(page, "o")
        wait_for_pictures(page, "#masks")
        page.screenshot(path=tmp_path / "caption.png")

        # Markup of a draft is text.
        page.goto(page.url)
        while "<script>" not in page.input_value("#caption"):
            press(page, "n")
        assert "evil" not in page.title()
        assert page.locator("script:not([src])").count() == 0
        press(page, "o")

        page.keyboard.press("m")
        assert not page.is_visible("#masks")
        page.keyboard.press("m")
        page.keyboard.press("?")
        assert page.is_visible("#help")
        page.screenshot(path=tmp_path / "help.png")
        page.keyboard.press("Escape")

        press(page, "a")
        page.keyboard.press("e")
        page.keyboard.type(" It looks quite new.")
        page.keyboard.press("Control+Enter")
        page.wait_for_url("**/items/**")
        expect(page.locator("#title")).to_have_text("Multiple choice")
        page.keyboard.press("z")
        page.screenshot(path=tmp_path / "choice.png")
        page.fill("#reason", "what it is isn't seen")
        page.keyboard.press("Escape")
        press(page, "r")
        assert decisions_of(drafts, "Ada") == ["accepted", "edited", "rejected"]

        server.stop(signal.SIGKILL)
        page.keyboard.press("a")
        page.wait_for_selector("#message:not([hidden])")
        assert "this decision is not kept" in page.inner_text("#message")
        assert decisions_of(drafts, "Ada") == ["accepted", "edited", "rejected"]
    finally:
        server.stop(signal.SIGKILL)

    server = ViewServer(drafts.objects.url, tmp_path / "second.log", "--port", str(server.port))
    try:
        # The old token isn't valid any more, and the page says what to do.
        page.keyboard.press("a")
        expect(page.locator("#message")).to_contain_text("open the address")
        page = as_reviewer(open_page(server.address), "ada")
        assert "3 of 6 items wait for you" in page.inner_text("h1")
        press(page, "o")
        press(page, "u")
        assert "rejected" not in page.inner_text(".head")
        press(page, "r")
        for _ in range(3):
            press(page, "a")
        assert "Nothing waits for you" in page.inner_text("main")

        # Somebody else at the same time, in another browser.
        other = as_reviewer(open_page(server.address), "Bo")
        press(other, "o")
        for _ in range(6):
            press(other, "a")
        other.reload()
        # Accepted by one and edited or rejected by the other: two of six.
        assert other.inner_text("#equal") == "67 %"
        assert other.locator("#disputed li").count() == 2
        other.screenshot(path=tmp_path / "agreement.png", full_page=True)

        third = as_reviewer(open_page(server.address), "Cy")
        assert "2 of 6 items wait for you" in third.inner_text("h1")
        press(third, "o")
        assert "What others decided" in third.inner_text("main")
        third.screenshot(path=tmp_path / "third-look.png", full_page=True)
        press(third, "a")
        press(third, "a")
        assert "No item is disputed." in third.inner_text("main")
    finally:
        assert server.stop(signal.SIGINT) in (0, 130)
    log = DecisionLog(drafts.objects)
    log.refresh()
    found = outcomes(log.by_reviewer(), [item.item_id for item in drafts.to_review])
    assert {outcome.state for outcome in found.values()} == {State.ACCEPTED}
    assert agreement(found.values()).kappa is not None


@pytest.mark.timeout(120)
def test_only_this_machine_with_the_token_is_served(drafts: Drafts, open_page: OpenPage, tmp_path: Path) -> None:
    server = ViewServer(drafts.objects.url, tmp_path / "server.log")
    try:
        for address in (server.address.partition("?")[0], f"{server.address}x"):
            page = open_page(address)
            assert "needs the token in its address" in page.inner_text("body")
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(address)
        own = socket.gethostbyname(socket.gethostname())
        if not own.startswith("127."):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((own, server.port), timeout=5)
        assert server.address.partition("token=")[2] not in _log_without_address(tmp_path / "server.log")
    finally:
        server.stop(signal.SIGTERM)


def _log_without_address(log: Path) -> str:
    return "\n".join(line for line in log.read_text().splitlines() if not line.startswith("open http"))


@pytest.mark.timeout(300)
def test_thirty_items_on_photographs_from_drafts_to_scores(
    shared_data: Path, open_page: OpenPage, tmp_path: Path
) -> None:
    """Ten drafts per task on COCO's photographs, reviewed by two people, exported, read back, and a student scored."""
    root = shared_data / "data/coco2017"
    source = {"kind": "coco_panoptic", "annotations": "annotations/panoptic_val2017.json", "images": "val2017"}
    config = CurationConfig.model_validate({"root": str(root), "sources": [{**source, "split": "val"}]})
    curate_local(config, Objects.open(tmp_path / "corpus"), NullProgress())
    shown = _command("benchmark", "build", str(tmp_path / "corpus"), "num_per_task=10", "--to", str(tmp_path / "made"))
    drafts = Drafts.open(Objects.open(shown.splitlines()[-1].rpartition(" ")[2]))
    assert len(drafts.to_review) == 30

    server = ViewServer(drafts.objects.url, tmp_path / "server.log")
    try:
        for name in ("Ada", "Bo"):
            page = as_reviewer(open_page(server.address), name)
            press(page, "o")
            for number in range(30):
                if name == "Ada" and number in (0, 10, 20):
                    wait_for_pictures(page, "#masks")
                    page.screenshot(path=tmp_path / f"photograph-{number}.png")
                press(page, "a")
            assert "Nothing waits for you" in page.inner_text("main")
        assert page.inner_text("#equal") == "100 %"
    finally:
        server.stop(signal.SIGTERM)

    folder = tmp_path / "benchmark"
    shown = _command("benchmark", "export", drafts.objects.url, "--to", str(folder))
    assert shown.startswith(f"{folder}: 10 detailed_caption, 10 mcq, 10 visual_text_res on ")
    config = CurationConfig.model_validate({"root": str(folder), "sources": [{"kind": "perbench", "images": "images"}]})
    curate_local(config, Objects.open(tmp_path / "benchmark-corpus"), NullProgress())
    corpus = Corpus.open(tmp_path / "benchmark-corpus")
    assert corpus.manifest.facts["num_rejects"] == 0
    assert corpus.manifest.facts["num_samples"] == 30
    # The photographs are known as COCO's, so that the leakage gate finds them.
    assert all(image.coco_id is not None for image in corpus.images())

    student = write_masking_student(tmp_path / "student")
    kinds = ("description", "multiple_choice", "visual_text_referring")
    recipe = EvaluationConfig.model_validate(
        {"benchmarks": [{"kind": kind, "variants": ["standard"]} for kind in kinds], "max_new_tokens": 4}
    )
    done = evaluate(corpus, Objects.open(student), recipe, Objects.open("memory://benchmark-review"))
    assert done.facts["num_questions"] == 30
    scores = {(row["benchmark"], row["metric"]): row for row in done.facts["scores"]}  # type: ignore[union-attr]
    for benchmark in kinds:
        assert any(name == benchmark and row["num_samples"] == 10 for (name, _), row in scores.items())
    assert scores["visual_text_referring", "cIoU"]["value"] is not None


def _command(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None:
        raise result.exception
    return result.stdout
