"""`sailloft retrain` on stages that only note what they were asked: what it starts from, decides and leaves behind."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
import pytest
import yaml
from typer.testing import CliRunner

from jobs import retrain as module
from jobs import stages
from jobs.cli import app
from jobs.config import Recipe, load_recipe
from jobs.display import PlainDisplay
from jobs.flow import Located, Outputs, Stage, Timings
from jobs.registries import registry_json
from jobs.retrain import LOCK, RetrainResult, describe_retrain, registry_of, retrain
from jobs.told import Told
from pipelines.evaluation.comparison import Difference
from pipelines.evaluation.records import Variant
from pipelines.progress import Progress
from storage.errors import InfrastructureError, Locked, UsageError
from storage.keys import content_key
from storage.leases import LeaseTimes
from storage.locks import exclusive
from storage.manifest import MANIFEST_NAME, Manifest, publish
from storage.objects import Objects
from storage.registry import Registry
from storage.registry_records import Event, Happening, Version
from storage.retirement import Retirement, retire
from storage.schema import SCHEMA_VERSION
from tests.registries import check_history, student_facts

BETTER, WORSE, NOISE = (0.01, 0.05), (-0.05, -0.01), (-0.02, 0.04)
_SCORE = {
    "benchmark": "referring",
    "variant": "standard",
    "family": None,
    "task": None,
    "split": None,
    "metric": "cIoU",
    "value": 0.5,
    "low": 0.4,
    "high": 0.6,
    "num_samples": 40,
    "num_images": 10,
}


@dataclass
class Plant:
    """A workspace whose stages make manifests at once."""

    workspace: str
    overrides: list[str] = field(default_factory=list)
    data: str = "monday"
    """What the sources hold."""
    ran: list[str] = field(default_factory=list)
    """Stages that did work, training with what it started from."""
    parents: list[str | None] = field(default_factory=list)
    """`curation.parent` of each curation that was asked for."""
    compared: list[tuple[str, str]] = field(default_factory=list)
    """Checkpoints whose evaluations were compared."""
    interval: tuple[float, float] = BETTER
    before: dict[str, Callable[[], None]] = field(default_factory=dict)
    """What happens before a stage works, or before a comparison, once."""

    @property
    def recipe(self) -> Recipe:
        return load_recipe("smoke", [f"workspace={self.workspace}", *self.overrides])

    @property
    def registry(self) -> Registry:
        return registry_of(self.recipe)

    def retrain(self) -> RetrainResult:
        return retrain(self.recipe, PlainDisplay(io.StringIO()))

    def happens(self, name: str) -> None:
        self.before.pop(name, lambda: None)()

    def stage(self, name: str, command: str, inputs: tuple[str, ...], own: str = "") -> Stage:
        def locate(outputs: Outputs, progress: Progress | None) -> Located:
            key = content_key(
                [name if name != "evaluate champion" else "evaluate", own, *(outputs[i].key for i in inputs)]
            )
            return Located(key, Objects.open(self.workspace).child(f"{command}/{key}"))

        def run(outputs: Outputs, target: Located, progress: Progress) -> None:
            self.happens(name)
            self.ran.append(f"{name} {own}".strip())
            facts = (
                {"scores": [_SCORE, {**_SCORE, "metric": "gIoU"}], "of": outputs[inputs[-1]].key}
                if command == "evaluate"
                else {}
            )
            publish(target.objects, Manifest(command, target.key, SCHEMA_VERSION, {}, {}, (), facts))

        return Stage(name, command, inputs, locate, run, needs_ray=False)

    def plan(self, recipe: Recipe, timings: Timings, until: str | None = None) -> list[Stage]:
        self.parents.append(recipe.curation.parent)
        taught = [self.stage(stages.teach_name(teacher), "teach", ("curate",)) for teacher in recipe.teachers]
        start = f"from {recipe.training.init} for {recipe.training.num_steps} steps"
        all_of_them = [
            self.stage("curate", "curate", (), self.data),
            *taught,
            self.stage("train", "train", tuple(one.name for one in taught), start),
            self.stage("evaluate", "evaluate", ("curate", "train")),
        ]
        last = stages.COMMANDS.index(until or "report")
        return [one for one in all_of_them if stages.COMMANDS.index(one.command) <= last]

    def compare(self, first: Objects, second: Objects) -> list[Difference]:
        self.happens("compare")
        facts = [json.loads(objects.read(MANIFEST_NAME))["facts"] for objects in (first, second)]
        self.compared.append((facts[0]["of"], facts[1]["of"]))
        low, high = self.interval
        return [
            Difference(
                benchmark="referring",
                variant=Variant.STANDARD,
                metric=metric,
                first=0.5,
                second=0.5 + (low + high) / 2,
                low=low if metric == "cIoU" else -0.5,
                high=high if metric == "cIoU" else -0.25,
                share_above=0.5,
                num_samples=40,
                num_images=10,
            )
            for metric in ("cIoU", "gIoU")
        ]


def _told_recipe(recipe: Recipe, until: str) -> Told:
    del until
    return Told(yaml.safe_dump(recipe.model_dump(mode="json")), {})


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plant]:
    plant = Plant(str(tmp_path / "workspace"))
    monkeypatch.setattr(module, "plan_stages", plant.plan)
    monkeypatch.setattr(module, "describe_plan", _told_recipe)
    monkeypatch.setattr(
        module, "evaluation_stage", lambda w, recipe, name, student: plant.stage(name, "evaluate", ("curate", student))
    )
    monkeypatch.setattr(module, "compare_evaluations", plant.compare)
    yield plant
    check_history(plant.registry.history())
    assert not list(plant.registry.objects.list("leases"))


def _first(plant: Plant) -> Version:
    assert plant.retrain().result == "promoted"
    plant.ran.clear()
    return plant.registry.version(1)


def test_the_first_begins_as_the_recipe_says_and_becomes_the_champion(plant: Plant) -> None:
    result = plant.retrain()
    assert (result.result, result.event.reasons, result.state.aliases) == (
        *("promoted", ("the first version",)),
        {"champion": 1},
    )
    assert plant.ran == [
        *("curate monday", "teach mask2former", "teach sam2"),
        *("train from None for 4 steps", "evaluate"),
    ]
    version = plant.registry.version(1)
    urls = [outcome.url for outcome in result.outcomes]
    assert [version.corpora[0].url, version.checkpoint.url, version.scores[0].url] == [urls[0], urls[3], urls[4]]
    assert {kind: stored.url for kind, stored in version.features.items()} == {"mask2former": urls[1], "sam2": urls[2]}
    assert version.parent is None
    assert load_recipe("smoke", [f"workspace={plant.workspace}"]) == Recipe.model_validate(
        yaml.safe_load(version.recipe)
    )
    assert f"champion: version 1, {version.checkpoint.url}" in result.summary()
    assert "5 of 5 stages ran" in result.summary()
    assert plant.parents == [None, None]
    record = json.loads(next(Path(plant.workspace).glob("runs/smoke-*/record.json")).read_text())
    assert [stage["name"] for stage in record["stages"]] == [
        *("curate", "teach mask2former", "teach sam2", "train", "evaluate")
    ]


def test_nothing_new_runs_nothing(plant: Plant) -> None:
    _first(plant)
    before = registry_json(plant.registry)
    result = plant.retrain()
    assert (result.result, plant.ran, result.num_ran) == ("nothing new", [], 0)
    assert registry_json(plant.registry) == before
    assert "nothing new since version 1, promoted 2" in result.summary()
    assert result.summary().endswith(f"champion: version 1, {plant.registry.version(1).checkpoint.url}")
    assert result.to_json()["result"] == "nothing new"


def test_what_is_new_is_trained_from_the_champion_and_compared_on_the_same_corpus(plant: Plant) -> None:
    first = _first(plant)
    plant.data, plant.overrides = "tuesday", ["retrain.training={num_steps: 2}"]
    result = plant.retrain()
    assert plant.ran == [
        *("curate tuesday", "teach mask2former", "teach sam2"),
        *(f"train from {first.checkpoint.url} for 2 steps", "evaluate", "evaluate champion"),
    ]
    assert plant.parents[2:] == [first.corpora[0].url] * 2
    second = plant.registry.version(2)
    assert plant.compared == [(first.checkpoint.key, second.checkpoint.key)]
    assert (second.parent, second.retrain_key != first.retrain_key) == (1, True)
    trained = Recipe.model_validate(yaml.safe_load(second.recipe)).training
    assert (trained.init, trained.num_steps, trained.learning_rate) == (first.checkpoint.url, 2, 1e-3)
    assert (result.result, result.state.aliases) == ("promoted", {"champion": 2})
    comparison = result.event.comparison
    assert comparison is not None
    assert comparison.challenger_scores == second.scores[0]
    assert [figure.metric for figure in comparison.figures] == ["cIoU"]
    assert "version 2 promoted: referring cIoU: better: +3.00 (+1.00 to +5.00)" in result.summary()
    assert "decides  referring  cIoU    50.00      53.00      +3.00 (+1.00 to +5.00)" in result.summary()
    assert plant.retrain().result == "nothing new"


@pytest.mark.parametrize(
    ("interval", "rules", "reason"),
    [
        (WORSE, [], "referring cIoU: worse: -3.00 (-5.00 to -1.00)"),
        (NOISE, [], "referring cIoU: within noise: +1.00 (-2.00 to +4.00)"),
        (BETTER, ["retrain={min_gain: 0.02}"], "referring cIoU: better, but it may be by less than 2.00: +3.00"),
        (BETTER, ["retrain={guarded: [{metric: gIoU, max_fall: 0.1}]}"], "referring gIoU: falls, 10.00 allowed: +3.00"),
    ],
    ids=["worse", "within noise", "not by enough", "guarded falls"],
)
def test_a_challenger_that_is_not_better_is_kept_with_reasons(
    plant: Plant, interval: tuple[float, float], rules: list[str], reason: str
) -> None:
    _first(plant)
    plant.data, plant.interval, plant.overrides = "tuesday", interval, rules
    result = plant.retrain()
    assert result.result == "refused"
    assert result.event.reasons[0].startswith(reason)
    assert result.state.aliases == {"champion": 1, "challenger": 2}
    assert f"champion: version 1, {plant.registry.version(1).checkpoint.url}" in result.summary()
    plant.ran.clear()
    again = plant.retrain()
    assert (again.result, plant.ran, again.event) == ("nothing new", [], result.event)


def test_after_a_roll_back_training_starts_from_the_former_champion_once_there_is_something_new(plant: Plant) -> None:
    first = _first(plant)
    plant.data = "tuesday"
    plant.retrain()
    plant.registry.roll_back(["wrong on night scenes"])
    assert plant.retrain().result == "nothing new"
    plant.data = "wednesday"
    plant.ran.clear()
    assert plant.retrain().state.champion == 3
    assert f"train from {first.checkpoint.url} for 4 steps" in plant.ran
    assert plant.registry.version(3).parent == 1
    assert plant.parents[-1] == plant.registry.version(2).corpora[0].url


def test_changed_rules_of_promotion_are_no_news(plant: Plant) -> None:
    _first(plant)
    plant.overrides = ["retrain.min_gain=0.1"]
    assert plant.retrain().result == "nothing new"
    plant.overrides = ["training.learning_rate=0.1"]
    assert plant.retrain().state.champion == 2


class _Killed(Exception):
    """In the place of a signal."""


def _kill() -> None:
    raise _Killed("now")


@pytest.mark.parametrize("where", ["curate", "teach sam2", "train", "evaluate", "evaluate champion", "compare"])
def test_a_retrain_that_was_killed_goes_on_where_it_was(plant: Plant, where: str) -> None:
    first = _first(plant)
    plant.data, plant.before = "tuesday", {where: _kill}
    with pytest.raises(_Killed, match="now"):
        plant.retrain()
    result = plant.retrain()
    assert (result.result, result.state.aliases) == ("promoted", {"champion": 2})
    assert plant.ran == [
        *("curate tuesday", "teach mask2former", "teach sam2"),
        *(f"train from {first.checkpoint.url} for 4 steps", "evaluate", "evaluate champion"),
    ]
    assert len(plant.registry.versions()) == 2


@pytest.mark.parametrize("happening", [Happening.REGISTERED, Happening.PROMOTED])
def test_a_retrain_that_was_killed_before_an_event_goes_on_with_its_version(
    plant: Plant, happening: Happening, monkeypatch: pytest.MonkeyPatch
) -> None:
    _first(plant)
    plant.data = "tuesday"
    append = Registry._append

    def killed(registry: Registry, event: Event) -> bool:
        if event.happening is happening:
            raise _Killed("now")
        return append(registry, event)

    with monkeypatch.context() as patch:
        patch.setattr(Registry, "_append", killed)
        with pytest.raises(_Killed, match="now"):
            plant.retrain()
    plant.ran.clear()
    assert plant.retrain().state.aliases == {"champion": 2}
    assert plant.ran == ([] if happening is Happening.PROMOTED else ["evaluate champion"])
    assert len(plant.registry.versions()) == 2


def test_a_repeat_starts_from_the_same_and_is_compared_with_the_champion_of_now(plant: Plant) -> None:
    first = _first(plant)
    plant.data, plant.before = "tuesday", {"train": _kill}
    with pytest.raises(_Killed, match="now"):
        plant.retrain()
    other = student_facts("other", folder=plant.workspace)
    publish(Objects.open(other.checkpoint.url), Manifest("checkpoint", "other", SCHEMA_VERSION, {}, {}, ()))
    plant.registry.promote(plant.registry.register(other).number, ["by hand"])
    result = plant.retrain()
    assert f"train from {first.checkpoint.url} for 4 steps" in plant.ran
    assert plant.compared == [("other", plant.registry.version(3).checkpoint.key)]
    assert (result.state.champion, plant.registry.version(3).parent) == (3, 1)


def test_a_champion_that_changes_during_the_comparison_is_compared_with_too(plant: Plant) -> None:
    first = _first(plant)
    plant.data = "tuesday"
    plant.retrain()
    second = plant.registry.version(2)
    plant.compared.clear()
    plant.data, plant.before = "wednesday", {"compare": lambda: plant.registry.roll_back(["in between"]) and None}
    result = plant.retrain()
    third = plant.registry.version(3)
    assert plant.compared == [(one.checkpoint.key, third.checkpoint.key) for one in (second, first)]
    assert result.state.champion == 3
    assert result.event.comparison is not None
    assert result.event.comparison.champion == 1


def test_a_challenger_that_somebody_promotes_meanwhile_stays_promoted(plant: Plant) -> None:
    _first(plant)
    plant.data, plant.interval = "tuesday", WORSE
    plant.before = {"compare": lambda: plant.registry.promote(2, ["by hand"]) and None}
    result = plant.retrain()
    assert (result.result, result.event.reasons, result.state.champion) == ("promoted", ("by hand",), 2)


def test_a_champion_without_its_checkpoint_is_told(plant: Plant) -> None:
    first = _first(plant)
    Objects.open(first.checkpoint.url).delete(MANIFEST_NAME)
    plant.data = "tuesday"
    with pytest.raises(UsageError, match=rf"version 1: expected a checkpoint at {first.checkpoint.url}, found none;"):
        plant.retrain()
    assert "train" not in " ".join(plant.ran)


def test_a_corpus_that_is_gone_is_no_parent(plant: Plant) -> None:
    first = _first(plant)
    Objects.open(first.corpora[0].url).delete(MANIFEST_NAME)
    plant.data = "tuesday"
    plant.retrain()
    assert plant.parents[2:] == [None, None]
    plant.data, plant.overrides = "wednesday", ["curation.parent=/own/parent"]
    plant.retrain()
    assert plant.parents[4:] == ["/own/parent"] * 2


def test_the_successor_of_a_retired_corpus_is_the_parent(plant: Plant) -> None:
    plant.retrain()
    corpus = Objects.open(plant.registry.version(1).corpora[-1].url)
    successor = Objects.open(plant.workspace).child("curate/successor")
    publish(successor, Manifest("corpus", "successor", SCHEMA_VERSION, {}, {}, ()))
    retire(corpus, Retirement(corpus.url.rpartition("/")[2], "successor", "an image left it", {}, {}, {}, ()))
    plant.data = "tuesday"
    plant.retrain()
    assert plant.parents[-1] == successor.url


def test_scores_that_the_evaluation_lacks_are_told_before_anything_is_registered(plant: Plant) -> None:
    plant.overrides = ["retrain.decides.metric=ciou"]
    with pytest.raises(UsageError, match="expected a score referring ciou of the evaluation, got referring cIoU"):
        plant.retrain()
    assert plant.registry.state() is None
    plant.overrides = ["retrain.decides.benchmark=regions"]
    with pytest.raises(UsageError, match="expected scores of referring, as evaluation asks, got regions"):
        plant.retrain()
    plant.overrides = ["retrain.training={num_stepz: 3}"]
    with pytest.raises(UsageError, match=r"recipe smoke, retrain.training: 1 problem\n  num_stepz: no such field"):
        plant.retrain()
    plant.overrides = []
    assert plant.retrain().state.champion == 1


def test_a_second_one_at_the_same_time_is_refused(plant: Plant) -> None:
    locked, refused = threading.Event(), threading.Event()

    def hold() -> None:
        with exclusive(plant.registry.objects, LOCK, LeaseTimes(heartbeat_s=0.1, expires_after_s=60.0)):
            locked.set()
            refused.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    locked.wait(60)
    try:
        with pytest.raises(
            Locked, match=r"registry/smoke: expected nobody else at work \(retrain\), found .*, process"
        ):
            plant.retrain()
    finally:
        refused.set()
        holder.join()
    assert (plant.ran, plant.registry.state()) == ([], None)


def test_an_error_of_a_stage_gives_the_lock_back(plant: Plant) -> None:
    def fails() -> None:
        raise InfrastructureError("the cluster is gone")

    plant.before = {"train": fails}
    with pytest.raises(InfrastructureError, match="the cluster is gone"):
        plant.retrain()
    assert not list(plant.registry.objects.list("leases"))
    assert plant.retrain().result == "promoted"


def test_a_dry_run_tells_what_it_would_start_from(plant: Plant) -> None:
    shown = describe_retrain(plant.recipe).text
    assert shown.endswith("registry/smoke: training would begin by itself: there is no champion")
    first = _first(plant)
    shown = describe_retrain(plant.recipe).text
    assert shown.endswith("registry/smoke: training would begin from version 1")
    resolved = yaml.safe_load(shown.rpartition("\n\n")[0])
    assert (resolved["training"]["init"], resolved["curation"]["parent"]) == (
        first.checkpoint.url,
        first.corpora[0].url,
    )
    assert plant.ran == []


def test_the_command(plant: Plant) -> None:
    arguments = ["retrain", "smoke", f"workspace={plant.workspace}", "retrain.registry=mine"]
    plant.overrides = ["retrain.registry=mine"]
    told = CliRunner().invoke(app, [*arguments, "--json"])
    assert told.exit_code == 0
    shown = json.loads(told.stdout)
    assert (shown["result"], shown["version"], shown["champion"]) == ("promoted", 1, 1)
    assert shown["registry"] == str(Path(plant.workspace) / "registry/mine")
    assert shown["checkpoint"] == plant.registry.version(1).checkpoint.url
    assert [stage["state"] for stage in shown["stages"]] == ["ran"] * 5
    plant.data, plant.interval = "tuesday", WORSE
    told = CliRunner().invoke(app, arguments)
    assert told.exit_code == 0
    assert "version 2 refused: referring cIoU: worse" in told.stdout
    told = CliRunner().invoke(app, [*arguments, "--dry-run"])
    assert told.exit_code == 0
    assert told.stdout.rstrip().endswith("registry/mine: training would begin from version 1")


def test_mlflow_is_told_and_may_fail(
    plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    plant.overrides = ["retrain.mlflow={}"]
    with pytest.raises(UsageError, match="MLflow: expected a server or store, found none; set MLFLOW_TRACKING_URI"):
        plant.retrain()
    assert plant.ran == []
    plant.overrides = ["retrain.mlflow.tracking_uri=bad://nowhere"]
    assert plant.retrain().result == "promoted"
    assert "registered model smoke of MLflow at bad://nowhere" in caplog.text
    plant.overrides = [f"retrain.mlflow.tracking_uri={(tmp_path / 'mlflow').as_uri()}"]
    assert plant.retrain().result == "nothing new"
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "mlflow").as_uri())
    assert client.get_model_version_by_alias("smoke", "champion").tags["sailloft.version"] == "1"


def test_no_secret_is_registered(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_PASSWORD", "hunter22")
    plant.overrides = ["retrain.mlflow.tracking_uri=http://127.0.0.1:9/hunter22"]
    assert plant.retrain().result == "promoted"
    recipe = plant.registry.version(1).recipe
    assert "tracking_uri: http://127.0.0.1:9/<MLFLOW_PASSWORD>" in recipe
    assert "hunter22" not in registry_json(plant.registry)
