"""What the templates of a workspace show: plain values, made from records of runs and from manifests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pipelines.lineage.outputs import Kind, Output, Presence, WorkspaceOutputs
from pipelines.quantities import bytes_text, hours_text, seconds_text, usd_text
from pipelines.recorded_runs import log_counts, stage_rows
from storage.keys import Json
from storage.run_records import RecordedRun
from storage.stage_notes import CodeVersion

__all__ = ["LISTED_KINDS", "PAGED", "ShownOutput", "ShownRun", "ShownStage", "outputs_of", "run_of"]

LISTED_KINDS: Mapping[Kind, str] = {
    Kind.CORPUS: "Corpora",
    Kind.STORE: "Feature stores",
    Kind.CHECKPOINT: "Checkpoints",
    Kind.SCORES: "Scores",
    Kind.REPORT: "Reports",
    Kind.BENCHMARK: "Benchmarks",
}
"""Kinds of outputs in the order of the page, with their headings."""

PAGED = (Kind.CORPUS, Kind.STORE, Kind.FEATURES, Kind.SCORES, Kind.REPORT)
"""Kinds that are shown below a workspace; others have their own command."""

_MAX_SCORES, _MAX_WARNINGS = 3, 20
_SLICED_BY = ("family", "task", "split")
"""Fields of a score that are empty where it is of all questions together."""


@dataclass(frozen=True, slots=True)
class ShownOutput:
    """An output in a list."""

    key: str
    url: str
    has_page: bool
    """Whether it is shown below the workspace."""
    has_curves: bool
    """Whether it is a checkpoint that was trained in this workspace."""
    presence: str
    """Empty: it is there."""
    text: str
    """What it holds."""
    time: str
    """How long it took."""
    run: str
    """Id of the newest run that made or found it; empty: none is recorded."""


@dataclass(frozen=True, slots=True)
class ShownStage:
    """A stage of a run."""

    name: str
    state: str
    time: str
    share: float
    """Of the longest stage's time."""
    key: str
    url: str
    has_page: bool
    has_curves: bool


@dataclass(frozen=True, slots=True)
class ShownRun:
    """A run, in a list or whole."""

    run: str
    url: str
    state: str
    begun: str
    heard_of: str
    time: str
    num_stages: str
    price: str
    error: str
    lines: tuple[tuple[str, str], ...]
    """(what, figure) pairs."""
    stages: tuple[ShownStage, ...]
    warnings: tuple[tuple[str, int], ...]
    num_more_warnings: int
    recipe: str


def outputs_of(outputs: WorkspaceOutputs) -> dict[str, list[ShownOutput]]:
    """Outputs by heading; those of the newest runs first."""
    found: dict[str, list[ShownOutput]] = {}
    for kind, heading in LISTED_KINDS.items():
        rows = [_output(outputs, output) for output in outputs.of_kind(kind)]
        if rows:
            found[heading] = sorted(rows, key=lambda row: _time_of(row.run), reverse=True)
    return found


def _output(outputs: WorkspaceOutputs, output: Output) -> ShownOutput:
    keys = [output.key, *(statement.key for statement in _statements(outputs, output))]
    runs = [path.split("/")[-2] for key in keys for path in outputs.runs.get(key, ())]
    return ShownOutput(
        key=output.key,
        url=outputs.objects(output).url,
        has_page=output.kind in PAGED and output.presence is Presence.PRESENT,
        has_curves=_has_curves(output),
        presence="" if output.presence is Presence.PRESENT else output.presence.value,
        text=_text(outputs, output),
        time="" if output.note is None or output.note.seconds is None else seconds_text(output.note.seconds),
        run=max(runs, key=_time_of, default=""),
    )


def _has_curves(output: Output) -> bool:
    is_present = output.presence is Presence.PRESENT
    return is_present and output.kind is Kind.CHECKPOINT and not output.is_elsewhere


def _text(outputs: WorkspaceOutputs, output: Output) -> str:
    """What an output holds, in words."""
    facts = output.facts
    if output.kind is Kind.CORPUS:
        return f"{_number(facts, 'num_samples')} samples on {_number(facts, 'num_images')} pictures"
    if output.kind is Kind.STORE:
        parts = [outputs.by_key[key] for key in output.inputs.values() if key in outputs.by_key]
        num_images = sum(int(str(part.facts.get("num_images", 0))) for part in parts)
        encoding = str(facts.get("encoding", "")).partition(":")[0]
        return f"{_teacher(outputs, output)}, {num_images:,} images, {encoding}"
    if output.kind is Kind.CHECKPOINT:
        registered = outputs.registered.get(output.key, ())
        steps = f"{_number(facts, 'num_steps')} steps" if "num_steps" in facts else ""
        size = f"{_number(facts, 'num_parameters')} parameters" if "num_parameters" in facts else ""
        return ", ".join(filter(None, (steps, size, *registered)))
    if output.kind is Kind.SCORES:
        rows = cast("Sequence[Mapping[str, Any]]", facts.get("scores", ()))
        whole = [row for row in rows if row["variant"] == "standard" and {*map(row.get, _SLICED_BY)} == {None}]
        return ", ".join(f"{row['benchmark']} {row['metric']} {row['value']:.3f}" for row in whole[:_MAX_SCORES])
    return ""


