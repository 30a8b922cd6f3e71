"""What the command line says and does about registries of students."""

from __future__ import annotations

from collections.abc import Sequence

from jobs.told import Told, document
from pipelines.evaluation.records import shown_scale
from pipelines.retraining.config import MlflowRegistryConfig
from pipelines.text_table import table
from storage.errors import ObjectNotFound, UsageError
from storage.keys import Json
from storage.manifest import read_manifest
from storage.objects import Objects
from storage.redaction import redact
from storage.registry import REGISTRIES, Registry
from storage.registry_records import CHALLENGER, CHAMPION, Event, Figure, Happening, Version

__all__ = [
    "comparison_lines",
    "describe_event",
    "describe_registry",
    "event_json",
    "find_registry",
    "mirror",
    "promote_version",
    "registry_json",
    "require_checkpoint",
    "roll_back",
]

_KEY_DIGITS = 12


def find_registry(place: str, workspace: str) -> Registry:
    """The registry that somebody names.

    Args:
        place: its URL or folder, or its name alone.
        workspace: URL of the workspace that a name is looked for in.

    Raises:
        ObjectNotFound: nothing is registered there; names the registries of the workspace.
    """
    if "/" in place:
        registry, known = Registry(Objects.open(place)), "give <workspace>/registry/<name>"
    else:
        folder = Objects.open(workspace).child(REGISTRIES)
        registry, names = Registry(folder.child(place)), folder.folders()
        known = f"this workspace has {', '.join(names) or 'none'}; --workspace names another"
    if registry.state() is None:
        raise ObjectNotFound(f"{registry.url}: expected a registry, found nothing registered there; {known}")
    return registry


def describe_registry(registry: Registry) -> str:
    """Aliases, versions and history, for people."""
    events, versions = registry.history(), registry.versions()
    newest = events[-1]
    lines = [f"{registry.url}: {len(versions)} versions, {len(events)} events"]
    for alias in (CHAMPION, CHALLENGER):
        if alias in newest.aliases:
            number = newest.aliases[alias]
            lines.append(f"  {alias}: version {number}, {versions[number - 1].checkpoint.url}")
    rows = [_version_row(version, newest, events) for version in versions]
    lines += table(("version", "from", "checkpoint", "corpus", "code", "now"), rows)
    happenings = [(e.number, e.at, e.happening.value, e.version, "; ".join(e.reasons)) for e in events]
    lines += table(("event", "at", "what", "version", "why"), happenings)
    return "\n".join(lines)


def _version_row(version: Version, newest: Event, events: Sequence[Event]) -> tuple[str | int, ...]:
    aliases = [alias for alias, number in newest.aliases.items() if number == version.number]
    last = next(event for event in reversed(events) if event.version == version.number)
    was = "former champion" if last.happening in (Happening.PROMOTED, Happening.ROLLED_BACK) else last.happening.value
    return (
        *(version.number, "-" if version.parent is None else str(version.parent)),
        *(version.checkpoint.key[:_KEY_DIGITS], version.corpora[-1].key[:_KEY_DIGITS], version.code.sources[:7]),
        " ".join([*aliases, *([] if aliases and was != "refused" else [was])]),
    )


def registry_json(registry: Registry) -> str:
    """All versions, events and the aliases, as one JSON object."""
    events = registry.history()
    versions: list[Json] = [version.model_dump(mode="json") for version in registry.versions()]
    return document(
        {
            "url": registry.url,
            "aliases": events[-1].aliases,
            "versions": versions,
            "events": [event_json(event) for event in events],
        }
    )


def promote_version(registry: Registry, number: int, reason: str, dry_run: bool = False) -> Told:
    """Makes a version the champion, whatever its scores.

    Args:
        registry: of the version.
        number: of the version.
        reason: is kept.
        dry_run: only look.

    Raises:
        UsageError: there is no such version, it is the champion, or its checkpoint is gone.
    """
    state = registry.state()
    if state is not None and 1 <= number <= state.num_versions:
        require_checkpoint(registry, number)
    if dry_run:
        if state is not None and state.champion == number:
            raise UsageError(f"{registry.url}: version {number} is the champion already")
        return _would_lead(registry, registry.version(number), state)
    event = registry.promote(number, [reason])
    return Told(describe_event(registry, event), event_json(event))


