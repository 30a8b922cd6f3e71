"""The record of a run and what the user is told at its end; the stages are fakes."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import runner
from jobs.config import Recipe, load_recipe
from jobs.display import PlainDisplay
from jobs.flow import Located, Outcome, Outputs, Stage, State, Timings
from jobs.runner import RunResult, run_recipe
from pipelines.observer import current_observer
from pipelines.progress import Progress
from storage.errors import InfrastructureError, SourceError, UsageError
from storage.manifest import Manifest, publish
from storage.objects import Objects
from storage.run_records import RecordedRun, find_runs, read_run
from storage.schema import SCHEMA_VERSION


class FakeStages:
    """A flow of one stage without Ray, whose key is the recipe's seed of scenes."""

    def __init__(self) -> None:
        self.during: Callable[[Progress], None] = lambda progress: None
        self.locate_error: Exception | None = None

    def plan(self, recipe: Recipe, timings: Timings, until: str | None = None) -> list[Stage]:
        assert recipe.scenes is not None
        located = Located(f"key{recipe.scenes.seed}", Objects.open(recipe.workspace).child(f"s/{recipe.scenes.seed}"))

        def locate(outputs: Outputs, progress: Progress | None) -> Located:
            if self.locate_error is not None:
                raise self.locate_error
            return located

        def run(outputs: Outputs, target: Located, progress: Progress) -> None:
            self.during(progress)
            publish(target.objects, Manifest("test", target.key, SCHEMA_VERSION, {}, {}, ()))

        return [Stage("scenes", "scenes", (), locate, run, needs_ray=False)]


@pytest.fixture
def fake_stages(monkeypatch: pytest.MonkeyPatch) -> FakeStages:
    stages = FakeStages()
    monkeypatch.setattr(runner, "plan_stages", stages.plan)
    return stages


def run(workspace: Path, *overrides: str) -> RunResult:
    recipe = load_recipe("smoke", [f"workspace={workspace}", *overrides])
    return run_recipe(recipe, PlainDisplay(io.StringIO()))


def records(workspace: Path) -> list[RecordedRun]:
    found = [read_run(Objects.open(workspace), name) for name in find_runs(Objects.open(workspace))]
    return [record for record in found if record is not None]


def test_a_run_that_did_something_leaves_a_record_and_one_that_did_nothing_leaves_none(
    fake_stages: FakeStages, tmp_path: Path
) -> None:
    first = run(tmp_path)
    (record,) = records(tmp_path)
    assert (record.url, record.state) == (first.folder, "done")
    assert record.end is not None
    assert record.end["stages"][0]["state"] == "ran"
    assert record.end["recipe"]["training"]["num_steps"] == 4
    assert record.start["recipe"] == record.end["recipe"]
    second = run(tmp_path)
    assert (second.folder, second.num_ran, second.outcomes[0].seconds) == (first.folder, 0, first.outcomes[0].seconds)
    assert len(records(tmp_path)) == 1


def test_the_newest_record_tells_of_the_outputs_of_the_newest_run(fake_stages: FakeStages, tmp_path: Path) -> None:
    folders = [run(tmp_path, f"scenes.seed={seed}").folder for seed in (0, 1, 0, 0)]
    assert len(set(folders)) == 3
    assert folders[2] == folders[3]
    told = [record.end["stages"][0]["key"] for record in records(tmp_path) if record.end is not None]
    assert sorted(told) == ["key0", "key0", "key1"]


def test_events_tell_of_stages_in_order(fake_stages: FakeStages, tmp_path: Path) -> None:
    fake_stages.during = lambda progress: logging.getLogger("storage").warning("slow, key %s", "hidden-key")
    run(tmp_path)
    (record,) = records(tmp_path)
    events = [(event["kind"], event.get("stage")) for event in record.events]
    assert events == [("stage_began", "scenes"), ("log", "scenes"), ("stage_ended", "scenes")]
    began, line, ended = record.events
    assert (began["key"], began["inputs"]) == ("key0", {})
    assert (line["message"], line["run"]) == ("slow, key hidden-key", record.run)
    assert ended["state"] == "ran"


