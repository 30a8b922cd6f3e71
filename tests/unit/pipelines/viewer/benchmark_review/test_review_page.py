"""The review's routes, without a browser: what is shown, what is kept, what is refused."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from pipelines.benchmark_building.build import build_drafts
from pipelines.benchmark_building.drafts import Drafts
from pipelines.benchmark_building.records import BenchmarkTask, Item, Texts
from pipelines.benchmark_building.review.log import DecisionLog
from pipelines.benchmark_building.settings import BuildConfig
from pipelines.viewer.application import create_application
from pipelines.viewer.benchmark_review.page import ReviewPage
from storage.objects import Objects
from tests.object_corpora import MarkupCaptioner, write_object_corpus

_PORT = 8400
_SCRIPTS = ("/review/static/review.js", "/review/static/overview.js")
_EVIL = '<script>document.title="evil"</script><img src=x onerror=alert(1)>'


@pytest.fixture
def drafts(tmp_path: Path) -> Drafts:
    corpus = write_object_corpus(Objects.open(tmp_path / "corpus"))
    return build_drafts(
        corpus, BuildConfig(num_per_task=2), Objects.open(tmp_path / "drafts"), captioner=MarkupCaptioner(_EVIL)
    )


def client_of(drafts: Drafts, name: str | None, reviewers_per_item: int = 2) -> TestClient:
    application = create_application(ReviewPage(drafts, None, reviewers_per_item, fresh_s=0), "t", _PORT)
    client = TestClient(application, base_url=f"http://127.0.0.1:{_PORT}")
    client.get("/?token=t")
    if name is not None:
        client.post("/review/start", content=f"name={name}")
    return client


@pytest.fixture
def client(drafts: Drafts) -> TestClient:
    return client_of(drafts, "Ada")


def of_task(drafts: Drafts, task: BenchmarkTask) -> Item:
    return next(item for item in drafts.to_review if item.task is task)


def accept(client: TestClient, item: Item, **more: object):
    return client.post(f"/review/items/{item.item_id}/decision", json={"verdict": "accept", **more})


def test_who_reviews_is_asked_first(drafts: Drafts) -> None:
    client = client_of(drafts, None)
    item = drafts.to_review[0]
    for path in ("/", "/review/", "/review/open", f"/review/items/{item.item_id}"):
        assert "Who reviews?" in client.get(path).text
    assert accept(client, item).status_code == 409
    refused = client.post("/review/start", content="name=%1b%20")
    assert refused.status_code == 422
    assert "expected 1 to 60 characters that can be shown" in refused.text
    shown = client.post("/review/start", content="name=%C3%81da+%3Cb%3E")
    assert "Áda &lt;b&gt;" in shown.text
    assert "6 of 6 items wait for you" in shown.text


def test_markup_of_drafts_is_text(client: TestClient, drafts: Drafts) -> None:
    item = next(item for item in drafts.to_review if "script" in item.texts.caption)
    for path in ("/review/", f"/review/items/{item.item_id}"):
        text = client.get(path).text
        assert "&lt;script&gt;document.title" in text
        assert "<script>" not in text
        assert "<img src=x" not in text


def test_pages_load_nothing_from_elsewhere_and_hold_no_inline_code(client: TestClient, drafts: Drafts) -> None:
    for path in ("/review/start", "/review/", *(f"/review/items/{item.item_id}" for item in drafts.to_review)):
        text = client.get(path).text
        assert re.findall(r'(?:src|href|action)="(?!/)[^"#]', text) == []
        assert re.findall(r"<script(?! src)|<style|<[^>]*\s(?:style|on\w+)=", re.sub(r'"[^"]*"', '""', text)) == []
    for name in ("/static/viewer.css", "/static/icon.svg", "/review/static/review.css", *_SCRIPTS):
        body = client.get(name)
        assert body.status_code == 200
        assert "http" not in body.text.replace("http://www.w3.org/2000/svg", "")


def test_every_field_has_a_name_for_those_who_hear_the_page(client: TestClient, drafts: Drafts) -> None:
    for task in BenchmarkTask:
        text = client.get(f"/review/items/{of_task(drafts, task).item_id}").text
        labels = set(re.findall(r'<label for="(\w+)"', text))
        for field in re.findall(r"<(?:textarea|input)[^>]*>", text):
            name = re.search(r'id="(\w+)"', field)
            assert "aria-label=" in field or (name is not None and name[1] in labels)


def test_the_picture_and_its_regions(client: TestClient, drafts: Drafts) -> None:
    item = of_task(drafts, BenchmarkTask.VISUAL_TEXT_REFERRING)
    picture = client.get(f"/review/items/{item.item_id}/picture")
    assert picture.headers["content-type"] == "image/png"
    assert picture.content == drafts.picture(item)
    layer = np.asarray(Image.open(io.BytesIO(client.get(f"/review/items/{item.item_id}/masks.png").content)))
    assert layer.shape == (item.height, item.width, 4)
    assert {tuple(colour[:3]) for colour in layer[layer[..., 3] == 255]} == {(255, 196, 0), (22, 199, 132)}


def test_a_picture_that_a_browser_does_not_show_is_not_sent(client: TestClient, drafts: Drafts) -> None:
    item = drafts.to_review[0]
    drafts.objects.put(f"pictures/{item.image_name}", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>")
    answer = client.get(f"/review/items/{item.item_id}/picture")
    assert answer.status_code == 404
    assert "of no kind that a browser shows" in answer.text


def test_a_decision_leads_to_the_next_open_item_until_nothing_waits(client: TestClient, drafts: Drafts) -> None:
    path = client.get("/review/open").url.path
    seen: list[str] = []
    while path != "/review/":
        seen.append(path)
        path = client.post(f"{path}/decision", json={"verdict": "accept"}).json()["next"]
    assert len(set(seen)) == len(seen) == 6
    assert "Nothing waits for you" in client.get("/review/").text
    assert len(list(drafts.objects.list("decisions"))) == 6


def test_an_edit_is_kept_and_shown_again(client: TestClient, drafts: Drafts) -> None:
    item = of_task(drafts, BenchmarkTask.MULTIPLE_CHOICE)
    texts = {"question": " What  is <region1> called?", "options": ["a mug", "a  jug"], "right": 1}
    assert accept(client, item, texts=texts).status_code == 200
    log = DecisionLog(drafts.objects)
    log.refresh()
    ((decision,),) = log.by_reviewer().values()
    assert decision.verdict.value == "edited"
    assert decision.texts == Texts(question="What is <region1> called?", options=("a mug", "a jug"), right=1)
    text = client_of(drafts, "ada").get(f"/review/items/{item.item_id}").text
    assert "What is &lt;region1&gt; called?" in text
    assert 'value="a jug"' in text
    assert "you: edited" in text


def test_what_could_not_be_exported_is_refused(client: TestClient, drafts: Drafts) -> None:
    item = of_task(drafts, BenchmarkTask.MULTIPLE_CHOICE)
    texts = {"question": "What is it?", "options": ["a mug"], "right": 0}
    answer = accept(client, item, texts=texts, despite=True)
    assert answer.status_code == 422
    assert answer.json()["can_insist"] is False
    assert {finding["code"] for finding in answer.json()["findings"]} >= {"placeholders", "options count"}
    assert list(drafts.objects.list("decisions")) == []


def test_what_people_judge_better_needs_insisting(client: TestClient, drafts: Drafts) -> None:
    item = of_task(drafts, BenchmarkTask.DETAILED_CAPTION)
    texts = {"caption": "A cup."}
    answer = accept(client, item, texts=texts)
    assert (answer.status_code, answer.json()["can_insist"]) == (422, True)
    assert accept(client, item, texts=texts, despite=True).status_code == 200
    log = DecisionLog(drafts.objects)
    log.refresh()
    ((decision,),) = log.by_reviewer().values()
    assert [finding.code.value for finding in decision.despite] == ["caption_short"]


def test_texts_are_checked_while_they_are_written(client: TestClient, drafts: Drafts) -> None:
    item = of_task(drafts, BenchmarkTask.DETAILED_CAPTION)
    found = client.post(f"/review/items/{item.item_id}/check", json={"caption": "A <b>cup</b> [SEG]"}).json()
    assert [finding["code"] for finding in found["findings"]] == ["caption short", "placeholders"]


def test_undo_leads_back(client: TestClient, drafts: Drafts) -> None:
    assert client.post("/review/undo", json={}).status_code == 409
    item = drafts.to_review[0]
    client.post(f"/review/items/{item.item_id}/decision", json={"verdict": "reject", "reason": " not  sharp "})
    assert "you: rejected" in client.get(f"/review/items/{item.item_id}").text
    assert 'value="not sharp"' in client.get(f"/review/items/{item.item_id}").text
    assert client.post("/review/undo", json={}).json()["next"] == f"/review/items/{item.item_id}"
    assert "6 of 6 items wait for you" in client.get("/review/").text


def test_others_decisions_are_hidden_until_the_own_one_and_a_dispute_gets_a_third_look(drafts: Drafts) -> None:
    ada, bo, cy = (client_of(drafts, name) for name in ("Ada", "Bo", "Cy"))
    item = drafts.to_review[0]
    page = f"/review/items/{item.item_id}"
    accept(ada, item)
    assert "What others decided" not in bo.get(page).text
    bo.post(f"{page}/decision", json={"verdict": "reject", "reason": "wrong place"})
    assert "wrong place" in ada.get(page).text
    overview = cy.get("/review/").text
    assert f'<a href="{page}">' in overview
    assert '<dd id="equal">0 %</dd>' in overview
    third = cy.get(page).text
    assert "disputed" in third
    assert "wrong place" in third
    accept(cy, item)
    assert "No item is disputed." in cy.get("/review/").text
    assert "5 of 6 items wait for you" in client_of(drafts, "Di").get("/review/").text


@pytest.mark.parametrize(
    ("path", "content", "kind", "status"),
    [
        ("decision", b'{"verdict": "accept"}', "text/plain", 415),
        ("decision", b'{"verdict": "maybe"}', "application/json", 400),
        ("decision", b'{"verdict": "accept", "x": 1}', "application/json", 400),
        ("decision", b"[", "application/json", 400),
        ("check", b'{"right": "a"}', "application/json", 400),
    ],
)
def test_what_can_not_be_understood(
    client: TestClient, drafts: Drafts, path: str, content: bytes, kind: str, status: int
) -> None:
    url = f"/review/items/{drafts.to_review[0].item_id}/{path}"
    assert client.post(url, content=content, headers={"content-type": kind}).status_code == status
    assert list(drafts.objects.list("decisions")) == []


def test_items_that_are_not_there(client: TestClient, drafts: Drafts) -> None:
    for path in (
        "/review/items/absent",
        "/review/items/absent/picture",
        "/review/nothing",
        "/review/static/../page.py",
    ):
        assert client.get(f"/review/{path}").status_code == 404
    assert "no such item among these drafts" in client.get("/review/items/absent").text


def test_a_damaged_store_is_told_and_not_shown_as_a_traceback(client: TestClient, drafts: Drafts) -> None:
    drafts.objects.create("decisions/x/000000.json", b"broken")
    answer = client.get("/review/")
    assert answer.status_code == 500
    assert "expected a decision, got" in answer.text
    assert "Traceback" not in answer.text
