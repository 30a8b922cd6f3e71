"""The smoke recipe from scenes to report on a local Ray: once on a disk, once on S3; and a second run does nothing."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from pathlib import Path

import pytest

from jobs.config import load_recipe
from jobs.flow import State
from jobs.runner import RunResult, describe_plan
from storage.objects import Objects
from storage.run_records import RecordedRun, find_runs, read_run
from tests.promised import promised_by
from tests.smoke_run import SmokeRun, run_smoke

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

MOST_REQUESTS = {
    "scenes": 100,
    "curate": 180,
    "calibrate mask2former": 35,
    "teach mask2former": 100,
    "calibrate sam2": 35,
    "teach sam2": 100,
    "train": 160,
    "evaluate": 70,
    "report": 120,
}
"""Requests to S3 of each stage: half as many again as on an idle machine, since leases are renewed as time passes."""


def listing(workspace: Path) -> dict[str, tuple[int, int]]:
    """Every file with its size and time."""
    files = [path for path in workspace.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def outputs(result: RunResult) -> dict[str, dict[str, object]]:
    """What the output of each stage promises."""
    found = {outcome.name: promised_by(Objects.open(outcome.url)) for outcome in result.outcomes}
    assert [outcome.key for outcome in result.outcomes] == [output["key"] for output in found.values()]
    return found


def requests_by_stage(record: RecordedRun) -> Counter[str]:
    """Requests to S3, as the record of a run has them."""
    found: Counter[str] = Counter()
    for row in record.newest["figures"]:
        if row["name"] == "sailloft_storage_requests_total" and row["scheme"] == "s3":
            found[row["stage"]] += round(row["value"])
    return found


def test_every_stage_runs_and_leaves_a_whole_output(smoke_run: SmokeRun) -> None:
    workspace, result, shown = smoke_run.workspace, smoke_run.result, smoke_run.shown
    assert [(outcome.name, outcome.state) for outcome in result.outcomes] == [(name, State.RAN) for name in STAGES]
    assert all(outputs(result).values())
    assert result.report is not None
    page = Path(result.report).read_text()
    assert "cIoU" in page
    assert "<script src" not in page
    record = json.loads((Path(result.folder) / "record.json").read_text())
    assert [stage["name"] for stage in record["stages"]] == STAGES
    assert all(stage["seconds"] > 0 for stage in record["stages"])
    assert all(f"{name:<18}  done in" in shown for name in STAGES)
    assert not [path for path in workspace.rglob("*") if path.name.startswith(".")]  # no temporary file is left


def test_a_second_run_does_nothing(smoke_run: SmokeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, first = smoke_run.workspace, smoke_run.result
    before = listing(workspace)
    monkeypatch.setattr("jobs.session.ray_session", None)  # no session is opened for nothing
    second, shown = run_smoke(str(workspace))
    assert [outcome.state for outcome in second.outcomes] == [State.PRESENT] * len(STAGES)
    assert second.summary().startswith("all 9 stages present, nothing to do\nreport: ")
    assert second.report == first.report
    assert [outcome.seconds for outcome in second.outcomes] == [outcome.seconds for outcome in first.outcomes]
    assert listing(workspace) == before
    assert shown.count("present, nothing to do") == len(STAGES)


def test_a_dry_run_tells_what_is_there(smoke_run: SmokeRun) -> None:
    workspace, result = smoke_run.workspace, smoke_run.result
    before = listing(workspace)
    text = describe_plan(load_recipe("smoke", [f"workspace={workspace}", "training.seed=1"])).text
    lines = {line[:18].strip(): line for line in text.splitlines()[-10:]}
    assert "present" in lines["teach sam2"]
    assert "missing" in lines["train"]
    assert lines["curate"].endswith(result.outcomes[1].url)
    assert listing(workspace) == before


def test_the_flow_on_s3_gives_the_same_bytes(smoke_run: SmokeRun, s3_server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    workspace = f"s3://{s3_server.bucket}/{uuid.uuid4().hex}"
    result, _ = run_smoke(workspace)
    assert [outcome.state for outcome in result.outcomes] == [State.RAN] * len(STAGES)
    assert result.report is not None
    assert result.report.startswith(workspace)
    assert outputs(result) == outputs(smoke_run.result)
    record = read_run(Objects.open(workspace), find_runs(Objects.open(workspace))[-1])
    assert record is not None
    found = requests_by_stage(record)
    assert found.keys() == MOST_REQUESTS.keys()
    assert {name: found[name] for name in found if not 0 < found[name] <= MOST_REQUESTS[name]} == {}
    again, _ = run_smoke(workspace)
    assert again.num_ran == 0
    secret = s3_server.environment["AWS_SECRET_ACCESS_KEY"].encode()
    objects = Objects.open(workspace)
    assert not [info.key for info in objects.list() if secret in objects.read(info.key)]
