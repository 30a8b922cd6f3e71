"""`sailloft retrain`: a student is trained again on what is new, and takes the champion's place if it is better.

    curate what is new → teach what is missing → train from the champion → evaluate both → promote, or keep with reasons

All but the decision are ordinary stages under their content addresses, so that a retrain which was killed goes on where
it was. What it starts from is noted at its start, create-only, and stays the same when it is repeated.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal

import yaml

from jobs.code_version import code_version
from jobs.config import Recipe
from jobs.display import Display
from jobs.flow import Located, Outcome, Stage, State, Timings, run_stages
from jobs.registries import describe_event, event_json, mirror, require_checkpoint
from jobs.retrain_recipe import from_corpus, from_student, retrain_config, retrain_key
from jobs.run_watch import RunWatch
from jobs.runner import describe_plan, open_workspace
from jobs.session import one_session
from jobs.stages import evaluation_stage, feature_stores, plan_stages, training_inputs
from jobs.told import Told
from pipelines.evaluation.comparison import compare_evaluations
from pipelines.report.scores import score_rows
from pipelines.retraining.config import MlflowRegistryConfig
from pipelines.retraining.decision import FIRST, Verdict, check_scores, judge
from storage.errors import InfrastructureError
from storage.keys import Json, content_key
from storage.leases import HeldLease
from storage.locks import exclusive, lock_times
from storage.manifest import read_manifest
from storage.objects import Objects
from storage.redaction import redact_json
from storage.registry import REGISTRIES, Registry
from storage.registry_records import (
    Comparison,
    Event,
    Happening,
    RetrainPlan,
    StoredOutput,
    Version,
    VersionFacts,
)
from storage.stage_notes import STAGE_NOTES

__all__ = ["LOCK", "RetrainResult", "describe_retrain", "retrain"]

logger = logging.getLogger(__name__)

LOCK = "retrain"
"""Name of the lock below a registry."""
_CHAMPION = "champion"
_EVALUATE_CHAMPION = "evaluate champion"

Result = Literal["promoted", "refused", "nothing new"]


@dataclass(frozen=True, slots=True)
class RetrainResult:
    """What came of a retrain."""

    registry: Registry
    result: Result
    event: Event
    """The decision; with nothing new, that of the time when it wasn't known yet."""
    state: Event
    """How things stand."""
    outcomes: tuple[Outcome, ...]

    @property
    def num_ran(self) -> int:
        """Stages that did work."""
        return sum(outcome.state is State.RAN for outcome in self.outcomes)

    def summary(self) -> str:
        """Lines for the user."""
        lines = [f"registry: {self.registry.url}", f"{self.num_ran} of {len(self.outcomes)} stages ran"]
        if self.result != "nothing new":
            return "\n".join([*lines, describe_event(self.registry, self.event)])
        number, champion = self.event.version, self.state.champion
        url = "none" if champion is None else f"version {champion}, {self.registry.version(champion).checkpoint.url}"
        return "\n".join(
            [
                lines[0],
                f"nothing new since version {number}, {self.event.happening.value} {self.event.at}: the same corpus, "
                "features and recipe; nothing ran",
                f"champion: {url}",
            ]
        )

    def to_json(self) -> dict[str, Json]:
        """The result as plain data."""
        champion = self.state.champion
        stages: list[Json] = [outcome.as_json() for outcome in self.outcomes]
        return {
            "registry": self.registry.url,
            "result": self.result,
            "version": self.event.version,
            "champion": champion,
            "checkpoint": None if champion is None else self.registry.version(champion).checkpoint.url,
            "event": event_json(self.event),
            "stages": stages,
        }


def registry_of(recipe: Recipe) -> Registry:
    """The registry that a recipe's students are registered in."""
    name = retrain_config(recipe).registry or recipe.name
    return Registry(open_workspace(recipe).child(f"{REGISTRIES}/{name}"))


def describe_retrain(recipe: Recipe) -> Told:
    """What a retrain would start from, its resolved recipe, and which outputs are there; runs nothing."""
    registry = registry_of(recipe)
    state = registry.state()
    champion = None if state is None or state.champion is None else registry.version(state.champion)
    begins = "by itself: there is no champion" if champion is None else f"from version {champion.number}"
    resolved = from_corpus(recipe, registry)
    if champion is not None:
        resolved = from_student(resolved, champion.checkpoint.url)
    plan = describe_plan(resolved, "evaluate")
    return Told(
        "\n".join([plan.text, "", f"{registry.url}: training would begin {begins}"]),
        {**plan.data, "registry": registry.url, "begins_from": None if champion is None else champion.number},
    )


def retrain(recipe: Recipe, display: Display, verbose: bool = False) -> RetrainResult:
    """Trains a student on what is new and decides whether it takes the champion's place.

    Args:
        recipe: the recipe as it is written; without a champion, training begins as it says.
        display: where progress is shown.
        verbose: shows Ray's own messages.

    Raises:
        Locked: another retrain of this registry is at work.
        UsageError: the recipe's `retrain` can't be used, or the champion's checkpoint is gone.
        SailloftError: whatever a stage raises.
    """
    config = retrain_config(recipe)
    registry = registry_of(recipe)
    if config.mlflow is not None:
        config.mlflow.uri()  # what is wrong is told before anything runs

    def told(holder: HeldLease) -> None:
        display.note("retrain", f"{holder.holder} is at work since {holder.since}; waiting for its next sign of life")

    with exclusive(registry.objects, LOCK, lock_times(config.lock_expires_s), told):
        begun = from_corpus(recipe, registry)
        watch = RunWatch(open_workspace(recipe), begun)
        with watch.watching():
            with one_session(recipe.cluster, verbose, watch.on_ray) as session:
                result = _Retrain(begun, registry, display, session, watch).run()
            watch.finish()
        if config.mlflow is not None:
            _mirror(registry, config.mlflow, display)
    return result


