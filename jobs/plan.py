"""`sailloft plan`: what a recipe would run and take; nothing is executed but a probe, if one is asked for."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.config import Recipe
from jobs.flow import Located, Stage, State, Timings
from jobs.runner import open_workspace
from jobs.session import ray_session
from jobs.stages import feature_store, plan_stages, store_codec
from pipelines.distillation.forecast import TeachForecast, forecast_teaching
from pipelines.distillation.missing import Missing, find_missing
from pipelines.distillation.probe import Probe, probe_images
from pipelines.progress import NullProgress
from pipelines.quantities import seconds_text
from pipelines.training.forecast import TrainingForecast, forecast_training
from storage.corpus import Corpus
from storage.keys import Json
from storage.stage_notes import STAGE_NOTES
from storage.stored_features import Codec
from teachers.registry import TeacherConfig

__all__ = ["RecipePlan", "StagePlan", "plan_recipe"]

_GB = 1e9


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage as it stands."""

    name: str
    state: str
    """`present`, `missing`, or `unknown` where its address follows from outputs that are missing."""
    url: str | None


@dataclass(frozen=True, slots=True)
class RecipePlan:
    """What a recipe would run."""

    name: str
    stages: tuple[StagePlan, ...]
    teachers: tuple[TeachForecast, ...]
    """Empty while the corpus isn't there: without it nobody knows which images are missing."""
    corpus_present: bool
    """Whether the corpus is there."""
    training: TrainingForecast
    """Of the student's training, from the corpus or, before it is there, from what `costs` states."""

    def to_json(self) -> dict[str, Json]:
        """The plan as plain data."""
        stages: list[Json] = [{"name": one.name, "state": one.state, "url": one.url} for one in self.stages]
        teachers: list[Json] = [one.to_json() for one in self.teachers]
        return {
            "recipe": self.name,
            "stages": stages,
            "teachers": teachers,
            "price": self._price(),
            "training": self.training.to_json(),
        }

    def lines(self) -> list[str]:
        """The plan for people."""
        lines = [f"{one.name:<24}  {one.state:<8}  {one.url or ''}".rstrip() for one in self.stages]
        if not lines:
            lines = ["stages unknown: say where the sources lie, curation.root=URL"]
        for forecast in self.teachers:
            lines += ["", *_forecast_lines(forecast)]
        if self.teachers:
            lines += ["", f"price of all teachers  {_usd(self._price())}"]
        elif self.stages and not self.corpus_present:
            lines += ["", "no forecast of teachers: the corpus isn't there yet, run `sailloft curate` first"]
        return [*lines, "", *_training_lines(self.training)]

    def _price(self) -> float | None:
        totals = [forecast.price.total for forecast in self.teachers]
        known = [total for total in totals if total is not None]
        return sum(known) if totals and len(known) == len(totals) else None


def plan_recipe(recipe: Recipe, num_probe: int = 0, verbose: bool = False) -> RecipePlan:
    """Looks at every stage of a recipe, and forecasts what its teachers and its training would take.

    Args:
        recipe: what would run.
        num_probe: images on which each teacher is measured first, on the recipe's cluster; 0: none.
        verbose: shows Ray's own messages during a probe.

    Raises:
        UsageError: the recipe's workspace or roots can't be used.
    """
    workspace = open_workspace(recipe)
    if not _has_roots(recipe):
        return RecipePlan(recipe.name, (), (), False, _training(recipe, None))
    outputs, shown = _look(plan_stages(recipe, Timings(workspace.child(STAGE_NOTES))))
    corpus = outputs.get("curate")
    if corpus is None or not corpus.complete:
        return RecipePlan(recipe.name, shown, (), False, _training(recipe, None))
    opened = Corpus.open(corpus.objects)
    # Teachers that run beside the student compute each image anew: what they take belongs to the training.
    taught = () if recipe.training.teacher_mode == "online" else recipe.teachers
    forecasts = [_forecast(recipe, teacher, opened, outputs, num_probe, verbose) for teacher in taught]
    return RecipePlan(recipe.name, shown, tuple(forecasts), True, _training(recipe, opened))


def _has_roots(recipe: Recipe) -> bool:
    """Whether it says where its sources lie, without which no stage has an address."""
    sources = recipe.curation.sources
    return recipe.scenes is not None or recipe.curation.root is not None or all(source.root for source in sources)


def _training(recipe: Recipe, corpus: Corpus | None) -> TrainingForecast:
    teachers = [teacher.kind for teacher in recipe.teachers]
    return forecast_training(recipe.student, recipe.training, recipe.costs, teachers, corpus)


def _look(stages: Sequence[Stage]) -> tuple[dict[str, Located], tuple[StagePlan, ...]]:
    outputs: dict[str, Located] = {}
    shown: list[StagePlan] = []
    for stage in stages:
        known = all(name in outputs for name in stage.inputs)
        located = stage.locate(outputs, NullProgress()) if known else None
        if located is None:
            shown.append(StagePlan(stage.name, "unknown", None))
            continue
        outputs[stage.name] = located
        # What follows from an output that is missing has an address already, but nothing to compare with.
        state = State.PRESENT.value if stage.complete(outputs, located) else "missing"
        shown.append(StagePlan(stage.name, state, located.objects.url))
    return outputs, tuple(shown)