def test_figures_and_costs_are_recorded(fake_stages: FakeStages, tmp_path: Path) -> None:
    def work(progress: Progress) -> None:
        progress.update(3, 4, unit="images")
        current_observer().count("sailloft_images_total", 3, outcome="drawn")
        Objects.open(tmp_path).put("x/y", b"12345")

    fake_stages.during = work
    run(tmp_path, "costs.usd_per_cpu_hour=1")
    (record,) = records(tmp_path)
    assert record.end is not None
    figures = {
        (row["name"], row["stage"], row.get("outcome") or row.get("state") or row.get("direction")): row.get("value")
        for row in record.end["figures"]
    }
    assert figures["sailloft_images_total", "scenes", "drawn"] == 3
    assert figures["sailloft_progress_units", "scenes", None] == 4
    assert figures["sailloft_stages_total", "scenes", "ran"] == 1
    assert figures["sailloft_storage_bytes_total", "scenes", "written"] > 5
    costs = record.end["costs"]
    assert costs["written_bytes"] > 5
    assert costs["requests"] == {"reading": 0, "writing": 0}  # nobody bills those of a folder
    assert costs["usd"] == {"accelerators": 0.0, "cpus": 0.0, "requests": 0.0, "total": 0.0}


@pytest.mark.parametrize(
    ("error", "code", "state"),
    [
        (SourceError("torn: refs(unc).p"), 3, "failed"),
        (KeyError("x"), 1, "failed"),
        (SystemExit(143), 143, "interrupted"),
    ],
)
def test_a_run_that_ends_by_an_error_says_which(
    fake_stages: FakeStages, tmp_path: Path, error: BaseException, code: int, state: str
) -> None:
    def work(progress: Progress) -> None:
        raise error

    fake_stages.during = work
    with pytest.raises(type(error), match=r"torn|x|143"):
        run(tmp_path)
    (record,) = records(tmp_path)
    assert record.end is not None
    assert (record.state, record.end["exit_code"], record.end["stages"]) == (state, code, [])
    assert record.end["error"]["class"] == type(error).__name__
    assert ("traceback" in record.end["error"]) == isinstance(error, KeyError)
    assert record.events[-1]["kind"] == "stage_failed"


def test_wrong_usage_before_the_first_stage_is_no_run(fake_stages: FakeStages, tmp_path: Path) -> None:
    fake_stages.locate_error = UsageError("no such root")
    with pytest.raises(UsageError, match="no such root"):
        run(tmp_path)
    assert not (tmp_path / "runs").exists()


def test_bad_data_before_the_first_stage_is_recorded(fake_stages: FakeStages, tmp_path: Path) -> None:
    fake_stages.locate_error = SourceError("no such file")
    with pytest.raises(SourceError, match="no such file"):
        run(tmp_path)
    (record,) = records(tmp_path)
    assert (record.state, record.events) == ("failed", [])


def test_no_secret_is_recorded(fake_stages: FakeStages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "hush-key")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "hush-token")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://ada:hush-pass@host")

    def work(progress: Progress) -> None:
        logging.getLogger("storage").warning("refused: hush-key")
        raise InfrastructureError("GET https://h/?X-Amz-Signature=hush-sig with hush-token")

    fake_stages.during = work
    with pytest.raises(InfrastructureError, match="hush-sig"):
        run(tmp_path, "notes=[made with hush-key]")
    (record,) = records(tmp_path)
    written = b"".join(path.read_bytes() for path in Path(record.url).rglob("*.json"))
    assert b"hush" not in written
    assert record.start["environment"]["AWS_ENDPOINT_URL"] == "https://<userinfo>@host"
    assert b"made with <MY_API_KEY>" in written


def test_the_summary_names_what_to_look_at() -> None:
    ran = Outcome("train", "k", "/w/train/k", State.RAN, 61.0, 1)
    present = Outcome("curate", "c", "/w/curate/c", State.PRESENT, 5.0, 1)
    assert RunResult((present, ran), "/w", None).summary() == "1 of 2 stages ran in 1:01 min\ntrain: /w/train/k"
    done = RunResult((present,), "/w", "/w/report.html").summary()
    assert done == "all 1 stages present, nothing to do\nreport: /w/report.html"