def _mirror(registry: Registry, config: MlflowRegistryConfig, display: Display) -> None:
    """Tells MLflow; where it fails, the next retrain tells it all the same, and this one is done."""
    try:
        display.note("retrain", mirror(registry, config).text)
    except InfrastructureError as error:
        logger.warning("%s", error)


@dataclass
class _Retrain:
    """One retrain, within its lock."""

    recipe: Recipe
    registry: Registry
    display: Display
    session: Callable[[], AbstractContextManager[None]]
    watch: RunWatch
    outcomes: list[Outcome] = field(default_factory=list[Outcome])
    outputs: dict[str, Located] = field(default_factory=dict[str, Located])

    def run(self) -> RetrainResult:
        """From sources to a decision."""
        self._run(plan_stages(self.recipe, self._timings, "teach"))
        inputs = training_inputs(self._workspace, self.recipe, self.outputs)
        assert inputs is not None, "calibrations come before"
        key = retrain_key(self.recipe, inputs)
        plan = self.registry.plan(key)
        last = None if plan is None else self.registry.last_event_of(plan)
        if last is not None and last.happening is not Happening.REGISTERED:
            return self._result("nothing new", last)
        plan = plan or self.registry.begin(key)
        version = self._challenger(plan, last)
        event = self._decide(version)
        self.display.note("retrain", f"version {version.number} {event.happening.value}")
        return self._result("promoted" if event.happening is Happening.PROMOTED else "refused", event)

    @property
    def _workspace(self) -> Objects:
        return Objects.open(self.recipe.workspace)

    @property
    def _timings(self) -> Timings:
        return Timings(self._workspace.child(STAGE_NOTES))

    def _run(self, stages: list[Stage]) -> None:
        outcomes, outputs = run_stages(
            stages, self.display, self._timings, self.session, self.watch, given=self.outputs
        )
        self.outcomes += outcomes
        self.outputs.update(outputs)

    def _challenger(self, plan: RetrainPlan, registered: Event | None) -> Version:
        """Trains and scores the student of a plan, and registers it, unless it was registered before."""
        recipe = self.recipe
        if plan.champion is not None:
            begins = require_checkpoint(self.registry, plan.champion)
            recipe = from_student(recipe, begins.checkpoint.url)
            self.watch.resolve(recipe)
            self.display.note("retrain", f"trains from version {plan.champion}, {begins.checkpoint.url}")
        stages = plan_stages(recipe, self._timings, "evaluate")
        self._run([stage for stage in stages if stage.command in ("train", "evaluate")])
        check_scores(score_rows([_manifest(self.outputs["evaluate"])]), retrain_config(recipe))
        if registered is not None:
            return self.registry.version(registered.version)
        return self.registry.register(self._facts(recipe, plan))

    def _facts(self, recipe: Recipe, plan: RetrainPlan) -> VersionFacts:
        resolved = recipe.model_dump(mode="json")
        stores = feature_stores(self._workspace, recipe, self.outputs)
        return VersionFacts(
            checkpoint=_stored(self.outputs["train"]),
            corpora=(_stored(self.outputs["curate"]),),
            features={kind: _stored(located) for kind, located in stores.items()},
            scores=(_stored(self.outputs["evaluate"]),),
            recipe=yaml.safe_dump(redact_json(resolved), sort_keys=False, width=100),
            recipe_key=content_key(resolved),
            code=code_version(),
            parent=plan.champion,
            retrain_key=plan.retrain_key,
        )

    def _decide(self, version: Version) -> Event:
        """Compares with whoever is the champion, again if that has changed meanwhile."""
        while True:
            state = self.registry.state()
            assert state is not None, "a version is registered"
            if state.champion == version.number:
                return self._promoted_by_hand(state)
            verdict, comparison = FIRST, None
            if state.champion is not None:
                verdict, comparison = self._compare(state.champion)
            event = self.registry.decide(version, verdict.promoted, verdict.reasons, comparison)
            if event is not None:
                return event

    def _promoted_by_hand(self, state: Event) -> Event:
        made = (Happening.PROMOTED, Happening.ROLLED_BACK)
        events = (event for event in self.registry.backward(state) if event.version == state.champion)
        return next(event for event in events if event.happening in made)

    def _compare(self, number: int) -> tuple[Verdict, Comparison]:
        """The verdict on the challenger against a champion, which is scored on the challenger's corpus."""
        checkpoint = require_checkpoint(self.registry, number).checkpoint
        self.outputs[_CHAMPION] = Located(checkpoint.key, Objects.open(checkpoint.url))
        self._run([evaluation_stage(self._workspace, self.recipe, _EVALUATE_CHAMPION, _CHAMPION)])
        scores = [self.outputs[name] for name in (_EVALUATE_CHAMPION, "evaluate")]
        differences = compare_evaluations(scores[0].objects, scores[1].objects)
        verdict = judge(differences, retrain_config(self.recipe))
        comparison = Comparison(
            champion=number,
            champion_scores=_stored(scores[0]),
            challenger_scores=_stored(scores[1]),
            figures=verdict.figures,
        )
        return verdict, comparison

    def _result(self, result: Result, event: Event) -> RetrainResult:
        state = self.registry.state()
        assert state is not None, "something was decided"
        return RetrainResult(self.registry, result, event, state, tuple(self.outcomes))


def _stored(located: Located) -> StoredOutput:
    return StoredOutput(key=located.key, url=located.objects.url)


def _manifest(located: Located):
    manifest = read_manifest(located.objects)
    if manifest is None:
        raise InfrastructureError(f"{located.objects.url}: the output is gone; run the same command again")
    return manifest
