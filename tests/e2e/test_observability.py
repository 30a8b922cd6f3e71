"""What a whole run tells of itself: its log, its figures, its record."""

from __future__ import annotations

import json

import pytest

from storage.features import FeatureStore
from storage.keys import Json
from storage.manifest import read_manifest
from storage.objects import Objects
from storage.run_records import RecordedRun, read_run
from tests.metrics_page import wait_for_figures
from tests.smoke_run import SmokeRun

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(420),
    # Ray Data's settings object warns of its own old settings when it is made.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),
]


@pytest.fixture(scope="module")
def record(smoke_run: SmokeRun) -> RecordedRun:
    found = read_run(Objects.open(smoke_run.workspace), smoke_run.result.folder.rpartition("/")[2])
    assert found is not None
    return found


@pytest.fixture(scope="module")
def expected(smoke_run: SmokeRun) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Figures as the outputs tell them."""
    urls = {outcome.name: Objects.open(outcome.url) for outcome in smoke_run.result.outcomes}

    def facts(stage: str) -> dict[str, Json]:
        manifest = read_manifest(urls[stage])
        assert manifest is not None
        return dict(manifest.facts)

    corpus, scores = facts("curate"), facts("evaluate")
    metrics = urls["train"].read("metrics.jsonl").decode().splitlines()
    figures: dict[tuple[str, str, str, str], object] = {
        ("sailloft_rows_total", "curate", "outcome", "sample"): corpus["num_samples"],
        ("sailloft_rows_total", "curate", "outcome", "reject"): corpus["num_rejects"],
        ("sailloft_steps_total", "train", "outcome", "done"): json.loads(metrics[-1])["step"],
        ("sailloft_images_total", "scenes", "outcome", "drawn"): corpus["num_images"],
        **{
            ("sailloft_rejects_total", "curate", "reason", reason): number
            for reason, number in dict(corpus["rejects_by_reason"]).items()
        },
    }
    for teacher in ("mask2former", "sam2"):
        store = FeatureStore.open(urls[f"teach {teacher}"].url.split("/corpora/")[0])
        figures["sailloft_images_total", f"teach {teacher}", "outcome", "taught"] = len(store)
    found = {
        (name, tuple(sorted({"stage": stage, label: value}.items()))): float(str(number))
        for (name, stage, label, value), number in figures.items()
    }
    found["sailloft_questions_total", (("stage", "evaluate"),)] = float(str(scores["num_questions"]))
    return found


def test_the_log_of_every_process_is_in_one_place(smoke_run: SmokeRun, record: RecordedRun) -> None:
    lines = [json.loads(line) for line in smoke_run.log.read_text().splitlines()]
    assert all(
        {"time", "level", "logger", "run", "stage", "message", "fields", "process"} <= line.keys() for line in lines
    )
    roles = {(line["process"]["role"], line["stage"]) for line in lines}
    assert {("driver", "scenes"), ("worker", "scenes"), ("teacher", "teach sam2"), ("trainer 0", "train")} <= roles
    assert ("examiner", "evaluate") in roles
    assert {line["run"] for line in lines if line["stage"] is not None} == {record.run}
    pids = {line["process"]["pid"] for line in lines}
    assert len(pids) >= 4
    progress = [line for line in lines if line["logger"] == "jobs.progress" and line["stage"] == "train"]
    assert progress[-1]["message"].startswith("train: done in")


def test_figures_are_those_of_the_outputs(
    record: RecordedRun, expected: dict[tuple[str, tuple[tuple[str, str], ...]], float]
) -> None:
    recorded = {}
    for row in record.newest["figures"]:
        labels = {name: value for name, value in row.items() if name not in ("name", "value")}
        recorded[row["name"], tuple(sorted(map(str, labels.items())))] = row.get("value")
    wanted = {(name, tuple(sorted(map(str, labels)))): value for (name, labels), value in expected.items()}
    assert {label: recorded.get(label) for label in wanted} == wanted


def test_prometheus_is_shown_the_same(
    smoke_run: SmokeRun, expected: dict[tuple[str, tuple[tuple[str, str], ...]], float]
) -> None:
    wanted = {(f"ray_{name}", labels): value for (name, labels), value in expected.items()}

    def since(shown: dict[tuple[str, tuple[tuple[str, str], ...]], float]) -> dict[object, float]:
        return {label: shown.get(label, 0.0) - smoke_run.shown_before.get(label, 0.0) for label in wanted}

    assert since(wait_for_figures(lambda shown: since(shown) == wanted)) == wanted


def test_the_record_tells_what_happened(smoke_run: SmokeRun, record: RecordedRun) -> None:
    assert (record.state, record.url) == ("done", smoke_run.result.folder)
    stages = [outcome.name for outcome in smoke_run.result.outcomes]
    for kind in ("stage_began", "stage_ended"):
        assert [event["stage"] for event in record.events if event["kind"] == kind] == stages
    (cluster,) = [event for event in record.events if event["kind"] == "cluster"]
    assert cluster["nodes"][0]["CPU"] >= 1
    assert record.start["recipe"]["name"] == "smoke"
    assert record.start["code"]["sources"]
    assert record.start["versions"]["ray"]
    costs = record.newest["costs"]
    assert costs["cpu_s"] > 1  # teachers and trainer are started, which takes seconds
    assert costs["written_bytes"] > sum(
        path.stat().st_size for path in (smoke_run.workspace / "features").rglob("*") if path.is_file()
    )
    steps = next(row for row in record.newest["figures"] if row["name"] == "sailloft_step_seconds")
    assert steps["count"] == sum(steps["counts"]) == 4
    assert steps["smallest"] <= steps["sum"] / steps["count"] <= steps["largest"]
