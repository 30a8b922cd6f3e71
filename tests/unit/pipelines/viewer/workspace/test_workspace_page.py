"""The pages of a workspace: runs, outputs, curves, and the pages of outputs below it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from pipelines.viewer.application import create_application
from pipelines.viewer.pages import PageOptions, open_page
from pipelines.viewer.workspace.page import WorkspacePage
from storage.objects import Objects
from storage.run_records import RunFolder, new_run_id
from tests.small_workspaces import SmallWorkspace
from tests.viewed_workspaces import DONE, FAILED, KILLED, NUM_STEPS, ViewedWorkspace, write_viewed_workspace

_PORT = 8400


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="module")
def written(root: Path) -> ViewedWorkspace:
    return write_viewed_workspace(Objects.open(root))


def _client(url: str) -> TestClient:
    page = open_page(url, PageOptions())
    assert isinstance(page, WorkspacePage)
    client = TestClient(create_application(page, "token", _PORT), base_url=f"http://127.0.0.1:{_PORT}")
    client.get("/?token=token")
    return client


@pytest.fixture(scope="module")
def client(root: Path, written: ViewedWorkspace) -> TestClient:
    return _client(str(root))


def _runs(html: str) -> list[str]:
    return re.findall(r'<tr><td class="key"><a href="/workspace/runs/([^"]+)"', html)


def test_the_newest_runs_come_first(client: TestClient) -> None:
    html = client.get("/workspace/").text
    assert _runs(html) == [KILLED, FAILED, DONE]
    for said in ("3 runs", "5 of 5", "4.10 USD", "InfrastructureError: bucket &lt;gone&gt;"):
        assert said in html


def test_outputs_with_what_they_hold(client: TestClient, root: Path, written: ViewedWorkspace) -> None:
    html = client.get("/workspace/").text
    headings = re.findall(r"<h2>(.*?) <span", html)
    assert headings == ["Corpora", "Feature stores", "Checkpoints", "Scores", "Reports"]
    for said in (
        "0 samples on 30 pictures",
        "sam2, 29 images, int8",
        f"{NUM_STEPS} steps, 1,234,567 parameters",
        "referring cIoU 0.432",
        f"sailloft view {root}/train/{written.checkpoints[0]}",
    ):
        assert said in html
    linked = re.findall(r'href="/workspace/output/([0-9a-f]{64})/"', html)
    assert linked == [written.corpus, written.store, written.scores, written.report]


def test_outputs_are_shown_below_the_workspace(client: TestClient, written: ViewedWorkspace) -> None:
    samples = client.get(f"/workspace/output/{written.corpus}/")
    assert str(samples.url).endswith(f"/workspace/output/{written.corpus}/corpus/")
    assert "0 samples" in samples.text
    for key in (written.store, written.coverage):
        below = f"/workspace/output/{key}/features"
        html = client.get(f"/workspace/output/{key}/").text
        links = re.findall(r'(?:href|src|action)="(/[^"]+)"', html)
        assert {link for link in links if "features" in link} == {link for link in links if link.startswith(below)}
        followed = {link for link in links if link not in ("/", "#main")}
        assert {client.get(link).status_code for link in sorted(followed)} == {200}
    for key in (written.checkpoints[0], "f" * 64, "nobody"):
        assert client.get(f"/workspace/output/{key}/").status_code == 404
    assert client.get(f"/workspace/output/{written.store}/features/nowhere").status_code == 404


def test_predictions_are_shown_below_the_workspace(tmp_path: Path) -> None:
    small = SmallWorkspace(Objects.open(tmp_path / "workspace"), tmp_path / "sources")
    corpus = small.curate(small.rows("a.jsonl", (1, "a thing", "train"), (2, "another", "val")))
    scores = small.evaluate(corpus, small.train(corpus), [small.picture(1), small.picture(2)])
    client = _client(small.workspace.url)
    below = f"/workspace/output/{scores}/evaluation/"
    html = client.get(f"/workspace/output/{scores}/").text
    links = re.findall(r'(?:href|src|action)="(/[^"]+)"', html)
    own = sorted({link for link in links if link.startswith(below)})
    assert {link for link in links if "evaluation" in link} == set(own)
    pages = [link for link in own if not link.endswith(".jpg")]
    assert len(pages) > 2
    assert {client.get(link).status_code for link in pages} == {200}


def test_a_report_may_run_and_load_nothing(client: TestClient, root: Path, written: ViewedWorkspace) -> None:
    shown = client.get(f"/workspace/output/{written.report}/")
    assert str(shown.url).endswith("/report/")
    assert "All is told." in shown.text
    policy = shown.headers["content-security-policy"]
    assert policy.startswith("sandbox; default-src 'none'; ")
    assert "script" not in policy
    assert shown.headers["x-content-type-options"] == "nosniff"
    alone = open_page(str(root / "report" / written.report), PageOptions())
    assert alone.prefix == "/report"


def test_a_run_whole(client: TestClient, written: ViewedWorkspace) -> None:
    html = client.get(f"/workspace/runs/{DONE}").text
    for stage in ("curate", "teach sam2", "train", "evaluate", "report"):
        assert f"<td>{stage}</td>" in html
    for said in ("40.0 s", "0.5 CPU hours", "EPYC", "&lt;script&gt;", "<b>3 x</b> warning train: slow &lt;b&gt;step"):
        assert said in html
    assert "<script>alert" not in html
    assert f'href="/workspace/output/{written.coverage}/"' in html
    assert f'href="/workspace/curves?of={written.checkpoints[0]}"' in html
    assert client.get("/workspace/runs/nobody").status_code == 404
    assert client.get("/workspace/runs/%2e%2e").status_code == 404


def test_runs_that_did_not_end_well(client: TestClient) -> None:
    failed, killed = (client.get(f"/workspace/runs/{run}").text for run in (FAILED, KILLED))
    assert "bucket &lt;gone&gt;" in failed
    assert "it goes on, or was killed" in killed
    assert re.search(r'<td>train</td><td>\s*<span class="badge disputed">begun', killed)


def test_all_runs_by_pages(tmp_path: Path) -> None:
    workspace = Objects.open(tmp_path)
    names = [new_run_id("demo" if number % 2 else "smoke", 1.7e9 + number) for number in range(60)]
    for name in names:
        RunFolder(workspace, name).write_start({"time": "2026-05-01T12:00:00.000+00:00"})
    client = _client(str(tmp_path))
    first, second = (_runs(client.get(f"/workspace/runs?page={number}").text) for number in (1, 2))
    assert [*first, *second] == names[::-1]
    assert len(_runs(client.get("/workspace/runs?words=smoke").text)) == 30
    assert "Nothing matches" in client.get("/workspace/runs?words=nobody").text
    assert len(_runs(client.get("/workspace/").text)) == 8


def test_curves_of_one_and_of_several(client: TestClient, written: ViewedWorkspace) -> None:
    first, second = written.checkpoints
    one = client.get(f"/workspace/curves?of={first}").text
    both = client.get(f"/workspace/curves?of={first}&of={second}").text
    for html in (one, both):
        for label in ("validation: cIoU", "all terms together", "distillation: sam2", "learning rate"):
            assert label in html
        assert html.count("<svg") == 8
    assert one.count("<polyline") == 16
    assert both.count("<polyline") == 32
    assert "curve1" not in one
    assert len(re.findall(r'<span class="of of[01]">', both)) == 16
    assert "Choose one or several" in client.get("/workspace/curves").text
    assert client.get(f"/workspace/curves?of={'f' * 64}").status_code == 404
    assert client.get(f"/workspace/curves?of={written.corpus}").status_code == 404


def test_an_empty_workspace(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    client = _client(str(tmp_path))
    assert "No runs are recorded here." in client.get("/workspace/").text
    assert "No checkpoint is finished here yet." in client.get("/workspace/curves").text