def _forecast(
    recipe: Recipe,
    teacher: TeacherConfig,
    corpus: Corpus,
    outputs: dict[str, Located],
    num_probe: int,
    verbose: bool,
) -> TeachForecast:
    codec = store_codec(recipe, teacher, outputs)
    store = None if codec is None else feature_store(open_workspace(recipe), recipe, teacher, codec).objects
    missing = find_missing(corpus, teacher, recipe.features, codec, store)
    probe, num_cpus = None, recipe.cluster.num_cpus
    if num_probe and missing.sizes:
        probe, num_cpus = _probe(recipe, teacher, corpus, codec, missing, num_probe, verbose)
    return forecast_teaching(
        teacher.kind,
        missing.counts,
        missing.plans,
        missing.num_channels,
        recipe.features,
        recipe.costs,
        None if probe is None else probe.seconds,
        num_cpus,
        probe.bits_per_value if probe is not None else None if codec is None else codec.bits_per_value,
    )


def _probe(
    recipe: Recipe,
    teacher: TeacherConfig,
    corpus: Corpus,
    codec: Codec | None,
    missing: Missing,
    num_probe: int,
    verbose: bool,
) -> tuple[Probe, int]:
    scratch = open_workspace(recipe).child(f"probe/{secrets.token_hex(8)}")
    with ray_session(recipe.cluster, verbose):
        import ray

        from pipelines.distillation.pipeline import measure

        images = probe_images(missing.sizes, num_probe)
        probe = measure(corpus, teacher, recipe.features, codec, images, missing.num_channels, scratch)
        return probe, int(ray.cluster_resources().get("CPU", 0))


def _forecast_lines(forecast: TeachForecast) -> list[str]:
    images, price = forecast.images, forecast.price
    lines = [
        f"teach {forecast.teacher}: {images.missing} of {images.wanted} images are missing "
        f"({images.present} present, {images.rejected} rejected)"
    ]
    if not images.missing:
        return lines
    lines += [
        f"  {forecast.num_shards} shards, {forecast.size_bytes / _GB:.3g} GB to write, "
        f"{forecast.num_puts} puts and lists, at most {forecast.num_gets} gets",
        f"  {forecast.num_actors} teachers, "
        + ("decoding in their own processes" if forecast.num_decoders is None else f"{forecast.num_decoders} decoders"),
        f"  seconds per image: {_phases(forecast)}",
    ]
    if forecast.wall_s is None:
        lines.append("  time unknown: --probe 64 measures it, or give costs.seconds_per_image")
    else:
        lines.append(
            f"  {seconds_text(forecast.wall_s)}, bound by {forecast.bound_by}; "
            f"{forecast.accelerator_hours or 0:.3g} accelerator hours, {forecast.cpu_hours or 0:.3g} CPU hours"
        )
    lines.append(
        f"  price {_usd(price.total)}: accelerators {_usd(price.accelerators)}, CPUs {_usd(price.cpus)}, "
        f"requests {_usd(price.requests)}; storage per month {_usd(price.storage_per_month)}"
    )
    return lines


def _training_lines(forecast: TrainingForecast) -> list[str]:
    lines = [f"train: rows from {forecast.source}"]
    if forecast.tokens is None or forecast.flops is None or forecast.tokens_per_row is None:
        return [*lines, "  steps and hours unknown: curate first, or give costs.mixture_rows"]
    epochs = "" if forecast.num_epochs is None else f", {forecast.num_epochs:.3g} epochs"
    lines.append(f"  {forecast.num_steps} steps{epochs}; {forecast.tokens_per_row:.4g} tokens per conversation")
    per_epoch = "" if forecast.tokens_per_epoch is None else f", {_giga(forecast.tokens_per_epoch)} per epoch"
    lines.append(f"  {_giga(forecast.tokens)} tokens{per_epoch}; {forecast.flops:.3g} operations")
    lines.append(
        f"  {forecast.accelerator_hours or 0:.3g} accelerator hours, {seconds_text(forecast.wall_s or 0)} with the "
        f"recipe's workers; price {_usd(forecast.price)}"
    )
    return lines


def _giga(count: float) -> str:
    return f"{count / 1e9:.3g} G"


def _phases(forecast: TeachForecast) -> str:
    seconds = forecast.seconds
    names = ("read", "decode", "preprocess", "forward", "encode", "write")
    known = [(name, getattr(seconds, name)) for name in names if getattr(seconds, name) is not None]
    shown = ", ".join(f"{name} {value:.3g}" for name, value in known) or "unknown"
    return f"{shown} ({seconds.source})"


def _usd(amount: float | None) -> str:
    return "not priced" if amount is None else f"{amount:.2f} USD"