def _teacher(outputs: WorkspaceOutputs, store: Output) -> str:
    """The kind of a store's teacher, as a statement about a corpus names it."""
    for statement in _statements(outputs, store):
        return str(cast("Mapping[str, Json]", statement.recipe.get("teacher", {})).get("kind", "unknown teacher"))
    return "unknown teacher"


def _statements(outputs: WorkspaceOutputs, store: Output) -> list[Output]:
    """What a store states of corpora, whose runs and notes tell of it; nothing of other outputs."""
    if store.kind is not Kind.STORE:
        return []
    return [output for output in outputs.of_kind(Kind.FEATURES) if output.inputs.get("store") == store.key]


def run_of(run: RecordedRun, outputs: WorkspaceOutputs | None = None) -> ShownRun:
    """A run as it is shown.

    Args:
        run: its record.
        outputs: of its workspace, which tell the pages of its stages; None: for a list, without links.
    """
    costs = cast("Mapping[str, Any]", run.newest.get("costs") or {})
    end = run.end or {}
    stages = stage_rows(run)
    longest_s = max((stage.seconds or 0.0 for stage in stages), default=0.0)
    ran = sum(stage.state == "ran" for stage in stages)
    warnings = log_counts(run)
    known = [] if outputs is None else outputs.by_key.values()
    present = {output.key: output for output in known if output.presence is Presence.PRESENT}
    return ShownRun(
        run=run.run,
        url=run.url,
        state=run.state,
        begun=_moment(run.start.get("time")),
        heard_of=_moment(run.heard_of),
        time=seconds_text(end.get("seconds", costs.get("wall_s"))),
        num_stages="?" if run.end is None else f"{ran} of {len(stages)}",
        price=usd_text(costs.get("usd", {}).get("total")) if costs else "",
        error=_error(end.get("error")),
        lines=tuple(_lines(run, costs)),
        stages=tuple(
            ShownStage(
                name=stage.name,
                state=stage.state,
                time="" if stage.seconds is None else seconds_text(stage.seconds),
                share=(stage.seconds or 0.0) / longest_s if longest_s else 0.0,
                key=stage.key,
                url=stage.url,
                has_page=stage.key in present and present[stage.key].kind in PAGED,
                has_curves=stage.key in present and _has_curves(present[stage.key]),
            )
            for stage in stages
        ),
        warnings=tuple(warnings.most_common(_MAX_WARNINGS)),
        num_more_warnings=max(len(warnings) - _MAX_WARNINGS, 0),
        recipe=json.dumps(run.start.get("recipe", {}), indent=2, ensure_ascii=False),
    )


def _lines(run: RecordedRun, costs: Mapping[str, Any]) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    if run.start.keys() >= {"code", "machine", "versions"}:
        here, packages = run.start["machine"], run.start["versions"]
        lines += [
            ("code", str(CodeVersion(**run.start["code"]))),
            ("driver", f"{here['node']}, {here['processor']}, {here['num_cpus']} CPUs, {here['memory_gib']} GiB"),
            ("versions", f"Python {packages['python']}, Ray {packages['ray']}, torch {packages['torch']}"),
        ]
    if costs:
        requests = costs["requests"]
        held = f"{hours_text(costs['cpu_s'])} CPU hours, {hours_text(costs['accelerator_s'])} accelerator hours"
        moved = f"{bytes_text(costs['read_bytes'])} read, {bytes_text(costs['written_bytes'])} written"
        billed = f"billed requests: {requests['reading']:,} reading, {requests['writing']:,} writing"
        lines += [("held", held), ("storage", f"{moved}; {billed}"), ("price", usd_text(costs["usd"]["total"]))]
    return lines


def _error(error: Mapping[str, Any] | None) -> str:
    return "" if error is None else f"{error['class']}: {error['message']}"


def _moment(time: str | None) -> str:
    """A time of a record to the second."""
    return "unknown" if time is None else f"{time[:19].replace('T', ' ')} UTC"


def _time_of(run: str) -> str:
    """What runs of any name are sorted by."""
    return "-".join(run.rsplit("-", 2)[1:])


def _number(facts: Mapping[str, Json], name: str) -> str:
    return f"{int(str(facts.get(name, 0))):,}"
