"""The smoke recipe from scenes to report on a local Ray: once on a disk, once on S3; and a second run does nothing."""

from __future__ import annotations

import io
import json
import uuid
from pathlib import Path

import pytest

from jobs.config import load_recipe
from jobs.display import PlainDisplay
from jobs.flow import State
from jobs.runner import RunResult, describe_plan, run_recipe
from storage.manifest import verify_manifest
from storage.objects import Objects

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(420),
    # Ray Data's settings object warns of its own old settings when it is made.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),
]

STAGES = [
    "scenes",
    "curate",
    *("calibrate mask2former", "teach mask2former", "calibrate sam2", "teach sam2"),
    *("train", "evaluate", "report"),
]


def run_smoke(workspace: str) -> tuple[RunResult, str]:
    stream = io.StringIO()
    result = run_recipe(load_recipe("smoke", [f"workspace={workspace}"]), PlainDisplay(stream))
    return result, stream.getvalue()


@pytest.fixture(scope="module")
def local_run(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunResult, str]:
    """The smoke recipe run once in an empty folder."""
    workspace = tmp_path_factory.mktemp("smoke")
    return workspace, *run_smoke(str(workspace))


def listing(workspace: Path) -> dict[str, tuple[int, int]]:
    """Every file with its size and time."""
    files = [path for path in workspace.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def fingerprints(result: RunResult) -> dict[str, dict[str, object]]:
    """Content hashes of all files that the outputs promise, less what times are in: the report, some metrics."""
    found: dict[str, dict[str, object]] = {}
    for outcome in result.outcomes:
        objects = Objects.open(outcome.url)
        manifest = verify_manifest(objects)
        assert manifest.key == outcome.key
        if outcome.name != "report":
            found[outcome.name] = {entry.path: entry.sha256 for entry in manifest.files}
        if outcome.name == "train":
            rows = [json.loads(line) for line in objects.read("metrics.jsonl").splitlines()]
            timeless = [{name: row[name] for name in row if not name.endswith("_s")} for row in rows]
            found["train"]["metrics.jsonl"] = timeless
    return found


def test_every_stage_runs_and_leaves_a_whole_output(local_run: tuple[Path, RunResult, str]) -> None:
    workspace, result, shown = local_run
    assert [(outcome.name, outcome.state) for outcome in result.outcomes] == [(name, State.RAN) for name in STAGES]
    assert all(fingerprints(result).values())
    assert result.report is not None
    page = Path(result.report).read_text()
    assert "cIoU" in page
    assert "<script src" not in page
    record = json.loads((Path(result.folder) / "record.json").read_text())
    assert [stage["name"] for stage in record["stages"]] == STAGES
    assert all(stage["seconds"] > 0 for stage in record["stages"])
    assert all(f"{name:<18}  done in" in shown for name in STAGES)
    assert not [path for path in workspace.rglob("*") if path.name.startswith(".")]  # no temporary file is left


def test_a_second_run_does_nothing(local_run: tuple[Path, RunResult, str], monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, first, _ = local_run
    before = listing(workspace)
    monkeypatch.setattr("jobs.runner.ray_session", None)  # no session is opened for nothing
    second, shown = run_smoke(str(workspace))
    assert [outcome.state for outcome in second.outcomes] == [State.PRESENT] * len(STAGES)
    assert second.summary().startswith("all 9 stages present, nothing to do\nreport: ")
    assert second.report == first.report
    assert [outcome.seconds for outcome in second.outcomes] == [outcome.seconds for outcome in first.outcomes]
    assert listing(workspace) == before
    assert shown.count("present, nothing to do") == len(STAGES)


def test_a_dry_run_tells_what_is_there(local_run: tuple[Path, RunResult, str]) -> None:
    workspace, result, _ = local_run
    before = listing(workspace)
    text = describe_plan(load_recipe("smoke", [f"workspace={workspace}", "training.seed=1"]))
    lines = {line[:18].strip(): line for line in text.splitlines()[-10:]}
    assert "present" in lines["teach sam2"]
    assert "missing" in lines["train"]
    assert lines["curate"].endswith(result.outcomes[1].url)
    assert listing(workspace) == before


def test_the_flow_on_s3_gives_the_same_bytes(
    local_run: tuple[Path, RunResult, str], s3_server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    workspace = f"s3://{s3_server.bucket}/{uuid.uuid4().hex}"
    result, _ = run_smoke(workspace)
    assert [outcome.state for outcome in result.outcomes] == [State.RAN] * len(STAGES)
    assert result.report is not None
    assert result.report.startswith(workspace)
    assert fingerprints(result) == fingerprints(local_run[1])
    again, _ = run_smoke(workspace)
    assert again.num_ran == 0
    secret = s3_server.environment["AWS_SECRET_ACCESS_KEY"].encode()
    objects = Objects.open(workspace)
    assert not [info.key for info in objects.list() if secret in objects.read(info.key)]
