"""The record of a run and what the user is told at its end; the stages are fakes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from jobs import runner
from jobs.config import Recipe, load_recipe
from jobs.display import PlainDisplay
from jobs.flow import Located, Outcome, Outputs, Stage, State, Timings
from jobs.runner import RunResult, run_key, run_recipe
from pipelines.progress import Progress
from storage.manifest import Manifest, publish
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION


@pytest.fixture
def fake_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flow of one stage without Ray, whose key is the recipe's seed of scenes."""

    def plan(recipe: Recipe, timings: Timings, until: str | None = None) -> list[Stage]:
        assert recipe.scenes is not None
        located = Located(f"key{recipe.scenes.seed}", Objects.open(recipe.workspace).child(f"s/{recipe.scenes.seed}"))

        def run(outputs: Outputs, target: Located, progress: Progress) -> None:
            publish(target.objects, Manifest("test", target.key, SCHEMA_VERSION, {}, {}, ()))

        return [Stage("scenes", "scenes", (), lambda outputs, progress: located, run, needs_ray=False)]

    monkeypatch.setattr(runner, "plan_stages", plan)


def run(workspace: Path, seed: int = 0) -> RunResult:
    recipe = load_recipe("smoke", [f"workspace={workspace}", f"scenes.seed={seed}"])
    return run_recipe(recipe, PlainDisplay(io.StringIO()))


@pytest.mark.usefixtures("fake_stages")
def test_the_record_stays_as_the_run_that_did_the_work_wrote_it(tmp_path: Path) -> None:
    first = run(tmp_path)
    record = Path(first.folder) / "record.json"
    written = record.read_bytes()
    found = json.loads(written)
    assert found["stages"][0]["state"] == "ran"
    assert found["recipe"]["training"]["num_steps"] == 4
    second = run(tmp_path)
    assert (second.folder, second.num_ran, second.outcomes[0].seconds) == (first.folder, 0, first.outcomes[0].seconds)
    assert record.read_bytes() == written


@pytest.mark.usefixtures("fake_stages")
def test_other_outputs_are_another_run(tmp_path: Path) -> None:
    assert run(tmp_path, seed=0).folder != run(tmp_path, seed=1).folder
    assert len(list(tmp_path.glob("runs/smoke-*/record.json"))) == 2


def test_the_summary_names_what_to_look_at() -> None:
    ran = Outcome("train", "k", "/w/train/k", State.RAN, 61.0, 1)
    present = Outcome("curate", "c", "/w/curate/c", State.PRESENT, 5.0, 1)
    assert RunResult((present, ran), "/w", None).summary() == "1 of 2 stages ran in 1:01 min\ntrain: /w/train/k"
    done = RunResult((present,), "/w", "/w/report.html").summary()
    assert done == "all 1 stages present, nothing to do\nreport: /w/report.html"


def test_the_key_of_a_run_is_that_of_its_outputs() -> None:
    one = {"scenes": Located("a", Objects.open("memory://x"))}
    moved = {"scenes": Located("a", Objects.open("memory://y"))}
    assert run_key(one) == run_key(moved)
    assert run_key(one) != run_key({"scenes": Located("b", Objects.open("memory://x"))})
