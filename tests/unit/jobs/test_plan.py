from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

from jobs.config import Recipe, load_recipe
from jobs.display import PlainDisplay
from jobs.plan import plan_recipe
from jobs.runner import run_recipe
from jobs.stages import FORECASTS
from jobs.verify import verify_recipe
from storage.errors import DataError, UsageError
from storage.features import FeatureStore
from storage.objects import Objects
from teachers.sam2 import Sam2TeacherConfig

pytestmark = pytest.mark.ray

PRICES = [
    "costs.usd_per_accelerator_hour=2",
    "costs.usd_per_cpu_hour=0.05",
    "costs.usd_per_tb_month=20",
    "costs.usd_per_million_puts=5",
    "costs.usd_per_million_gets=0.4",
]


def _recipe(workspace: Path, *overrides: str) -> Recipe:
    return load_recipe("smoke", [f"workspace={workspace}", "features.codec=raw16", *overrides])


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Path:
    workspace = tmp_path_factory.mktemp("plan")
    with (workspace / "log").open("w") as log:
        run_recipe(_recipe(workspace / "runs"), PlainDisplay(log), "teach")
    return workspace / "runs"


def test_without_a_corpus_there_is_no_forecast(tmp_path: Path) -> None:
    plan = plan_recipe(_recipe(tmp_path))
    assert plan.teachers == ()
    states = {stage.name: stage.state for stage in plan.stages}
    assert states["scenes"] == "missing"
    assert states["train"] in ("missing", "unknown")
    assert "no forecast of teachers: the corpus isn't there yet, run `sailloft curate` first" in plan.lines()
    assert plan.training.num_steps == 4
    assert plan.training.rows_per_epoch is None
    assert not list(Objects.open(tmp_path).list())


def test_sizes_that_a_recipe_states_are_enough_for_training() -> None:
    plan = plan_recipe(load_recipe("base-qwen-pretrain", ["costs.usd_per_accelerator_hour=2"]))
    assert plan.training.num_steps == round(30e6 / 512 + 0.5)
    text = "\n".join(plan.lines())
    assert text.startswith("stages unknown: say where the sources lie")
    assert f"{plan.training.num_steps} steps, 1 epochs" in text
    assert "price not priced" not in text


def test_what_is_there_costs_nothing(taught: Path) -> None:
    plan = plan_recipe(_recipe(taught))
    assert {forecast.images.missing for forecast in plan.teachers} == {0}
    assert {stage.name: stage.state for stage in plan.stages}["teach sam2"] == "present"
    assert "0 of 16 images are missing" in "\n".join(plan.lines())


def test_another_grid_is_forecast_in_full_with_a_price(taught: Path) -> None:
    rates = ["costs.seconds_per_image.sam2=0.1", "costs.seconds_per_image.mask2former=0.2"]
    plan = plan_recipe(_recipe(taught, "features.grid=stride:32", *PRICES, *rates))
    value = json.loads(json.dumps(plan.to_json()))
    first, second = value["teachers"]
    assert (first["teacher"], second["teacher"]) == ("mask2former", "sam2")
    assert first["images"] == {"wanted": 16, "present": 0, "rejected": 0, "missing": 16}
    assert value["price"] == pytest.approx(first["price"]["total"] + second["price"]["total"])
    assert first["wall_s"] == pytest.approx(16 * 0.2 / first["num_actors"])
    assert "price of all teachers" in "\n".join(plan.lines())
    training = value["training"]
    assert (training["source"], training["num_steps"], training["rows_per_epoch"]) == (
        "12 conversations drawn from the corpus",
        4,
        12,
    )
    assert training["tokens"] == pytest.approx(16 * training["tokens_per_row"])
    assert training["price"] == pytest.approx(2 * training["accelerator_hours"])


def test_encodings_that_are_not_calibrated_yet_are_forecast_too(taught: Path) -> None:
    plan = plan_recipe(_recipe(taught, "features.codec=klt"))
    assert [forecast.images.missing for forecast in plan.teachers] == [16, 16]
    states = {stage.name: stage.state for stage in plan.stages}
    assert (states["calibrate sam2"], states["teach sam2"]) == ("missing", "unknown")
    assert "time unknown: --probe 64 measures it" in "\n".join(plan.lines())


def test_a_probe_measures_every_phase_and_leaves_nothing(taught: Path) -> None:
    before = {info.key for info in Objects.open(taught).list()}
    plan = plan_recipe(_recipe(taught, "features.codec=klt", "features.num_cpus_per_decoder=0.5"), num_probe=4)
    for forecast in plan.teachers:
        seconds = forecast.seconds
        assert seconds.source == "probe of 4 images"
        phases = (seconds.read, seconds.decode, seconds.preprocess, seconds.forward, seconds.encode, seconds.write)
        assert all(phase is not None and phase > 0 for phase in phases)
        assert forecast.wall_s is not None
        assert forecast.num_decoders is not None
    assert {info.key for info in Objects.open(taught).list()} == before


def test_each_run_of_teach_noted_its_forecast_first(taught: Path) -> None:
    notes = [json.loads(Objects.open(taught).read(info.key)) for info in Objects.open(taught).list(FORECASTS)]
    assert sorted(note["teacher"] for note in notes) == ["mask2former", "sam2"]
    assert {note["images"]["missing"] for note in notes} == {16}


def test_stored_features_are_those_that_the_teacher_gives(taught: Path) -> None:
    told = verify_recipe(_recipe(taught), 5)
    lines = told.text.splitlines()
    assert len(lines) == 2
    assert all("5 images agree" in line for line in lines)
    teachers = cast("list[dict[str, Any]]", told.data["teachers"])
    assert [row["num_images"] for row in teachers] == [5, 5]


def test_features_of_another_teacher_are_found_out(taught: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs import verify as module

    recipe = _recipe(taught)
    outputs = module._outputs(recipe)
    first, second = recipe.teachers
    assert isinstance(second, Sam2TeacherConfig)
    untrained = second.tiny.model_copy(update={"num_channels": 64})
    other = second.model_copy(update={"checkpoint": None, "tiny": untrained})
    monkeypatch.setattr(module, "_outputs", lambda found: outputs)
    with pytest.raises(DataError, match=r"5 of 5 images differ .*, worst [0-9a-f]{64}: .* check weights"):
        verify_recipe(recipe.model_copy(update={"teachers": (first, other)}), 5)
    assert len(FeatureStore.open(outputs["teach sam2"].readable)) == 16


def test_features_that_are_not_there_cant_be_verified(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"scenes: its output isn't there.*run teach first"):
        verify_recipe(_recipe(tmp_path), 5)