def roll_back(registry: Registry, reason: str, dry_run: bool = False) -> Told:
    """Makes the champion the version that was it before.

    Args:
        registry: whose champion.
        reason: is kept.
        dry_run: only look.

    Raises:
        UsageError: there is none, or its checkpoint is gone.
    """
    state = registry.state()
    version = require_checkpoint(registry, registry.champion_before(state))
    if dry_run:
        return _would_lead(registry, version, state)
    event = registry.roll_back([reason])
    return Told(describe_event(registry, event), event_json(event))


def _would_lead(registry: Registry, version: Version, state: Event | None) -> Told:
    """What a dry run says of a change of the champion."""
    now = None if state is None else state.champion
    instead = "there is none now" if now is None else f"in the place of version {now}"
    return Told(
        f"version {version.number} would be the champion, {instead}: {version.checkpoint.url}",
        {
            "registry": registry.url,
            "dry_run": True,
            "version": version.number,
            "champion": now,
            "checkpoint": version.checkpoint.url,
        },
    )


def mirror(registry: Registry, config: MlflowRegistryConfig, dry_run: bool = False) -> Told:
    """Tells MLflow what it lacks of a registry, and says what that was.

    Args:
        registry: what is mirrored.
        config: where MLflow is, and what the model is called there.
        dry_run: only say what would be told, and to whom; MLflow isn't asked.

    Raises:
        UsageError: nothing says where MLflow is, or the package isn't installed.
        InfrastructureError: it can't be reached or refuses.
    """
    uri, model = config.uri(), config.model or registry.url.rpartition("/")[2]
    data: dict[str, Json] = {"registry": registry.url, "uri": redact(uri), "model": model, "dry_run": dry_run}
    place = f"registered model {model} of MLflow at {uri}"
    if dry_run:
        number = len(registry.versions())
        text = f"{place}: would be told of those of {number} versions that it lacks, of aliases and reasons"
        return Told(text, {**data, "num_versions": number})
    from pipelines.retraining.mlflow_mirror import mirror_registry

    added = mirror_registry(registry, uri, model)
    return Told(f"{place}: {added} versions added", {**data, "num_added": added})


def require_checkpoint(registry: Registry, number: int) -> Version:
    """A version, after a look whether its checkpoint is there; raises UsageError."""
    version = registry.version(number)
    url = version.checkpoint.url
    if read_manifest(Objects.open(url)) is None:
        raise UsageError(
            f"{registry.url}: version {number}: expected a checkpoint at {url}, found none; promote another version"
        )
    return version


def describe_event(registry: Registry, event: Event) -> str:
    """What an event says, in a line for each thing."""
    version = registry.version(event.version)
    lines = [f"version {event.version} {event.happening.value.replace('_', ' ')}: {'; '.join(event.reasons)}"]
    lines += comparison_lines(event)
    champion = version.checkpoint.url if event.champion == event.version else None
    if champion is None and event.champion is not None:
        champion = registry.version(event.champion).checkpoint.url
    return "\n".join([*lines, f"champion: version {event.champion}, {champion}"])


def comparison_lines(event: Event) -> list[str]:
    """The figures that an event was decided by, in percent."""
    if event.comparison is None:
        return []
    rows = [_figure_row(figure) for figure in event.comparison.figures]
    head = ("", "benchmark", "metric", f"version {event.comparison.champion}", f"version {event.version}", "difference")
    return [*table(head, rows), ""]


def _figure_row(figure: Figure) -> tuple[str, ...]:
    scale = shown_scale(figure.metric)
    difference = figure.challenger - figure.champion
    shown = "" if figure.variant == "standard" else f" ({figure.variant})"
    return (
        *(figure.role, figure.benchmark, figure.metric + shown),
        *(f"{scale * figure.champion:.2f}", f"{scale * figure.challenger:.2f}"),
        f"{scale * difference:+.2f} ({scale * figure.low:+.2f} to {scale * figure.high:+.2f})",
    )


def event_json(event: Event) -> dict[str, Json]:
    """An event as plain data."""
    return event.model_dump(mode="json", exclude={"nonce"})
